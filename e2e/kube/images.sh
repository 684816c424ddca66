#!/usr/bin/env bash
# images.sh — makes the images that every node gets: pause, coredns, busybox, and an S3 server for tests.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
make=$KUBE_SRC/../mkimage.py
mkdir -p "$KUBE_IMAGES"

gcc -static -Os -s -o "$KUBE_BIN/pause" "$KUBE_SRC/pause.c"
"$make" pause:local "$KUBE_IMAGES/pause.tar" --copy "$KUBE_BIN/pause:/pause" --entrypoint /pause
"$make" coredns:local "$KUBE_IMAGES/coredns.tar" \
  --copy "$KUBE_BIN/coredns:/coredns" --entrypoint /coredns

"$make" versitygw:local "$KUBE_IMAGES/versitygw.tar" \
  --copy "$KUBE_BIN/versitygw:/versitygw" --dir /data:0777 --dir /tmp:1777 --entrypoint /versitygw

links=()
for applet in $(busybox --list); do
  [ "$applet" = busybox ] || links+=(--link "busybox:/bin/$applet")
done
"$make" busybox:local "$KUBE_IMAGES/busybox.tar" \
  --copy "$(command -v busybox):/bin/busybox" "${links[@]}" --dir /tmp:1777 --cmd sh
