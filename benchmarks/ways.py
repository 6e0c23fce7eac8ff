"""Rows per second: the plain upsert, the function `scrapy_upsert`, and the counting statement of a database connection.

Each run writes the same rows twice with one connection: first all are new, then all are there. `if_changed` writes
them a third time, unchanged. The contestants take turns.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from functools import partial

import msgspec
import psycopg

from benchmarks.common import (
    TABLE,
    Server,
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
from scrapy_supabase.backends.base import Backend, Merge, Write
from scrapy_supabase.backends.merge_sql import function_sql
from scrapy_supabase.backends.postgres import PostgresBackend
from scrapy_supabase.backends.postgrest import PostgrestBackend
from scrapy_supabase.models import Mode, WriteOptions

NAMES = {
    "rest": "plain upsert, REST",
    "function": "function, REST",
    "database": "plain upsert, database",
    "statement": "statement, database",
}
STEPS = ("new rows", "stored rows", "unchanged rows (if_changed)")


def rates(to: Server, name: str, chunk: int, rows: int) -> list[float]:
    """Return rows per second of each step. Raises `RuntimeError` unless all rows are stored."""
    to.run(TABLE)
    is_rest = name in ("rest", "function")
    backend: Backend = PostgrestBackend(to.url, to.key) if is_rest else PostgresBackend(to.db_url)
    found = []
    steps = STEPS if name in ("function", "statement") else STEPS[:2]
    for step in steps:
        options = WriteOptions(if_changed=step == STEPS[2])
        writes = list(_writes(chunk, rows, Merge(options) if len(steps) == 3 else None))
        backend.write(msgspec.structs.replace(writes[0], body=b"[]"))  # connect, and build the statement
        start = time.perf_counter()
        for one in writes:
            backend.write(one)
        found.append(rows / (time.perf_counter() - start))
    backend.close()
    ((stored,),) = to.run("select count(*) from bench")
    if stored != rows:
        raise RuntimeError(f"{name}: {stored} of {rows} rows stored")
    return found


def _writes(chunk: int, rows: int, merge: Merge | None) -> Iterator[Write]:
    for start in range(0, rows, chunk):
        body = msgspec.json.encode([item(number) for number in range(start, min(start + chunk, rows))])
        yield Write("bench", tuple(sorted(item(0))), body, Mode.UPSERT, ("id",), merge=merge)


def main() -> None:
    """Measure and print; with `--write`, update the docs."""
    options = parse_options(__doc__, choices={"only": NAMES}, chunk=[100, 1000], rows=20_000, only=list(NAMES))
    with work_folder() as folder, server(folder) as to:
        with psycopg.connect(to.db_url, autocommit=True) as connection:
            connection.execute(function_sql("public", "service_role").encode())
        time.sleep(1)
        runs = {
            f"{name}/{chunk}": partial(rates, to, name, chunk, options.rows)
            for chunk in options.chunk
            for name in options.only
        }
        found = interleaved(runs, options.repeat)
    plot: dict[str, dict[str, float]] = {}
    lines = []
    for run, each in found.items():
        name, _, chunk = run.partition("/")
        plain = f"{'rest' if name in ('rest', 'function') else 'database'}/{chunk}"
        for at, values in enumerate(zip(*each, strict=True)):
            beside = {run: values, plain: [one[min(at, 1)] for one in found.get(plain, each)]}
            ratio = f"{statistics.median(ratios(beside, run, plain)):.2f}" if run != plain else ""
            lines.append([NAMES[name], f"{chunk} rows", STEPS[at], shown(values), ratio])
            plot.setdefault(f"{chunk} rows, {STEPS[at]}", {})[NAMES[name]] = statistics.median(values)
    text = markdown(["way", "request", "rows written", "rows per second", "to the plain upsert"], lines)
    print(text)
    if options.write:
        title = "Plain upsert, function and statement"
        write("ways", title, f"{__doc__}\n\n{text}\n\n{machine()}", plot, "rows per second")


if __name__ == "__main__":
    main()
