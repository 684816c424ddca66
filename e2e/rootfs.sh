#!/usr/bin/env bash
# rootfs.sh PROGRAM DIRECTORY — lays out the root file system of an image: the program, stripped of debug information,
# the shared libraries it is linked to, and the few files that TLS, DNS and user names need. No shell, no packages.
set -euo pipefail
program=$1 root=$2
name=$(basename "$program")
rm -rf "$root"
mkdir -p "$root/etc/ssl/certs"

# Symbols stay: a backtrace from production must be readable.
strip --strip-debug -o "$root/$name" "$program"
chmod 755 "$root/$name"

ldd "$program" | grep -oE '/[^ ]+' | while read -r library; do
  install -D -m 755 "$(realpath "$library")" "$root$library"
done

authorities=/etc/ssl/certs/ca-certificates.crt
if [ -r $authorities ]; then install -m 644 "$(realpath $authorities)" "$root$authorities"; fi
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
printf '%s\n' root:x:0:0::/:/ nonroot:x:65532:65532::/:/ >"$root/etc/passwd"
printf '%s\n' root:x:0: nonroot:x:65532: >"$root/etc/group"
chmod 644 "$root"/etc/{nsswitch.conf,passwd,group}
