#!/usr/bin/env bash
# What building this crate needs beside Rust: a C++ compiler, and libclang, from which the
# bindings to RocksDB are made. Installs what is missing where it may; else says what to
# install.
#
# Building RocksDB itself takes long (half an hour to an hour of one core), once per target
# directory. A RocksDB that is there already is used if ROCKSDB_LIB_DIR names its directory.
set -euo pipefail

has_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] && return 0
    ldconfig -p 2>/dev/null | grep -q 'libclang\(-[0-9]*\)\?\.so' && return 0
    compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null && return 0
    compgen -G '/usr/lib*/libclang.so*' >/dev/null && return 0
    command -v llvm-config >/dev/null && compgen -G "$(llvm-config --libdir)/libclang*" >/dev/null
}

missing=()
has_libclang || missing+=(libclang-dev)
command -v "${CXX:-c++}" >/dev/null || missing+=(g++)
[ ${#missing[@]} -eq 0 ] && exit 0

if command -v apt-get >/dev/null && [ "$(id -u)" -eq 0 ]; then
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}"
    exit 0
fi

cat >&2 <<EOF
The RocksDB tier cannot be built: ${missing[*]} missing. Install it:
  Debian, Ubuntu:  sudo apt-get install ${missing[*]}
  Fedora:          sudo dnf install clang-devel gcc-c++
  macOS:           xcode-select --install
or set LIBCLANG_PATH to the directory that holds libclang.
EOF
exit 1
