#!/usr/bin/env bash
# node.sh N — one Kubernetes node. kube-up.sh starts it as pid 1 of its own pid, mount, uts, ipc and network namespace,
# so several nodes fit on one machine and killing this process ("kill -9", seen from outside) is a node losing power.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
N=$1 NAME=node$1 IP=$(node_ip "$1") DIR=$KUBE_RUN/node$1
hostname "$NAME"

# -- own file systems -------------------------------------------------------
# What containerd, the kubelet and CNI write lies at the usual paths, but in DIR.
# Mounts made later outside reach the node (volumes of class "sized"), never the other way round.
mount --make-rslave /
for d in /var/lib/containerd /var/lib/kubelet /var/lib/cni /var/log/pods /var/log/containers /etc/cni /etc/containerd; do
  mkdir -p "$d" "$DIR$d"
  mount --bind "$DIR$d" "$d"
done
mount -t tmpfs tmpfs /run                     # pod netns, shim sockets, xtables.lock
mkdir -p /run/netns /run/lock
mount --make-rshared /                        # volumes mounted by the kubelet must reach containerd

# The kubelet sets these kernel-wide values; what it reads here tells it that they are set.
fake_sysctl() { echo "$2" >"/run/sysctl-${1//\//-}"; mount --bind "/run/sysctl-${1//\//-}" "/proc/sys/$1"; }
fake_sysctl vm/overcommit_memory 1
fake_sysctl vm/panic_on_oom 0
fake_sysctl kernel/panic 10
fake_sysctl kernel/panic_on_oops 1
fake_sysctl kernel/keys/root_maxkeys 1000000
fake_sysctl kernel/keys/root_maxbytes 25000000

# -- network ----------------------------------------------------------------
# kube-up.sh made eth0, its address and the routes.
sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0
sysctl -qw net.bridge.bridge-nf-call-iptables=1   # replies between two pods of one node must be un-NATed

mkdir -p /etc/cni/net.d
cat >/etc/cni/net.d/10-kube.conflist <<JSON
{"cniVersion": "0.4.0", "name": "kube", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "hairpinMode": true, "ipMasq": false,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$POD_NET.$N.0/24"}]]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
JSON

# -- cgroups: the kubelet wants its root to exist, in v1 in every hierarchy --
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  sed 's/[^ ]*/+&/g' /sys/fs/cgroup/cgroup.controllers >/sys/fs/cgroup/cgroup.subtree_control
  mkdir -p "/sys/fs/cgroup/kube-$NAME"
else
  for c in /sys/fs/cgroup/*/; do
    [ "$c" = /sys/fs/cgroup/unified/ ] || mkdir -p "${c}kube-$NAME"
  done
fi
# As systemd and the kubelet share the processors of a machine: daemons together count as one processor, pods as those
# of the node. Side by side with the pods' group each thread of a daemon would count as much as all pods.
cpu_group "kube-$NAME" $((1024 * $(nproc)))
cpu_group "kube-$NAME-daemons" 1024
echo $$ >"$CPU_GROUPS/kube-$NAME-daemons/cgroup.procs"

# -- configuration ----------------------------------------------------------
cat >/etc/containerd/config.toml <<TOML
version = 2
[grpc]
  address = "$DIR/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "pause:local"
  restrict_oom_score_adj = true   # root may lack CAP_SYS_RESOURCE: no container below our own score
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
TOML
echo "nameserver $DNS_IP" >"$DIR/resolv.conf"   # for pods with dnsPolicy: Default
cat >"$DIR/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $IP
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $PKI/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $PKI/$NAME.crt
tlsPrivateKeyFile: $PKI/$NAME.key
containerRuntimeEndpoint: unix://$DIR/containerd.sock
failCgroupV1: false             # 1.35 and later refuse cgroup v1 otherwise
failSwapOn: false
cgroupDriver: cgroupfs
cgroupRoot: /kube-$NAME              # one tree per node
clusterDomain: cluster.local
clusterDNS: [$DNS_IP]
resolvConf: $DIR/resolv.conf
imageGCHighThresholdPercent: 100  # off: images are side-loaded and cannot be pulled again
evictionHard: {memory.available: 100Mi, nodefs.available: 1Gi, imagefs.available: 1Gi}
YAML
cat >"$DIR/kube-proxy.yaml" <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: ${PROXY_MODE:-nftables}
clientConnection: {kubeconfig: $PKI/kube-proxy.kubeconfig}
clusterCIDR: $CLUSTER_CIDR
bindAddress: $IP
healthzBindAddress: $IP:10256
metricsBindAddress: $IP:10249
nodePortAddresses: [primary]
nftables: {minSyncPeriod: 100ms}   # upstream's 1s saves CPU in big clusters
iptables: {minSyncPeriod: 100ms}
YAML

# -- programs, each started again when it ends ------------------------------
keep() { # keep NAME COMMAND...
  local name=$1; shift
  while :; do
    "$@" >>"$LOGS/$NAME-$name.log" 2>&1 </dev/null || true
    sleep 1
  done
}
import_images() {
  local tar
  for tar in "$KUBE_IMAGES"/*.tar; do
    ctr -a "$DIR/containerd.sock" -n k8s.io images import "$tar" >>"$LOGS/$NAME-import.log" 2>&1
  done
}
rm -f "$DIR/containerd.sock"
keep containerd containerd --config /etc/containerd/config.toml &
wait_for 30 "$NAME containerd" ctr -a "$DIR/containerd.sock" version
import_images
keep kubelet "$KUBE_BIN/kubelet" --config="$DIR/kubelet.yaml" --kubeconfig="$PKI/$NAME.kubeconfig" \
  --hostname-override="$NAME" --node-ip="$IP" \
  --node-labels="topology.kubernetes.io/zone=zone$N,topology.kubernetes.io/region=local" &
keep kube-proxy "$KUBE_BIN/kube-proxy" --config="$DIR/kube-proxy.yaml" --hostname-override="$NAME" &
wait
