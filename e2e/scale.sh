#!/usr/bin/env bash
# scale.sh [CLUSTERS] — `make scale`: how much one operator can look after. An API server of its own on loopback, with nodes
# and pods that kwok plays and members that `scale` plays (e2e/src/scale); what was found becomes a section of
# docs/measurements.md. It needs no root, and shares nothing with the Kubernetes of kube/ but its programs. Everything ends
# with it. KEEP_LOGS=1 keeps what was written; SCALE_ARGS="--rest-seconds 900 …" changes the measurement.
set -euo pipefail
cd "$(dirname "$0")/.."
. e2e/lib.sh
clusters=${1:-1000}

# As that of kube/, but another place, other ports, and no network.
KUBE_BIN=$(. e2e/kube/lib.sh && echo "$KUBE_BIN")
KUBE_STATE=$(mktemp -d "${TMPDIR:-/tmp}/sqlite-operator-scale.XXXXXX")
# shellcheck disable=SC2031 # what the line above reads in a shell of its own stays there
export KUBE_STATE NODE_NET=127.0.0 SVC_NET=10.97 API_PORT=${API_PORT:-16443} ETCD_PORT=${ETCD_PORT:-22379} NODES=0
# shellcheck source=e2e/kube/lib.sh
BIN=$KUBE_BIN; . e2e/kube/lib.sh; KUBE_BIN=$BIN
METRICS_PORT=${METRICS_PORT:-18080}

pids=()
# shellcheck disable=SC2317 # the trap calls it
finish() {
  local status=$? pid
  trap - EXIT INT TERM
  # What was started last ends first: nobody waits for what is gone.
  for pid in "${pids[@]}"; do
    kill "$pid" 2>/dev/null || continue
    for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -9 "$pid" 2>/dev/null || true
  done
  if [ "${KEEP_LOGS:-}" = 1 ]; then echo "kept: $KUBE_STATE"; else rm -rf "$KUBE_STATE"; fi
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

toolchain
command -v jq >/dev/null || packages jq
# PROGRAMS: a directory with programs that are there already, to compare operators.
if [ -z "${PROGRAMS:-}" ]; then
  cargo build --release --workspace --bin sqlite-operator --bin scale
  PROGRAMS=$TARGET/release
fi
env -u KUBE_STATE e2e/kube/build.sh kube helm kwok

mkdir -p "$KUBE_RUN" "$LOGS"
umask 077
e2e/kube/pki.sh
export KUBECONFIG=$PKI/admin.kubeconfig
kubectl=$KUBE_BIN/kubectl

# begin NAME COMMAND... — started in a group of its own, so that Ctrl-C is for this script, which ends it.
begin() {
  local name=$1; shift
  setsid "$@" >>"$LOGS/$name.log" 2>&1 </dev/null &
  pids=($! "${pids[@]}")
}

log "starting an API server in $KUBE_STATE"
begin etcd "$KUBE_BIN/etcd" --data-dir "$KUBE_RUN/etcd" --unsafe-no-fsync --quota-backend-bytes 8589934592 \
  --listen-client-urls "http://127.0.0.1:$ETCD_PORT" --advertise-client-urls "http://127.0.0.1:$ETCD_PORT" \
  --listen-peer-urls "http://127.0.0.1:$((ETCD_PORT + 1))" \
  --initial-advertise-peer-urls "http://127.0.0.1:$((ETCD_PORT + 1))" \
  --initial-cluster "default=http://127.0.0.1:$((ETCD_PORT + 1))"
# Only what the operator asks is written down, and of that only what it is.
cat >"$KUBE_RUN/audit.yaml" <<'YAML'
apiVersion: audit.k8s.io/v1
kind: Policy
rules:
  - level: Metadata
    users: ["system:serviceaccount:sqlite-operator:sqlite-operator"]
    omitStages: [RequestReceived]
  - level: None
YAML
# Nodes are made without a kubelet that would take the taint of new nodes away.
begin kube-apiserver "$KUBE_BIN/kube-apiserver" \
  --etcd-servers="http://127.0.0.1:$ETCD_PORT" \
  --bind-address=127.0.0.1 --advertise-address=127.0.0.1 --secure-port="$API_PORT" \
  --service-cluster-ip-range="$SERVICE_CIDR" --endpoint-reconciler-type=none \
  --client-ca-file="$PKI/ca.crt" --tls-cert-file="$PKI/apiserver.crt" --tls-private-key-file="$PKI/apiserver.key" \
  --service-account-issuer=https://kubernetes.default.svc.cluster.local \
  --service-account-key-file="$PKI/sa.pub" --service-account-signing-key-file="$PKI/sa.key" \
  --authorization-mode=RBAC --disable-admission-plugins=TaintNodesByCondition \
  --audit-policy-file="$KUBE_RUN/audit.yaml" --audit-log-path="$KUBE_RUN/audit.log" --audit-log-maxsize=100000
wait_for 60 "API server" "$kubectl" get --raw /readyz
# Endpoints would be refused: addresses of pods are of the loopback range.
begin kube-controller-manager "$KUBE_BIN/kube-controller-manager" \
  --kubeconfig="$PKI/controller-manager.kubeconfig" --bind-address=127.0.0.1 --secure-port=0 --leader-elect=false \
  --controllers=statefulset-controller,disruption-controller,serviceaccount-controller \
  --concurrent-statefulset-syncs=10 --kube-api-qps=1000 --kube-api-burst=2000 \
  --use-service-account-credentials=true --service-account-private-key-file="$PKI/sa.key" --root-ca-file="$PKI/ca.crt"
cat >"$KUBE_RUN/scheduler.yaml" <<YAML
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
leaderElection: {leaderElect: false}
clientConnection: {kubeconfig: $PKI/scheduler.kubeconfig, qps: 1000, burst: 2000}
YAML
begin kube-scheduler "$KUBE_BIN/kube-scheduler" --config="$KUBE_RUN/scheduler.yaml" --bind-address=127.0.0.1 --secure-port=0
stages=$(cd e2e/kube && go list -m -f '{{.Dir}}' sigs.k8s.io/kwok)/kustomize/stage
begin kwok "$KUBE_BIN/kwok" --kubeconfig="$KUBECONFIG" --cidr=127.64.0.1/16 --manage-all-nodes --node-lease-duration-seconds=0 \
  --server-address= --config="$stages/node/fast/node-initialize.yaml" \
  --config="$stages/pod/fast/pod-ready.yaml" --config="$stages/pod/fast/pod-delete.yaml"

# -- what the operator finds ---------------------------------------------------
nodes=$((clusters / 30 + 6))
for n in $(seq "$nodes"); do
  cat <<YAML
---
apiVersion: v1
kind: Node
metadata:
  name: node$n
  labels: {kubernetes.io/hostname: node$n, kubernetes.io/os: linux, topology.kubernetes.io/zone: zone$((n % 3))}
status:
  allocatable: {cpu: "64", memory: 256Gi, pods: "250"}
  capacity: {cpu: "64", memory: 256Gi, pods: "250"}
YAML
done | "$kubectl" create -f - >/dev/null
"$kubectl" create namespace sqlite-operator >/dev/null
"$kubectl" apply --server-side -f crds >/dev/null
"$KUBE_BIN/helm" template sqlite-operator charts/sqlite-operator --namespace sqlite-operator \
  --show-only templates/rbac.yaml --show-only templates/serviceaccount.yaml | "$kubectl" apply -f - >/dev/null
wait_for 30 "definitions" "$kubectl" wait --for=condition=Established --timeout=1s -f crds
token=$("$kubectl" create token sqlite-operator --namespace sqlite-operator --duration=24h)
cat >"$PKI/operator.kubeconfig" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: scale, cluster: {server: "$API_URL", certificate-authority: $PKI/ca.crt}}]
users: [{name: operator, user: {token: "$token"}}]
contexts: [{name: scale, context: {cluster: scale, user: operator}}]
current-context: scale
YAML

