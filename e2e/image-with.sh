#!/usr/bin/env bash
# image-with.sh DIRECTORY TAG — makes an image of members that has DIRECTORY as /extensions, beside that of test.sh, and
# gives it to the Kubernetes of KUBECONFIG. Prints its name.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
directory=$(realpath "$1") tag=$2
choose_kubernetes >&2
# shellcheck disable=SC1091
. "$TARGET/images/ci.env"
image=${SQLITED_IMAGE%:*}:$tag
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$ROOT/e2e/rootfs.sh" "$TARGET/ci/sqlited" "$work/fs"
"$ROOT/e2e/mkimage.py" "$image" "$work/image.tar" --rootfs "$work/fs" --copy "$directory:/extensions" \
  --dir /tmp:1777 --dir /data:0700:65532 --entrypoint /sqlited --user 65532:65532
give_image "$work/image.tar" "$image" >&2
echo "$image"
