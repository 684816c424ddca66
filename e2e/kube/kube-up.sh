#!/usr/bin/env bash
# kube-up.sh — starts a Kubernetes on this machine, or starts again what of it does not run. Installs and builds what
# that needs. Ends when all nodes are Ready and the cluster DNS answers. NODES=5 for more than three nodes.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
[ "$(uname -s)" = Linux ] || die "the local Kubernetes needs Linux; set KUBECONFIG to use another (kind, k3d, …)"
[ "$(id -u)" = 0 ] || die "the local Kubernetes needs root; set KUBECONFIG to use another (kind, k3d, …)"
alone
need containerd runc containernetworking-plugins iptables nftables conntrack iproute2 kmod procps openssl \
  busybox-static gcc libc6-dev python3 util-linux xfsprogs
mkdir -p "$KUBE_RUN" "$LOGS"
if alive etcd && [ "$(owner)" != "$KUBE_SRC" ]; then
  log "the Kubernetes that $(owner) started is used as it is"
else
  "$KUBE_SRC/build.sh"
fi
# As many nodes as it has, unless more are asked for.
had=$(cat "$KUBE_RUN/nodes" 2>/dev/null || echo 3)
NODES=${NODES:-$had}
((NODES >= had)) || NODES=$had
echo "$NODES" >"$KUBE_RUN/nodes"
alive etcd || echo "$KUBE_SRC" >"$KUBE_RUN/owner"
export NODES KUBE_STATE KUBECONFIG=$PKI/admin.kubeconfig
kubectl=$KUBE_BIN/kubectl
"$KUBE_SRC/pki.sh"

# -- network ------------------------------------------------------------------
modprobe -a overlay br_netfilter nf_tables loop 2>/dev/null || true   # built in, or loaded, or node.sh says what lacks
if ! ip link show "$BRIDGE" >/dev/null 2>&1; then
  ip link add "$BRIDGE" type bridge
  ip addr add "$HOST_IP/24" dev "$BRIDGE"
  ip link set "$BRIDGE" up
fi
# Whatever has no better route stops here instead of leaving by the default route.
ip route replace unreachable "$CLUSTER_CIDR" metric 9999
ip route replace unreachable "$SERVICE_CIDR" metric 9999
for n in $(seq "$NODES"); do
  ns=kube-node$n
  if [ ! -e "/run/netns/$ns" ]; then
    ip netns add "$ns"
    ip link add "$BRIDGE-n$n" type veth peer name eth0 netns "$ns"
    ip link set "$BRIDGE-n$n" master "$BRIDGE" up
    ip -n "$ns" link set lo up
    ip -n "$ns" addr add "$(node_ip "$n")/24" dev eth0
    ip -n "$ns" link set eth0 up
  fi
  # A node has no default route: nothing leaves this machine. kube-proxy rewrites the destination after the route
  # look-up of what the node itself sends to a service, so that look-up has to find something.
  ip -n "$ns" route replace "$SERVICE_CIDR" via "$HOST_IP"
  ip route replace "$POD_NET.$n.0/24" via "$(node_ip "$n")"       # this host to pods
done
for n in $(seq "$NODES"); do
  for m in $(seq "$NODES"); do
    [ "$m" = "$n" ] || ip -n "kube-node$n" route replace "$POD_NET.$m.0/24" via "$(node_ip "$m")"
  done
done
ip route replace "$SERVICE_CIDR" via "$(node_ip 1)"               # … and to services, by node1's kube-proxy

# -- control plane ------------------------------------------------------------
# Elsewhere it has machines of its own; here it is the last to get a processor that somebody else wants.
cpu_group kube-control-plane 256
# shellcheck disable=SC2016 # the inner shell expands them
beneath=(sh -c 'echo $$ >"$0" && exec "$@"' "$CPU_GROUPS/kube-control-plane/cgroup.procs")
log "starting Kubernetes"
daemon etcd "${beneath[@]}" "$KUBE_BIN/etcd" --data-dir "$KUBE_RUN/etcd" --unsafe-no-fsync \
  --listen-client-urls "http://127.0.0.1:$ETCD_PORT" --advertise-client-urls "http://127.0.0.1:$ETCD_PORT" \
  --listen-peer-urls "http://127.0.0.1:$((ETCD_PORT + 1))" \
  --initial-advertise-peer-urls "http://127.0.0.1:$((ETCD_PORT + 1))" \
  --initial-cluster "default=http://127.0.0.1:$((ETCD_PORT + 1))"
