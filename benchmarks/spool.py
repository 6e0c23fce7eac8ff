"""Cost of the spool per item, and memory of a crawl while the server is unreachable.

1. `loop`: files of 100 rows of 350 bytes, opened, appended to and sealed, without a crawl.
2. `inside`: all spool work in the crawl's thread, timed inside crawls of 2,000 pages and of 20,000 items without
   downloads: µs per item (timer calls included), and its share of the crawl's CPU time.
3. `cpu` and `wall`: the same crawls with and without a spool (`SUPABASE_SPOOL_DIR = None`), in alternating order.
4. `outage`: crawls of growing length to a server that answers the check at open and nothing but 503 from then on: peak
   memory (RSS) of the crawl's process, and rows in the spool at the end.

Set TMPDIR to a folder on the disk to measure: creating a file took 14 µs in one folder of the same machine and 165 µs
in another.
"""

from __future__ import annotations

import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import (
    Server,
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
from benchmarks.crawl import ITEMS, crawl, pipeline, site
from scrapy_supabase.models import Row
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.schema.table_spec import TableSpec
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


def append_cost(folder: Path, count: int) -> float:
    """Write `count` rows of 350 bytes to spool files of 100 rows; return µs per row."""
    spool = DiskSpool(folder, "run", Schema({"items": TableSpec("items")}), {})
    row = Row("items", ("id",), "1", b"x" * 350)
    started = time.perf_counter()
    for _ in range(count // 100):
        file = spool.open(row)
        for _ in range(100):
            file.append(row.data)
        file.close()
    return (time.perf_counter() - started) / count * 1e6


class Crawls:
    """Runner of crawls into one server, measured with and without a spool."""

    def __init__(self, to: Server, site: str, folder: Path, repeat: int) -> None:
        self._to = to
        self._site = site
        self._repeat = repeat
        self._ours = pipeline(to, folder)

    def costs(self, kind: str, count: int, items: int) -> list[list[str]]:
        """Return the table lines of one kind of crawl: `inside`, `cpu` and `wall`."""
        inside = [self._crawl(kind, count, self._ours, INSIDE) for _ in range(self._repeat)]
        spent = [1e6 * one["spent"] / items for one in inside]
        share = statistics.median(one["spent"] / one["cpu"] for one in inside)
        lines = [[f"{kind}, inside", shown(spent, ".2f"), f"{share:.4f}"]]
        runs = {
            "with": partial(self._crawl, kind, count, self._ours),
            "without": partial(self._crawl, kind, count, {**self._ours, "SUPABASE_SPOOL_DIR": None}),
        }
        found = interleaved(runs, self._repeat)
        for measure in ("cpu", "wall"):
            each = {name: [float(one[measure]) for one in crawls] for name, crawls in found.items()}
            more = [1e6 * (ours - base) / items for ours, base in zip(each["with"], each["without"], strict=True)]
            lines.append([f"{kind}, {measure}", shown(more, ".2f"), shown(ratios(each, "with", "without"), ".3f")])
        return lines

    def outage(self, count: int, folder: Path) -> list[str]:
        """Crawl `count` items while the server answers 503; return a table line."""
        with FaultProxy(self._to.url) as proxy:
            proxy.faults.extend([faults.passes] * 2)
            proxy.always = faults.answers(503, "<h1>down</h1>")
            settings = {
                **self._ours,
                "SUPABASE_URL": proxy.url,
                "SUPABASE_CLOSE_TIMEOUT": 1,
                "SUPABASE_SPOOL_DIR": str(folder),
                "LOG_LEVEL": "CRITICAL",
            }
            found = crawl("pages", count // 10, self._site, settings)
        left = found["stats"]["supabase/spooled_count"]
        return [f"{count:,}", f"{found['memory']}", f"{left:,}", f"{found['wall']:.1f}"]

    def _crawl(self, kind: str, count: int, settings: dict[str, Any], before: str = "") -> dict[str, Any]:
        self._to.run(ITEMS)
        return crawl(kind, count, self._site, settings, before)


def main() -> None:
    """Measure and print; with `--write`, update the docs."""
    options = parse_options(__doc__, items=20_000, outage=[10_000, 40_000, 160_000])
    with site() as url, work_folder() as folder, server(folder) as to:
        loop = [append_cost(folder / f"loop{n}", 20_000) for n in range(options.repeat)]
        crawls = Crawls(to, url, folder, options.repeat)
        lines = [["loop", shown(loop, ".2f"), ""]]
        lines += crawls.costs("pages", options.items // 10, options.items)
        lines += crawls.costs("torrent", options.items, options.items)
        outages = [crawls.outage(count, folder / f"outage{count}") for count in options.outage]
    table = markdown(["measured", "µs per item: median (range)", "share of the CPU, or ratio"], lines)
    second = markdown(["server unreachable: items", "peak memory, MB", "rows in the spool", "seconds"], outages)
    print(table, second, sep="\n\n")
    if options.write:
        text = f"{__doc__}\n{options.repeat} repetitions; {machine()}.\n\n{table}\n\n{second}"
        plot = {f"{line[0]} items": {"peak memory": float(line[1])} for line in outages}
        write("spool", "What the spool costs", text, plot, "peak memory while the server is unreachable, MB")


if __name__ == "__main__":
    main()
