#!/usr/bin/env bash
# kube-env.sh — prints what a shell needs to use the local Kubernetes: eval "$(make --silent kube-env)".
set -euo pipefail
. "$(dirname "$0")/lib.sh"
[ -r "$KUBE_CONFIG_OUT" ] || die "there is no local Kubernetes: make kube-up"
# The machine's own kubectl and helm come first.
# shellcheck disable=SC2016 # PATH is that of the shell which evaluates this
printf 'export KUBECONFIG=%q PATH="$PATH":%q\n' "$(realpath "$KUBE_CONFIG_OUT")" "$KUBE_BIN"
