#!/usr/bin/env bash
# Runs expect.py with DuckDB, from a venv in the user's cache. See README.md.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
duckdb=1.4.4
venv="${XDG_CACHE_HOME:-$HOME/.cache}/millrace/oracle-duckdb-$duckdb"
if ! "$venv/bin/python" -c 'import duckdb' 2>/dev/null; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet "duckdb==$duckdb" >&2
fi
exec "$venv/bin/python" "$here/expect.py" "$@"
