#!/usr/bin/env bash
# image-root.sh ROOT BINARY: lays out the file system of an image in the folder ROOT.
#
# The binary as /app, the shared libraries that `ldd` says it needs, the CA roots
# (an HTTPS endpoint is nobody's without them), users, and /tmp. Nothing else: no
# shell, no package manager. The Containerfile copies this folder; image.sh makes
# an archive of it where there is no builder.
set -euo pipefail
root=$1 binary=$2
roots="${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}"
[ -r "$roots" ] || { echo "image-root.sh: $roots is missing: install ca-certificates or set SSL_CERT_FILE" >&2; exit 1; }
rm -rf "$root"
umask 022
mkdir -p "$root"/{etc/ssl/certs,tmp,proc,sys,dev,run}
chmod 1777 "$root/tmp"
cp "$binary" "$root/app"
chmod 755 "$root/app"
needed="$(ldd "$binary" 2>/dev/null || true)"   # ldd fails for a static binary, which needs none
[[ "$needed" != *"not found"* ]] || { echo "image-root.sh: $binary needs libraries that are not here:" >&2; echo "$needed" | grep 'not found' >&2; exit 1; }
{ grep -o '/[^ ]*' <<<"$needed" || true; } | sort -u | while read -r library; do
  mkdir -p "$root${library%/*}"
  cp -L "$library" "$root$library"
  chmod 755 "$root$library"
done
cp -L "$roots" "$root/etc/ssl/certs/ca-certificates.crt"
printf 'root:x:0:0:root:/:/sbin/nologin\nmillrace:x:65532:65532:millrace:/tmp:/sbin/nologin\n' >"$root/etc/passwd"
printf 'root:x:0:\nmillrace:x:65532:\n' >"$root/etc/group"
printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"
