"""What the spool costs an item, and what memory a crawl takes while the server is gone.

1. `loop`: files of 100 rows of 350 bytes, opened, appended to, sealed, and nothing else.
2. `inside`: all that the spool does in the crawl's thread, timed there (the clock's own cost is in it), in crawls of
   20,000 items: 2,000 pages, and a torrent without downloads. Microseconds an item, and the part of the crawl's CPU.
3. `pairs`: the same crawls with the spool and with `SUPABASE_SPOOL_DIR = None`, in alternating order: CPU and wall
   seconds.
4. Crawls of growing length to a server that answers the check at open and then nothing but 503: peak memory (RSS) of
   the crawl's process, and rows in the spool at the end.

Set TMPDIR to a folder on the disk that is meant: making a file costs 14 µs in one folder here and 165 in another.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.crawl import ITEMS, crawl, site
from scrapy_supabase.local import LocalSupabase
from scrapy_supabase.models import Row, TableSpec
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.spool.disk import DiskSpool
from tests import fault_proxy as faults
from tests.fault_proxy import FaultProxy

INSIDE = """
import time
import scrapy_supabase.spool.disk, scrapy_supabase.spool.append_file

spent = [0.0]


def timed(cls, name):
    inner = getattr(cls, name)

    def call(*args, **named):
        started = time.perf_counter()
        try:
            return inner(*args, **named)
        finally:
            spent[0] += time.perf_counter() - started

    setattr(cls, name, call)


for name in ("append", "close"):
    timed(scrapy_supabase.spool.append_file.AppendFile, name)
for name in ("open", "settle"):
    timed(scrapy_supabase.spool.disk.DiskSpool, name)
"""


def write_cost(folder: Path, count: int) -> float:
    """Microseconds a row: files of 100 rows of 350 bytes, opened, appended to, sealed."""
    spool = DiskSpool(folder, "run", Schema({"items": TableSpec("items")}), {})
    row = Row("items", ("id",), "1", b"x" * 350)
    started = time.perf_counter()
    for _ in range(count // 100):
        file = spool.open(row)
        for _ in range(100):
            file.append(row.data)
        file.close()
    return (time.perf_counter() - started) / count * 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=20_000, help="of a crawl (default: 20000)")
    parser.add_argument("--repeat", type=int, default=5, help="pairs (default: 5)")
    parser.add_argument("--outage", type=int, nargs="*", default=[10_000, 40_000, 160_000], help="items, server gone")
    options = parser.parse_args()
    with site() as url, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        costs = [write_cost(folder / f"write{n}", 20_000) for n in range(options.repeat)]
        print(f"loop: {statistics.median(costs):.2f} µs a row (medians of {options.repeat})")
        with LocalSupabase(folder / "stack") as stack:
            settings: dict[str, Any] = {
                "ITEM_PIPELINES": {"scrapy_supabase.SupabasePipeline": 300},
                "SUPABASE_URL": stack.url,
                "SUPABASE_KEY": stack.service_role_key,
                "SUPABASE_TABLE": "items",
            }
            without, ours = (
                {**settings, "SUPABASE_SPOOL_DIR": None},
                {**settings, "SUPABASE_SPOOL_DIR": f"{name}/spool"},
            )
            for kind, count in (("pages", options.items // 10), ("torrent", options.items)):
                inside = []
                for _ in range(options.repeat):
                    with psycopg.connect(stack.db_url, autocommit=True) as connection:
                        connection.execute(ITEMS.encode())
                    result = crawl(kind, count, url, ours, INSIDE)
                    inside.append((result["spent"] / options.items * 1e6, result["spent"] / result["cpu"]))
                cost, part = (statistics.median(one[at] for one in inside) for at in (0, 1))
                print(f"{kind}, {count:,}, inside: {cost:.2f} µs an item, {part:.2%} of the CPU")
                pairs = []
                for repetition in range(options.repeat):
                    found = {}
                    for each in [without, ours] if repetition % 2 else [ours, without]:
                        with psycopg.connect(stack.db_url, autocommit=True) as connection:
                            connection.execute(ITEMS.encode())
                        found[id(each)] = crawl(kind, count, url, each)
                    pairs.append((found[id(without)], found[id(ours)]))
                print(f"{kind}, {count:,}, pairs: {options.repeat} (without spool, with, ratio, µs an item), medians")
                for measure in ("cpu", "wall"):
                    medians = [statistics.median(pair[at][measure] for pair in pairs) for at in (0, 1)]
                    ratio = statistics.median(pair[1][measure] / pair[0][measure] for pair in pairs)
                    cost = statistics.median(pair[1][measure] - pair[0][measure] for pair in pairs)
                    each_item = cost / options.items * 1e6
                    print(f"  {measure:6} {medians[0]:8.2f} {medians[1]:8.2f} {ratio:.3f} {each_item:6.2f}")
            print("server gone: items, peak memory in MB, rows left in the spool, seconds")
            for count in options.outage:
                with FaultProxy(stack.url) as proxy:
                    proxy.faults.extend([faults.passes] * 2)
                    proxy.always = faults.answers(503, "<h1>down</h1>")
                    gone = {**ours, "SUPABASE_URL": proxy.url, "SUPABASE_CLOSE_TIMEOUT": 1, "LOG_LEVEL": "CRITICAL"}
                    result = crawl("pages", count // 10, url, {**gone, "SUPABASE_SPOOL_DIR": f"{name}/gone{count}"})
                left = result["stats"]["supabase/spooled_count"]
                print(f"  {count:8,} {result['memory']:6} {left:8,} {result['wall']:6.1f}")


if __name__ == "__main__":
    main()
