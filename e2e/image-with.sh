#!/usr/bin/env bash
# image-with.sh TAG [DIRECTORY] — makes an image of members beside that of test.sh, with DIRECTORY as /extensions, and gives
# it to the Kubernetes of KUBECONFIG. Prints its name.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
tag=$1 copy=()
[ $# -lt 2 ] || copy=(--copy "$(realpath "$2"):/extensions")
choose_kubernetes >&2
# shellcheck disable=SC1090
. "$TARGET/images/$E2E_PROFILE.env"
image=${SQLITED_IMAGE%:*}:$tag
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$ROOT/e2e/rootfs.sh" "$TARGET/$E2E_PROFILE/sqlited" "$work/fs"
"$ROOT/e2e/mkimage.py" "$image" "$work/image.tar" --rootfs "$work/fs" "${copy[@]}" \
  --dir /tmp:1777 --dir /data:0700:65532 --entrypoint /sqlited --user 65532:65532
give_image "$work/image.tar" "$image" >&2
echo "$image"
