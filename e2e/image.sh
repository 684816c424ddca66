#!/usr/bin/env bash
# image.sh PROFILE [version] — makes one image for each program from target/PROFILE, without any container engine, into
# target/images/*.tar, and says their names in target/images/PROFILE.env. They are tagged with a hash of their content: a
# changed program is a changed image, and no cluster ever runs an older one of the same name; with `version`, for users,
# with the version. IMAGE_REGISTRY=host/path names them for a registry.
set -euo pipefail
cd "$(dirname "$0")/.."
profile=$1 tagged=${2:-}
target=$(realpath "${CARGO_TARGET_DIR:-target}")
out=$target/images
from=$target/$profile
mkdir -p "$out"
registry=${IMAGE_REGISTRY:-sqlite-operator}
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -1)

make_image() { # make_image PROGRAM VARIABLE
  local program=$1 root tag tar
  root=$(mktemp -d)
  # shellcheck disable=SC2064
  trap "rm -rf '$root'" EXIT
  e2e/rootfs.sh "$from/$program" "$root/fs"
  tag=$version
  if [ "$tagged" != version ]; then
    tag=$profile-$({ find "$root/fs" -type f -print0 | sort -z | xargs -0 sha256sum; cat e2e/mkimage.py; } |
      sed "s|$root||" | sha256sum | cut -c1-12)
  fi
  tar=$out/$program-$tag.tar
  if [ ! -e "$tar" ] || [ "$tagged" = version ]; then
    find "$out" -name "$program-$profile-*.tar" -delete
    e2e/mkimage.py "$registry/$program:$tag" "$tar" --rootfs "$root/fs" \
      --dir /tmp:1777 --dir /data:0700:65532 --entrypoint "/$program" --user 65532:65532 \
      --label "org.opencontainers.image.title=$program" --label "org.opencontainers.image.version=$version"
  fi
  rm -rf "$root"
  echo "$2=$registry/$program:$tag" >>"$out/$profile.env.new"
  echo "$2_TAR=$tar" >>"$out/$profile.env.new"
  echo "$registry/$program:$tag, $(($(stat -c %s "$tar") / 1048576)) MiB"
}

rm -f "$out/$profile.env.new"
make_image sqlited SQLITED_IMAGE
make_image sqlite-operator OPERATOR_IMAGE
mv "$out/$profile.env.new" "$out/$profile.env"
