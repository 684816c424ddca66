#!/usr/bin/env bash
# kube-node.sh kill|cut|heal|exec N [COMMAND...] — failures of node N, and a look inside.
#   kill   power loss: all its processes end at once (kube-up.sh starts it again)
#   cut    network cable out; heal puts it back
#   exec   runs COMMAND in the node's namespaces
set -euo pipefail
. "$(dirname "$0")/lib.sh"
(($# >= 2)) || die "usage: kube-node.sh kill|cut|heal|exec N [COMMAND...]"
what=$1 n=$2; shift 2
case $what in
kill)
  alive "node$n" || exit 0
  pid=$(pid_of "node$n")
  kill -9 "$pid"
  while alive "node$n"; do sleep 0.05; done   # else kube-up.sh may take it for running
  ;;
cut) ip link set "$BRIDGE-n$n" down ;;
heal) ip link set "$BRIDGE-n$n" up ;;
exec) exec nsenter -t "$(pgrep -P "$(pid_of "node$n")")" -m -n -p -u -i -- "$@" ;;
*) die "unknown: $what" ;;
esac
