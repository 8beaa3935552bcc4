#!/usr/bin/env bash
# Runs the bench table's jobs on Flink and prints one line each:
#   name <tab> M events/s, median of the runs <tab> events <tab> checksum
#
#   benches/flink/run.sh [NAME...]     all but the loaded ones unless named
#
# RUNS (3) and SCALE (1; multiplies the number of events) make it shorter.
# Flink comes from PyPI, whose wheel is the whole distribution, and is kept in
# the user's cache directory. Needs Java 17 with javac, pip and unzip.
set -euo pipefail

version=2.3.0
here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/millrace/flink-$version
runs=${RUNS:-3}
scale=${SCALE:-1}

for tool in java javac pip unzip; do
    command -v "$tool" >/dev/null || { echo "bench-flink: $tool is not installed" >&2; exit 2; }
done

if [ ! -d "$cache/pyflink/lib" ]; then
    mkdir -p "$cache"
    fetch=$(mktemp -d "$cache/fetch.XXXXXX")
    pip download --quiet --disable-pip-version-check --no-deps \
        --dest "$fetch" "apache-flink-libraries==$version" >&2
    unzip -q "$fetch"/*.whl 'pyflink/lib/*' -d "$fetch"
    mv "$fetch/pyflink" "$cache/pyflink"
    rm -rf "$fetch"
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch/tmp" "$scratch/classes"
# Log4j would print every checkpoint; warnings are enough.
cat >"$scratch/log4j2.properties" <<'LOG'
rootLogger.level = error
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.name = stderr
appender.stderr.type = Console
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %p %c{1}: %m%n
LOG

javac -Xlint:-options -nowarn -cp "$cache/pyflink/lib/*" -d "$scratch/classes" "$here/PeerBench.java" \
    2> >(grep -v '^Note:' >&2)

opens=()
for package in java.util java.lang java.net java.nio java.util.concurrent.atomic; do
    opens+=(--add-opens "java.base/$package=ALL-UNNAMED")
done

# NAME JOB KEYS BACKEND EVENTS: enough events that a run takes 15 to 60 s.
jobs_table="
window-count-1k   window-count   1000    hashmap 60000000
window-count-1m   window-count   1000000 hashmap 20000000
running-reduce-1m running-reduce 1000000 hashmap 20000000
running-reduce-1m-rocksdb running-reduce 1000000 rocksdb 5000000
loaded-zipf-10m-rocksdb loaded-zipf 10000000 rocksdb 14000000
loaded-uniform-10m-rocksdb loaded-uniform 10000000 rocksdb 12000000
"
while read -r name job keys backend events; do
    [ -n "$name" ] || continue
    if [ $# -gt 0 ] && [[ " $* " != *" $name "* ]]; then continue; fi
    # One row of each key first, which is not timed.
    if [ $# -eq 0 ] && [[ $name == loaded-* ]]; then continue; fi
    mkdir -p "$scratch/$name/tmp"
    java -Xmx10g "${opens[@]}" -Dlog4j2.configurationFile="$scratch/log4j2.properties" \
        -cp "$scratch/classes:$cache/pyflink/lib/*" PeerBench \
        "$name" "$job" "$keys" "$backend" "$(awk "BEGIN { printf \"%d\", $events * $scale }")" \
        "$runs" "$scratch/$name" </dev/null
    rm -rf "${scratch:?}/$name"
done <<<"$jobs_table"
