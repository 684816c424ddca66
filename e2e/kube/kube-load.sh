#!/usr/bin/env bash
# kube-load.sh IMAGE.tar... — gives images to every running node ("kind load"). Pods must then use imagePullPolicy
# IfNotPresent or Never: there is no registry.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
pids=()
for tar in "$@"; do
  for socket in "$KUBE_RUN"/node*/containerd.sock; do
    ctr -a "$socket" -n k8s.io images import "$tar" >/dev/null & pids+=($!)
  done
done
for pid in "${pids[@]}"; do wait "$pid"; done
