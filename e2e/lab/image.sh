#!/usr/bin/env bash
# image.sh OUT.tar NAME:TAG BINARY [LINK=TARGET ...]: a container image without a builder.
#
# Writes an OCI archive (`podman load`, `skopeo copy oci-archive:`, `ctr images
# import`) that `docker load` takes too: one compressed layer with what
# image-root.sh lays out, run as user 65532 with /app as its entry point. The same
# input gives the same bytes. Prints the compressed size. GZIP_LEVEL=1 if it need not be small.
set -euo pipefail
out=$1 name=$2 binary=$3
links=("${@:4}")
[[ "$name" =~ ^[a-z0-9.-]+\.[a-z0-9-]+(:[0-9]+)?/.+:[^/:]+$ ]] || { echo "image.sh: $name: write HOST.DOMAIN/NAME:TAG" >&2; exit 1; }
case "$(uname -m)" in x86_64) arch=amd64 ;; aarch64) arch=arm64 ;; *) echo "image.sh: no image for $(uname -m)" >&2; exit 1 ;; esac
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

"$(dirname "$0")/image-root.sh" "$work/root" "$binary"
for link in ${links[@]+"${links[@]}"}; do
  mkdir -p "$(dirname "$work/root/${link%%=*}")"
  ln -s "${link#*=}" "$work/root/${link%%=*}"
done

repeatable=(--sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --format=gnu)
blobs="$work/archive/blobs/sha256"
mkdir -p "$blobs"
digest() { sha256sum "$1" | cut -d' ' -f1; }
# keep FILE: moves FILE among the blobs and prints its digest.
keep() { local d; d=$(digest "$1"); mv "$1" "$blobs/$d"; echo "$d"; }

tar "${repeatable[@]}" -C "$work/root" -cf "$work/layer" .
diff=$(digest "$work/layer")
gzip -n "-${GZIP_LEVEL:-9}" "$work/layer"
layer=$(keep "$work/layer.gz")
size() { stat -c %s "$blobs/$1"; }

cat >"$work/config" <<J
{"architecture":"$arch","os":"linux","config":{"User":"65532:65532","WorkingDir":"/tmp","Env":["PATH=/bin","SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"],"Entrypoint":["/app"]},"rootfs":{"type":"layers","diff_ids":["sha256:$diff"]}}
J
config=$(keep "$work/config")
cat >"$work/manifest" <<J
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:$config","size":$(size "$config")},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:$layer","size":$(size "$layer")}]}
J
manifest=$(keep "$work/manifest")
cat >"$work/archive/index.json" <<J
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:$manifest","size":$(size "$manifest"),"annotations":{"io.containerd.image.name":"$name","org.opencontainers.image.ref.name":"${name##*:}"}}]}
J
echo '{"imageLayoutVersion":"1.0.0"}' >"$work/archive/oci-layout"
cat >"$work/archive/manifest.json" <<J
[{"Config":"blobs/sha256/$config","RepoTags":["$name"],"Layers":["blobs/sha256/$layer"]}]
J
mkdir -p "$(dirname "$out")"
tar "${repeatable[@]}" -C "$work/archive" -cf "$out.part" .
mv "$out.part" "$out"
awk -v n="$name" -v f="$out" -v b="$(size "$layer")" 'BEGIN { printf "%s: %.1f MiB compressed, %s\n", n, b / 1048576, f }' >&2
