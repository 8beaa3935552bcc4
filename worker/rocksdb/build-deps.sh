#!/usr/bin/env bash
# Makes what building this crate needs beside Rust, once per machine, and prints the
# directory in which RocksDB lies as a static library, for ROCKSDB_LIB_DIR (with
# ROCKSDB_STATIC=1): so each target directory and profile links one build of it.
#
# - libclang, from which the bindings to RocksDB are made, and a C++ compiler: installs
#   what is missing where it may; else says what to install.
# - RocksDB itself, from the sources that Cargo.lock names: a quarter of an hour of two
#   cores. One that is there already is used if ROCKSDB_LIB_DIR names its directory.
set -euo pipefail
cd "$(dirname "$0")/../.."

# Not libclang-cpp, which other packages bring: bindings are made with the C interface.
has_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] && return 0
    ldconfig -p 2>/dev/null | grep -q 'libclang\(-[0-9.]*\)\?\.so' && return 0
    local dir
    for dir in /usr/lib/llvm-*/lib /usr/lib /usr/lib64 "$(llvm-config --libdir 2>/dev/null)"; do
        compgen -G "$dir/libclang.so*" >/dev/null && return 0
        compgen -G "$dir/libclang-[0-9]*.so*" >/dev/null && return 0
        compgen -G "$dir/libclang.dylib" >/dev/null && return 0
    done
    return 1
}

install_missing() {
    if command -v apt-get >/dev/null && [ "$(id -u)" -eq 0 ]; then
        apt-get update -q >&2
        DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$@" >&2
        return
    fi
    cat >&2 <<EOF
The RocksDB tier cannot be built: $* missing. Install it:
  Debian, Ubuntu:  sudo apt-get install $*
  Fedora:          sudo dnf install clang-devel gcc-c++
  macOS:           xcode-select --install
or set LIBCLANG_PATH to the directory that holds libclang.
EOF
    exit 1
}

missing=()
has_libclang || missing+=(libclang-dev)
command -v "${CXX:-c++}" >/dev/null || missing+=(g++)
[ ${#missing[@]} -eq 0 ] || install_missing "${missing[@]}"

if [ -n "${ROCKSDB_LIB_DIR:-}" ]; then
    echo "$ROCKSDB_LIB_DIR"
    exit 0
fi

version="$(grep -A1 '^name = "librocksdb-sys"' Cargo.lock | sed -n 's/^version = "\(.*\)"/\1/p')"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/millrace"
library="$cache/rocksdb-$version"
if [ ! -f "$library/librocksdb.a" ]; then
    mkdir -p "$cache"
    exec 9>"$cache/rocksdb-build.lock"
    if command -v flock >/dev/null; then flock 9; fi
fi
if [ ! -f "$library/librocksdb.a" ]; then
    echo "RocksDB $version is compiled: a quarter of an hour of two cores, once" >&2
    build="$cache/rocksdb-build"
    CARGO_TARGET_DIR="$build" cargo build --release --locked --package librocksdb-sys >&2
    built=("$build"/release/build/librocksdb-sys-*/out/librocksdb.a)
    mkdir -p "$library"
    # Renamed when whole: who is stopped here begins anew.
    cp "${built[0]}" "$library/librocksdb.a.part"
    mv "$library/librocksdb.a.part" "$library/librocksdb.a"
    rm -rf "$build"
fi
echo "$library"
