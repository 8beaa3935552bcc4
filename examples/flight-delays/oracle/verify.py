#!/usr/bin/env python3
"""Compares what the flight-delays job wrote with what it must give. See README.md."""

import argparse
import collections
import csv
import datetime
import gzip
import io
import json
import pathlib
import sys
import zipfile

HEADER = "origin,window_start,window_end,flights,cancelled,mean_dep_delay,max_dep_delay"


def read_text(path):
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    elif data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            data = archive.read(archive.namelist()[0])
    return data.decode()


def files(directory):
    """All files that a reader of the output sees: hidden ones are staged."""
    found = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return [path for path in found if not any(part.startswith((".", "_")) for part in path.relative_to(directory).parts)]


def lines(directory, header):
    """The lines of all files, each of which begins with the header."""
    for path in files(directory):
        first, *rest = read_text(path).splitlines() or [header]
        if first != header:
            sys.exit(f"{path}: the header is `{first}` instead of `{header}`")
        yield from rest


def rows(path):
    text = read_text(path)
    if text.lstrip().startswith("{"):
        return [json.loads(line) for line in text.splitlines() if line]
    return list(csv.DictReader(io.StringIO(text)))


def window(row):
    """Origin and start of the hour that a row belongs to."""
    if isinstance(row["time_hour"], (int, float)):
        hour = datetime.datetime.fromtimestamp(row["time_hour"] / 1000, datetime.timezone.utc)
    else:
        hour = datetime.datetime.strptime(row["time_hour"], "%Y-%m-%dT%H:%M:%SZ")
    ts = hour + datetime.timedelta(minutes=int(row["minute"]))
    return row["origin"], ts.strftime("%Y-%m-%dT%H:00:00Z")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", required=True, type=pathlib.Path, help="what the job wrote")
    parser.add_argument("--expected", required=True, type=pathlib.Path, help="what expect.sh wrote")
    parser.add_argument("--input", type=pathlib.Path, help="the flights: to count them, too")
    parser.add_argument("--sessions", action="store_true", help="compare the sessions")
    args = parser.parse_args()
    wrong = []

    expected = {}
    for line in read_text(args.expected / "delays.csv").splitlines()[1:]:
        expected[tuple(line.split(",")[:2])] = line
    given = {}
    for line in lines(args.output / "delays", HEADER):
        key = tuple(line.split(",")[:2])
        if key in given:
            wrong.append(f"window twice: {line}")
        if key not in expected:
            wrong.append(f"window not expected: {line}")
        given[key] = line

    late = collections.Counter()
    late_cancelled = collections.Counter()
    for path in files(args.output / "late") if (args.output / "late").is_dir() else []:
        for row in rows(path):
            late[window(row)] += 1
            late_cancelled[window(row)] += row["dep_time"] in (None, "", "NA")

    exact = 0
    for key, line in expected.items():
        if key not in late:
            if given.get(key) != line:
                wrong.append(f"expected {line}, found {given.get(key)}")
            exact += 1
            continue
        flights, cancelled = map(int, line.split(",")[3:5])
        in_window = given[key].split(",")[3:5] if key in given else ("0", "0")
        if (flights, cancelled) != (int(in_window[0]) + late[key], int(in_window[1]) + late_cancelled[key]):
            wrong.append(f"expected {line}, found {given.get(key)} and late {late[key]}, {late_cancelled[key]} cancelled")
    for key in late.keys() - expected.keys():
        wrong.append(f"late row of a window not expected: {key}")

    in_windows = sum(int(line.split(",")[3]) for line in given.values())
    total = sum(int(line.split(",")[3]) for line in expected.values())
    if args.input:
        total = read_text(args.input).count("\n") - 1
    if in_windows + sum(late.values()) != total:
        wrong.append(f"{in_windows} rows in windows and {sum(late.values())} late ones of {total}")

    if args.sessions:
        header, *sessions = read_text(args.expected / "sessions.csv").splitlines()
        # The job adds the airline, which the oracle does not know.
        found = sorted(line.rsplit(",", 2)[0] for line in lines(args.output / "sessions", header + ",carrier,airline"))
        if found != sorted(sessions):
            differ = set(found) ^ set(sessions)
            wrong.append(f"sessions: {len(found)} instead of {len(sessions)}, such as {sorted(differ)[:3]}")

    for what in wrong[:20]:
        print(what, file=sys.stderr)
    if wrong:
        sys.exit(f"{len(wrong)} differences")
    print(f"ok: {total} rows, {in_windows} in {len(given)} windows and {sum(late.values())} late; {exact} windows exact")


if __name__ == "__main__":
    main()
