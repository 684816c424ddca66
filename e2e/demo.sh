#!/usr/bin/env bash
# demo.sh — `make demo`: builds everything, takes the Kubernetes of KUBECONFIG or starts one on this machine, makes a
# cluster, writes to it, deletes the pod that leads, scales, and leaves all of it up. May be run again and again.
set -euo pipefail
cd "$(dirname "$0")/.."
. e2e/lib.sh
namespace=demo cluster=orders
background=()
# What runs beside this script ends with it; the cluster stays.
end_background() { local job; for job in "${background[@]}"; do kill "$job" 2>/dev/null || true; done; }
trap end_background EXIT
trap 'exit 130' INT TERM

begin=$SECONDS
step() { begin=$SECONDS; printf '\n%s %s\n' "${dim}$(date +%T)${plain}" "${bold}$*${plain}"; }
done_() { printf '         %s %s %s\n' "${green}✓${plain}" "$*" "${dim}$((SECONDS - begin)) s${plain}"; }
note() { printf '           %s\n' "$*"; }
get() { kubectl -n $namespace get sqlitecluster $cluster -o jsonpath="$1"; }
condition() { get "{.status.conditions[?(@.type==\"$1\")].status}"; }
leader() { get '{.status.leader.member}'; }

# await_voters N — says what changes until N voters are in service and nothing is under way.
await_voters() {
  local wanted=$1 limit=$((SECONDS + 180)) seen='' now
  while :; do
    now="$(get '{.status.readyVoters}') of $wanted voters, leader $(leader || true)"
    [ "$now" = "$seen" ] || note "$now"
    seen=$now
    [ "$(get '{.status.readyVoters} {.status.voters}')" != "$wanted $wanted" ] ||
      [ "$(condition Ready)" != True ] || [ "$(condition Reconciling)" = True ] ||
      [ "$(get '{.metadata.generation}')" != "$(get '{.status.observedGeneration}')" ] || return 0
    [ "$(condition Stalled)" != True ] || die "$(get '{.status.conditions[?(@.type=="Stalled")].message}')"
    ((SECONDS < limit)) || die "not ready after 3 minutes: kubectl -n $namespace describe sqlitecluster $cluster"
    sleep 0.5
  done
}

# told KEY — what applications are told.
told() { kubectl -n $namespace get secret $cluster-app -o go-template="{{with index .data \"$1\"}}{{.}}{{end}}" | base64 -d; }

# sql PATH [DATA] — a request through the Service, as an application would send it.
sql() {
  local password uri
  password=$(told password) uri=$(told uri)
  told ca.crt >"$LOG_DIR/demo-ca.crt"
  # Not as an argument: every user of the machine reads those.
  curl -sS --fail-with-body --config <(printf 'user = "app:%s"\n' "$password") --cacert "$LOG_DIR/demo-ca.crt" \
    ${2:+-H 'Content-Type: application/json' -d "$2"} "${uri%%:*}://127.0.0.1:$port$1"
}

step "Building sqlited and sqlite-operator (minutes the first time)"
[ -n "${KUBECONFIG:-}" ] || packages jq curl
for tool in jq curl; do command -v $tool >/dev/null || die "$tool is missing"; done
toolchain
quietly demo-build cargo build --profile ci --workspace --bins
done_ "built"

step "Kubernetes"
choose_kubernetes
[ -z "${started_kubernetes:-}" ] || touch "$TARGET/demo-started-kubernetes"
done_ "$(kubectl get nodes --no-headers | wc -l) nodes, context $(kubectl config current-context)"

step "Images and operator"
provide_images ci | while read -r line; do note "$line"; done
# shellcheck disable=SC1091
. "$TARGET/images/ci.env"
# The end-to-end tests have an operator of their own, which may come and go beside this one.
quietly demo-operator install_operator sqlite-operator --set clusterSelector='!sqlite-operator.io/e2e'
done_ "operator is running in namespace sqlite-operator"

step "A cluster: kubectl apply -f examples/orders.yaml"
kubectl create namespace $namespace --dry-run=client -o yaml | kubectl apply -f - >/dev/null
kubectl -n $namespace apply -f examples/orders.yaml >/dev/null
await_voters "$(get '{.spec.voters}')"
done_ "$cluster is Ready, $(leader) leads"

step "Writing and reading through Service $cluster-rw"
# The log is there before the reader looks: the process beside may be slow to make it.
: >"$LOG_DIR/demo-port-forward.log"
kubectl -n $namespace port-forward "service/$cluster-rw" :4001 >"$LOG_DIR/demo-port-forward.log" 2>&1 &
background+=($!)
for _ in $(seq 50); do
  port=$(sed -n 's/^Forwarding from 127.0.0.1:\([0-9]*\).*/\1/p' "$LOG_DIR/demo-port-forward.log" | head -1)
  [ -z "$port" ] || break
  sleep 0.1
done
[ -n "$port" ] || die "$(cat "$LOG_DIR/demo-port-forward.log")"
sql /db/execute '["CREATE TABLE IF NOT EXISTS demo (id INTEGER PRIMARY KEY, item TEXT, at TEXT)"]' >/dev/null
note "INSERT $(sql /db/execute '[["INSERT INTO demo (item, at) VALUES (?, datetime())", "a lamp"]]')"
note "SELECT $(sql '/db/query?level=linearizable&associative&q=SELECT+*+FROM+demo+ORDER+BY+id+DESC+LIMIT+1')"
done_ "written, replicated, read back"

step "Deleting the leader's pod under 100 writes a second"
victim=$(leader)
# What it says on the way is sent first, while standard output is still the terminal: it belongs there, not in the file.
"$TARGET/ci/ledger" --cluster $namespace/$cluster --rate 100 --seconds 10 --json \
  2> >(while read -r line; do note "$line"; done) >"$LOG_DIR/demo-ledger.json" &
ledger=$!
background+=("$ledger")
sleep 3
note "kubectl delete pod $victim"
kubectl -n $namespace delete pod "$victim" --wait=false >/dev/null
wait "$ledger" || true
field() { jq -r "$1" "$LOG_DIR/demo-ledger.json"; }
[ -s "$LOG_DIR/demo-ledger.json" ] || die "the writer failed"
await_voters "$(get '{.spec.voters}')"
note "$(field '"\(.acknowledged) of \(.writes) writes acknowledged, \(.failed + .unknown) not"')"
note "longest pause between two acknowledgements: ${bold}$(field '.longest_gap.length_ms / 1000') s${plain}"
[ "$(field '.lost | length')" = 0 ] || die "$(field '.lost | length') acknowledged writes are missing"
done_ "no acknowledged write is missing; $(leader) leads"

for voters in 5 3; do
  step "Scaling to $voters voters"
  kubectl -n $namespace patch sqlitecluster $cluster --type merge -p "{\"spec\": {\"voters\": $voters}}" >/dev/null
  await_voters $voters
  done_ "$voters voters"
done

cat <<TEXT

${bold}It is all still up. What to try next:${plain}
  export KUBECONFIG=$(realpath "$KUBECONFIG") PATH="\$PATH:$(. e2e/kube/lib.sh && echo "$KUBE_BIN")"
  kubectl config set-context --current --namespace $namespace
  kubectl get sqliteclusters,pods -w
  kubectl edit sqlitecluster $cluster
  a query in the console: docs/quickstart.md, "Look at it"
  make -C $ROOT demo-down
TEXT
