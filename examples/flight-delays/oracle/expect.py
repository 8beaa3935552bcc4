"""What the flight-delays job must give, by DuckDB. See README.md."""

import argparse
import pathlib
import tempfile
import zipfile

import duckdb

DELAYS = """
select origin,
       strftime(time_bucket(interval 1 hour, ts), '%Y-%m-%dT%H:%M:%SZ') as window_start,
       strftime(time_bucket(interval 1 hour, ts) + interval 1 hour, '%Y-%m-%dT%H:%M:%SZ') as window_end,
       count(*) as flights,
       count(*) filter (dep_time is null) as cancelled,
       sum(dep_delay) filter (dep_time is not null) as total,
       count(dep_delay) filter (dep_time is not null) as departed,
       max(dep_delay) filter (dep_time is not null) as max_dep_delay
from flights group by 1, 2, 3 order by 1, 2
"""

SESSIONS = """
with steps as (
  select tailnum, ts, lag(ts) over w as before
  from flights where tailnum is not null window w as (partition by tailnum order by ts)
), numbered as (
  select tailnum, ts,
         sum(case when before is null or ts - before > to_hours($gap) then 1 else 0 end)
           over (partition by tailnum order by ts range unbounded preceding) as session
  from steps
)
select tailnum,
       strftime(min(ts), '%Y-%m-%dT%H:%M:%SZ') as session_start,
       strftime(max(ts) + to_hours($gap), '%Y-%m-%dT%H:%M:%SZ') as session_end,
       count(*) as flights
from numbered group by tailnum, session order by 1, 2
"""


def mean(total, departed):
    """The shortest text that reads back as the same number."""
    if departed == 0:
        return ""
    text = repr(int(total) / departed)
    assert "e" not in text, text
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", required=True, help="flights: .csv, .csv.gz or .csv.zip")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="directory to write to")
    parser.add_argument("--session-gap-hours", type=int, default=12)
    args = parser.parse_args()

    db = duckdb.connect()
    with tempfile.TemporaryDirectory() as work:
        path = args.input
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                path = archive.extract(archive.namelist()[0], work)
        db.execute(
            """
            create table flights as
            select origin, nullif(tailnum, 'NA') as tailnum,
                   cast(nullif(dep_time, 'NA') as integer) as dep_time,
                   cast(nullif(dep_delay, 'NA') as integer) as dep_delay,
                   strptime(time_hour, '%Y-%m-%dT%H:%M:%SZ') + to_minutes(cast(minute as integer)) as ts
            from read_csv($path, header = true, all_varchar = true)
            """,
            {"path": str(path)},
        )

    args.out.mkdir(parents=True, exist_ok=True)
    with open(args.out / "delays.csv", "w", newline="") as out:
        out.write("origin,window_start,window_end,flights,cancelled,mean_dep_delay,max_dep_delay\n")
        for origin, start, end, flights, cancelled, total, departed, most in db.execute(DELAYS).fetchall():
            most = "" if most is None else most
            out.write(f"{origin},{start},{end},{flights},{cancelled},{mean(total, departed)},{most}\n")
    with open(args.out / "sessions.csv", "w", newline="") as out:
        out.write("tailnum,session_start,session_end,flights\n")
        for row in db.execute(SESSIONS, {"gap": args.session_gap_hours}).fetchall():
            out.write(",".join(map(str, row)) + "\n")


if __name__ == "__main__":
    main()
