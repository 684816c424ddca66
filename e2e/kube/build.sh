#!/usr/bin/env bash
# build.sh [kube|coredns|helm|images|kwok|versitygw|kube-router ...] — builds the programs of the cluster into $KUBE_BIN
# and its images into $KUBE_IMAGES, from Go modules and Debian packages only. One Go module but for kube-router, so that
# they share what they compile. What is built is stamped with a hash of its sources and built again only when that changes.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$KUBE_SRC"
mkdir -p "$KUBE_BIN" "$KUBE_IMAGES"
export CGO_ENABLED=0

# stamp FILE... — hash of the sources and of how they are built.
stamp() { { cat "$@"; echo "$flags"; } | sha256sum | cut -d' ' -f1; }
# once NAME HASH COMMAND... — runs COMMAND unless it was last done for HASH.
once() {
  local name=$1 hash=$2 began=$SECONDS; shift 2
  [ "$(cat "$KUBE_BIN/.$name.stamp" 2>/dev/null)" != "$hash" ] || return 0
  log "building $name"
  "$@"
  echo "$hash" >"$KUBE_BIN/.$name.stamp"
  log "built $name in $((SECONDS - began)) s"
}

flags="-trimpath -tags grpcnotrace"
compile() { # compile NAME PACKAGE [LDFLAGS]
  command -v go >/dev/null || die "Go is missing (go.mod names the version)"
  # shellcheck disable=SC2086
  go build $flags -ldflags "-s -w ${3:-}" -o "$KUBE_BIN/.$1.new" "$2" 2>"$KUBE_BIN/.$1.log" ||
    { tail -30 "$KUBE_BIN/.$1.log" >&2; die "go build $2"; }
  mv "$KUBE_BIN/.$1.new" "$KUBE_BIN/$1"   # the old one may be running
}
version() { go list -m -f '{{.Version}}' "$1"; }

compile_kube() {
  local v x="" major minor p
  v=$(version k8s.io/kubernetes)
  IFS=. read -r major minor _ <<<"${v#v}"
  # Without these, the version is v0.0.0-master+$Format, which clients cannot parse.
  for p in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    x+=" -X $p.gitVersion=$v -X $p.gitMajor=$major -X $p.gitMinor=$minor -X $p.gitTreeState=clean"
  done
  compile kube ./cmd/kube "$x"
  for p in etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl kube-volumes; do
    ln -sfn kube "$KUBE_BIN/$p"
  done
}
compile_helm() {
  compile helm helm.sh/helm/v4/cmd/helm "-X helm.sh/helm/v4/internal/version.version=$(version helm.sh/helm/v4)"
}

build_kube() { once kube "$(stamp go.mod go.sum cmd/kube/*.go)" compile_kube; }
build_coredns() { once coredns "$(stamp go.mod go.sum cmd/coredns/*.go)" compile coredns ./cmd/coredns; }
build_helm() { once helm "$(stamp go.mod go.sum)" compile_helm; }
build_kwok() { once kwok "$(stamp go.mod go.sum)" compile kwok sigs.k8s.io/kwok/cmd/kwok; }
build_versitygw() {
  once versitygw "$(stamp go.mod go.sum)" compile versitygw github.com/versity/versitygw/cmd/versitygw
}
# Of a module of its own: what it needs is older than Kubernetes.
compile_kube_router() {
  (cd policy && compile kube-router github.com/cloudnativelabs/kube-router/v2/cmd/kube-router)
}
build_kube-router() { once kube-router "$(stamp policy/go.mod policy/go.sum)" compile_kube_router; }
build_images() {
  once images "$(stamp images.sh pause.c ../mkimage.py "$KUBE_BIN"/.{coredns,versitygw}.stamp)" ./images.sh
}

(($#)) || set -- kube coredns helm versitygw images
for what in "$@"; do "build_$what"; done
