#!/usr/bin/env bash
# demo-down.sh — `make demo-down`: removes what `make demo` made: cluster, data, operator, CRDs, and the Kubernetes too if
# the demo started it.
set -euo pipefail
cd "$(dirname "$0")/.."
. e2e/lib.sh
if [ -z "${KUBECONFIG:-}" ]; then
  [ -r e2e/kube/admin.kubeconfig ] || { echo "nothing is up"; exit 0; }
  export KUBECONFIG=$ROOT/e2e/kube/admin.kubeconfig
fi
choose_kubernetes
if [ "$KUBERNETES" = local ] && [ -e "$TARGET/demo-started-kubernetes" ]; then
  rm -f "$TARGET/demo-started-kubernetes"
  e2e/kube/kube-down.sh
  exit
fi
kubectl delete namespace demo --ignore-not-found
helm uninstall sqlite-operator --namespace sqlite-operator --ignore-not-found --wait
kubectl delete namespace sqlite-operator --ignore-not-found
if ! helm list --all-namespaces --filter sqlite-operator --short | grep -q .; then
  kubectl delete --ignore-not-found -f crds/
fi
