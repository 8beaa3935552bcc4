#!/usr/bin/env bash
# server.sh versitygw|minio   Makes an S3 server for the tests, once, and prints its path.
#
# The server is built from its Go module in a module of its own, into
# ${XDG_CACHE_HOME:-$HOME/.cache}/millrace/s3/bin. versitygw takes minutes, MinIO some more.
# Any number may ask at a time: one builds, the others wait.
set -euo pipefail

kind=${1:-versitygw}
case $kind in
versitygw)
    module=github.com/versity/versitygw
    package=$module/cmd/versitygw
    version=v1.8.0
    ;;
minio)
    module=github.com/minio/minio
    package=$module
    version=v0.0.0-20260212201848-7aac2a2c5b7c
    ;;
*)
    echo "server.sh: no server is called $kind: versitygw or minio" >&2
    exit 2
    ;;
esac

cache="${XDG_CACHE_HOME:-$HOME/.cache}/millrace/s3"
program="$cache/bin/$kind-$version"
if [ ! -x "$program" ]; then
    PATH="$PATH:/usr/local/go/bin"
    if ! command -v go >/dev/null; then
        echo "server.sh: the S3 tests run against $kind, which is built with Go:" \
            "install Go 1.24 or newer (https://go.dev/dl)" >&2
        exit 1
    fi
    build="$cache/build/$kind-$version"
    mkdir -p "$cache/bin" "$build"
    exec 9>"$cache/build/$kind.lock"
    flock 9
    if [ ! -x "$program" ]; then
        echo "server.sh: building $kind $version; this takes minutes, once" >&2
        cd "$build"
        [ -f go.mod ] || go mod init millrace.invalid/lab >&2
        go get "$package@$version" >&2
        # Renamed at the end: whoever sees it sees it whole.
        CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$program.new" "$package" >&2
        mv "$program.new" "$program"
    fi
fi
echo "$program"