daemon kube-apiserver "${beneath[@]}" "$KUBE_BIN/kube-apiserver" \
  --etcd-servers="http://127.0.0.1:$ETCD_PORT" \
  --bind-address="$HOST_IP" --advertise-address="$HOST_IP" --secure-port="$API_PORT" \
  --service-cluster-ip-range="$SERVICE_CIDR" \
  --client-ca-file="$PKI/ca.crt" --tls-cert-file="$PKI/apiserver.crt" --tls-private-key-file="$PKI/apiserver.key" \
  --kubelet-client-certificate="$PKI/apiserver-kubelet-client.crt" \
  --kubelet-client-key="$PKI/apiserver-kubelet-client.key" --kubelet-certificate-authority="$PKI/ca.crt" \
  --kubelet-preferred-address-types=InternalIP \
  --service-account-issuer=https://kubernetes.default.svc.cluster.local \
  --service-account-key-file="$PKI/sa.pub" --service-account-signing-key-file="$PKI/sa.key" \
  --requestheader-client-ca-file="$PKI/front-proxy-ca.crt" --requestheader-allowed-names=front-proxy-client \
  --requestheader-extra-headers-prefix=X-Remote-Extra- --requestheader-group-headers=X-Remote-Group \
  --requestheader-username-headers=X-Remote-User \
  --proxy-client-cert-file="$PKI/front-proxy-client.crt" --proxy-client-key-file="$PKI/front-proxy-client.key" \
  --enable-aggregator-routing=true \
  --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true \
  --default-not-ready-toleration-seconds="$EVICT_AFTER" --default-unreachable-toleration-seconds="$EVICT_AFTER"

# Nodes start while the API server does. They run a copy of the scripts: the checkout may go or change meanwhile.
install -m 755 "$KUBE_SRC/node.sh" "$KUBE_SRC/lib.sh" "$KUBE_RUN/"
mkdir -p "$KUBE_RUN/volumes"
if ! mountpoint -q "$KUBE_RUN/volumes"; then   # what is mounted below it later shall appear in the nodes
  mount --bind "$KUBE_RUN/volumes" "$KUBE_RUN/volumes"
  mount --make-shared "$KUBE_RUN/volumes"
fi
for n in $(seq "$NODES"); do
  mkdir -p "$KUBE_RUN/node$n"
  daemon "node$n" nsenter --net="/run/netns/kube-node$n" -- \
    unshare --mount --uts --ipc --pid --fork --kill-child --mount-proc --propagation slave "$KUBE_RUN/node.sh" "$n"
done

wait_for 60 "API server" "$kubectl" get --raw /readyz
daemon kube-controller-manager "${beneath[@]}" "$KUBE_BIN/kube-controller-manager" \
  --kubeconfig="$PKI/controller-manager.kubeconfig" --bind-address=127.0.0.1 --leader-elect=false \
  --kube-api-qps=200 --kube-api-burst=400 \
  --use-service-account-credentials=true --service-account-private-key-file="$PKI/sa.key" \
  --root-ca-file="$PKI/ca.crt" --cluster-signing-cert-file="$PKI/ca.crt" --cluster-signing-key-file="$PKI/ca.key" \
  --node-monitor-period=2s --node-monitor-grace-period="$NODE_GRACE"
daemon kube-scheduler "${beneath[@]}" "$KUBE_BIN/kube-scheduler" \
  --kubeconfig="$PKI/scheduler.kubeconfig" --bind-address=127.0.0.1 --leader-elect=false
daemon kube-volumes "$KUBE_BIN/kube-volumes" --kubeconfig="$PKI/admin.kubeconfig" --dir="$KUBE_RUN/volumes"

# -- add-ons ------------------------------------------------------------------
cat "$KUBE_SRC"/addons/*.yaml | sed "s/@DNS_IP@/$DNS_IP/g" >"$KUBE_RUN/addons.yaml"
wait_for 30 "add-ons" "$kubectl" apply --server-side --force-conflicts -f "$KUBE_RUN/addons.yaml"
# Ready, and said so since it was started: of an earlier run, "Ready" is old news.
all_ready() {
  local n said
  for n in $(seq "$NODES"); do
    said=$($kubectl get node "node$n" \
      -o jsonpath='{range .status.conditions[?(@.type=="Ready")]}{.status} {.lastHeartbeatTime}{end}')
    [[ $said == "True "* ]] && [[ ! ${said#True } < $(date -u -r "$KUBE_RUN/node$n.pid" +%FT%T) ]] || return 1
  done
}
wait_for 90 "nodes" all_ready
$kubectl -n kube-system rollout status deployment/coredns --timeout=90s >/dev/null
wait_for 10 "service $DNS_IP" timeout 1 bash -c "</dev/tcp/$DNS_IP/53"   # kube-proxy knows it too
install -m 600 "$PKI/admin.kubeconfig" "$KUBE_CONFIG_OUT"
for tool in kubectl helm; do
  command -v $tool >/dev/null || ln -s "$KUBE_BIN/$tool" /usr/local/bin/$tool
done
log "Kubernetes is up, $NODES nodes: export KUBECONFIG=$KUBE_CONFIG_OUT"
