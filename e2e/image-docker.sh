#!/usr/bin/env bash
# image-docker.sh PROFILE [version] — what image.sh does, on a machine that cannot build Linux programs itself: with
# Docker or podman and the Dockerfile.
set -euo pipefail
cd "$(dirname "$0")/.."
profile=$1 tagged=${2:-}
target=${CARGO_TARGET_DIR:-$PWD/target}
registry=${IMAGE_REGISTRY:-sqlite-operator}
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -1)
engine=''
for candidate in docker podman; do
  if "$candidate" info >/dev/null 2>&1; then engine=$candidate; break; fi
done
[ -n "$engine" ] || { echo "error: building Linux images here needs Docker or podman" >&2; exit 1; }

mkdir -p "$target/images"
rm -f "$target/images/$profile.env"
make_image() { # make_image PROGRAM VARIABLE
  local id tag=$version tar
  id=$("$engine" build --quiet --target "$1" --build-arg "PROFILE=$profile" .)
  [ "$tagged" = version ] || tag=$profile-$(cut -c1-12 <<<"${id#sha256:}")
  tar=$target/images/$1-$tag.tar
  "$engine" tag "$id" "$registry/$1:$tag"
  "$engine" save -o "$tar" "$registry/$1:$tag"
  printf '%s\n' "$2=$registry/$1:$tag" "$2_TAR=$tar" >>"$target/images/$profile.env"
  echo "$registry/$1:$tag"
}
make_image sqlited SQLITED_IMAGE
make_image sqlite-operator OPERATOR_IMAGE