log "measuring with $clusters clusters"
ulimit -n "$(ulimit -Hn)"
status=0
# shellcheck disable=SC2086 # several arguments
setsid --wait "$PROGRAMS/scale" --clusters "$clusters" --operator "$PROGRAMS/sqlite-operator" \
  --operator-kubeconfig "$PKI/operator.kubeconfig" --kubeconfig "$KUBECONFIG" --metrics-port "$METRICS_PORT" \
  --audit "$KUBE_RUN/audit.log" --log "$LOGS/operator.log" --out "$KUBE_RUN/found.md" ${SCALE_ARGS:-} &
pids=($! "${pids[@]}")
wait $! || status=$?
[ -s "$KUBE_RUN/found.md" ] || { tail -n 20 "$LOGS/operator.log" >&2; exit "$status"; }

# What was measured by other commands stays.
page=docs/measurements.md title="## Scale of the operator"
others=$(awk -v title="$title" '/^## /{own = ($0 == title)} !own' "$page")
{
  printf '%s\n\n%s\n' "$others" "$title"
  echo "By \`${SCALE_ARGS:+SCALE_ARGS=\"$SCALE_ARGS\" }make scale${1:+ CLUSTERS=$1}\` at commit $(git rev-parse --short HEAD 2>/dev/null || echo none), $(date -u +%F);" \
    "$(nproc) cores, $(free -g | awk '/^Mem/ {print $2}') GiB, Linux $(uname -r)." \
    "Nodes, pods, volumes and members are played; all of it and the API server share the machine."
  echo
  cat "$KUBE_RUN/found.md"
} >"$KUBE_RUN/page.md"
cp "$KUBE_RUN/page.md" "$page"
echo "written: $page"
exit "$status"
