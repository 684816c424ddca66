#!/usr/bin/env bash
# kube-down.sh [--keep] — ends the cluster and removes what it left: processes (those that kube-up.sh noted),
# namespaces, network, cgroups and, without --keep, its state: etcd, keys, images, volumes. The built programs stay.
# A running cluster that another checkout started is ended only with FORCE=1.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
[ -d "$KUBE_RUN" ] || { log "there is no local Kubernetes"; rm -f "$KUBE_CONFIG_OUT"; exit 0; }
[ "$(id -u)" = 0 ] || die "the local Kubernetes needs root"
owner=$(owner)
! alive etcd || [ "$owner" = "$KUBE_SRC" ] || [ ! -d "$owner" ] || [ "${FORCE:-}" = 1 ] ||
  die "this Kubernetes was started from $owner; end it there, or with FORCE=1"
alone

# "nodeN" is the process "unshare": its death kills pid 1 of the node (--kill-child), and that everything in it.
names=(kube-volumes kube-scheduler kube-controller-manager kube-apiserver etcd)
for file in "$KUBE_RUN"/node*.pid; do
  [ -e "$file" ] && names=("$(basename "$file" .pid)" "${names[@]}")
done
for name in "${names[@]}"; do
  if alive "$name"; then kill -9 "$(pid_of "$name")" 2>/dev/null || true; fi
done
for name in "${names[@]}"; do
  for _ in $(seq 100); do alive "$name" || break; sleep 0.1; done
  rm -f "$KUBE_RUN/$name.pid"
done

for ns in /run/netns/kube-node*; do
  if [ -e "$ns" ]; then ip netns del "$(basename "$ns")"; fi
done
# A namespace without a name lives on while the kernel still tries to deliver what sockets of dead processes had to send,
# and with it its end of the cable.
for link in /sys/class/net/"$BRIDGE"-n*; do
  if [ -e "$link" ]; then ip link del "$(basename "$link")" 2>/dev/null || true; fi
done
ip link del "$BRIDGE" 2>/dev/null || true
ip route del unreachable "$CLUSTER_CIDR" metric 9999 2>/dev/null || true
ip route del unreachable "$SERVICE_CIDR" metric 9999 2>/dev/null || true

cgroups() { find /sys/fs/cgroup -maxdepth 2 -type d \( -name 'kube-node[0-9]*' -o -name kube-control-plane \); }
for _ in 1 2 3 4 5; do # a cgroup goes once its last process is reaped
  cgroups | xargs -r -I% find % -depth -type d -exec rmdir {} + 2>/dev/null || true
  [ -n "$(cgroups)" ] || break
  sleep 0.5
done
# Volumes of class "sized" are mounted files.
for mount in "$KUBE_RUN"/volumes/*/ "$KUBE_RUN/volumes"; do
  if mountpoint -q "$mount" 2>/dev/null; then umount -l "$mount"; fi
done
rm -f "$KUBE_CONFIG_OUT" "$KUBE_RUN/owner"
[ "${1:-}" = --keep ] || rm -rf "$KUBE_RUN"
log "the local Kubernetes is down"
