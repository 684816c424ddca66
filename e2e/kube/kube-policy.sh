#!/usr/bin/env bash
# kube-policy.sh start|stop — NetworkPolicies are kept on every node, by kube-router, or no longer are. Without it they are
# objects that nobody looks at. It is built when it is first started, in a minute or two: only one proof needs it.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
what=${1:-} program=$KUBE_BIN/kube-router
[ -f "$KUBE_RUN/nodes" ] || die "there is no Kubernetes: kube-up.sh starts it"
mapfile -t nodes < <(seq "$(cat "$KUBE_RUN/nodes")")

# on N COMMAND... — in the network, the file systems and the processes of node N.
on() { "$KUBE_SRC/kube-node.sh" exec "$@"; }
# Chains that it makes have its name in theirs; without them the policies of other programs are as before.
is_kept() { on "$1" iptables -S FORWARD | grep -q KUBE-ROUTER; }

case $what in
start)
  need ipset iptables
  "$KUBE_SRC/build.sh" kube-router
  for n in "${nodes[@]}"; do
    # shellcheck disable=SC2016 # the node's shell expands it
    daemon "node$n-policy" "$KUBE_SRC/kube-node.sh" exec "$n" sh -c 'echo $$ >/run/kube-router.pid && exec "$0" "$@"' \
      "$program" --run-firewall=true --run-router=false --run-service-proxy=false --kubeconfig="$PKI/admin.kubeconfig" \
      --hostname-override="node$n" --service-cluster-ip-range="$SERVICE_CIDR" --health-port=0 --metrics-port=0
  done
  for n in "${nodes[@]}"; do wait_for 60 "node$n's policies" is_kept "$n"; done
  ;;
stop)
  for n in "${nodes[@]}"; do
    if alive "node$n-policy"; then
      # shellcheck disable=SC2016 # the node's shell expands it
      on "$n" sh -c 'kill "$(cat /run/kube-router.pid)"'
      while alive "node$n-policy"; do sleep 0.05; done
    fi
    # Its own --cleanup-config wants to clean up what was never turned on, and dies of it.
    # shellcheck disable=SC2016 # the node's shell expands it
    on "$n" sh -ec 'iptables-save -t filter | grep -vE "KUBE-(ROUTER|POD-FW|NWPLCY)" | iptables-restore -T filter
      for set in $(ipset list -n | grep -E "^(KUBE|kube-router)"); do ipset destroy "$set"; done'
  done
  ;;
*) die "usage: kube-policy.sh start|stop" ;;
esac
