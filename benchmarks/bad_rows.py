"""Rows stored, and the upload rate, when the database rejects one row in a hundred: 20,000 rows, 200 of them bad.

A chunk is one transaction: a pipeline that does not isolate the bad row loses the 99 good rows of its chunk.

The second table compares a crawl of 10,000 items without downloads, 100 of them bad at random, with the same crawl of
good items, with the server on this machine and 50 ms away.
"""

from __future__ import annotations

import statistics
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from psycopg.conninfo import make_conninfo

from benchmarks.common import (
    TABLE,
    Server,
    child,
    interleaved,
    machine,
    markdown,
    parse_options,
    ratios,
    server,
    shown,
    work_folder,
    write,
)
from benchmarks.crawl import ITEMS, crawl, pipeline
from benchmarks.delay import far_away
from benchmarks.rate import NAMES

CONTESTANTS = ("before", "after", "ours_rest", "ours_database")


def run(to: Server, name: str, rows: int, stored: dict[str, int]) -> float:
    """Upload `rows` and return rows per second; the number of rows stored goes to `stored`."""
    to.run(TABLE)
    job = {"contestant": name, "count": rows, "chunk": 100, "uploads": 4, "bad": 100}
    seconds: float = child({**job, "url": to.url, "key": to.key, "db_url": to.db_url})["seconds"]
    ((stored[name],),) = to.run("select count(*) from bench")
    return rows / seconds


def torrent(to: Server, settings: dict[str, Any], items: int, bad: int) -> float:
    """Crawl `items`, `bad` of which the database rejects; return the seconds it took."""
    to.run(ITEMS)
    found = crawl("torrent", items, "", {**settings, "BENCHMARK_BAD": bad, "LOG_LEVEL": "CRITICAL"})
    counts = [found["stats"].get(f"supabase/{name}_count") for name in ("uploaded", "failed")]
    if counts != [items - bad, bad]:
        raise RuntimeError(f"{counts} of {items} items with {bad} bad ones")
    return float(found["wall"])


def torrents(to: Server, folder: Path, items: int, latency: float, repeat: int) -> list[list[str]]:
    """Return table lines that compare crawls with and without bad rows, one for each way to the server."""
    rest, database = urlsplit(to.url), urlsplit(to.db_url)
    with (
        far_away(rest.hostname or "", rest.port or 80, latency) as rest_port,
        far_away(database.hostname or "", database.port or 5432, latency) as database_port,
    ):
        ours = pipeline(to, folder)
        far = f"{1000 * latency:.0f} ms away"
        ways = {
            "REST": ours,
            f"REST, {far}": {**ours, "SUPABASE_URL": f"http://127.0.0.1:{rest_port}"},
            "database": {**ours, "SUPABASE_DB_URL": to.db_url},
            f"database, {far}": {
                **ours,
                "SUPABASE_DB_URL": make_conninfo(to.db_url, host="127.0.0.1", port=database_port),
            },
        }
        runs = {
            f"{way}/{bad}": partial(torrent, to, settings, items, bad)
            for way, settings in ways.items()
            for bad in (0, items // 100)
        }
        found = interleaved(runs, repeat)
    rows = []
    for way in ways:
        good, bad = f"{way}/0", f"{way}/{items // 100}"
        ratio = statistics.median(ratios(found, bad, good))
        rows.append([way, shown(found[good], ".2f"), shown(found[bad], ".2f"), f"{ratio:.2f}"])
    return rows


def main() -> None:
    """Measure and print; with `--write`, update the docs."""
    options = parse_options(__doc__, rows=20_000, items=10_000, latency=0.05)
    stored: dict[str, int] = {}
    with work_folder() as folder, server(folder) as to:
        runs = {name: partial(run, to, name, options.rows, stored) for name in CONTESTANTS}
        found = interleaved(runs, options.repeat)
        crawls = torrents(to, folder, options.items, options.latency, options.repeat)
    good = options.rows - options.rows // 100
    rows = [[NAMES[name], shown(rates), f"{stored[name]:,} of {good:,} good ones"] for name, rates in found.items()]
    table = markdown(["contestant", "rows read per second: median (range)", "stored"], rows)
    head = ["crawl", "seconds, good rows only: median (range)", "1 % bad", "ratio"]
    table += "\n\n" + markdown(head, crawls)
    print(table)
    if options.write:
        text = f"{__doc__}\n{options.repeat} repetitions; {machine()}.\n\n{table}"
        plot = {"": {NAMES[name]: 100.0 * stored[name] / good for name in found}}
        write("bad_rows", "One bad row in a hundred", text, plot, "good rows stored, per cent")


if __name__ == "__main__":
    main()
