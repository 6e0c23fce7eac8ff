"""Time and memory to read the stored URLs of `SUPABASE_SKIP_STORED` when a crawl opens.

Plain URLs are canonical as they are; those with a query are taken apart, sorted and put together by w3lib.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from benchmarks.common import Server, interleaved, machine, markdown, parse_options, server, shown, work_folder, write

WAYS = ("REST", "database")
KINDS = {"plain": "'https://example.com/p/' || n", "with a query": "'https://example.com/p?page=' || n || '&from=list'"}


def memory(name: str) -> float:
    """Return a figure of this process in MB: `VmRSS` (now) or `VmHWM` (peak since the last reset)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def read(to: Server, way: str, rows: int) -> tuple[float, float, float, float]:
    """Read the URLs; return seconds, seconds of CPU, and MB at the peak and afterwards, above those before."""
    from scrapy_supabase.backends.base import Backend, Select
    from scrapy_supabase.backends.open_policy import OpenPolicy
    from scrapy_supabase.backends.postgres import PostgresBackend
    from scrapy_supabase.backends.postgrest import PostgrestBackend
    from scrapy_supabase.backends.retry import Deadline
    from scrapy_supabase.delivery.stored_urls import stored_urls
    from scrapy_supabase.delivery.table_reader import TableReader
    from scrapy_supabase.schema.schema import Schema
    from scrapy_supabase.settings.skip_stored import SkipRule

    backend: Backend = PostgrestBackend(to.url, to.key) if way == "REST" else PostgresBackend(to.db_url)
    reader = TableReader(backend, Schema({}), policy=OpenPolicy(3, 1.0, Deadline()))
    next(reader.pages(Select("bench", limit=1)))  # connects
    Path("/proc/self/clear_refs").write_text("5")
    before, wall, cpu = memory("VmRSS"), time.perf_counter(), time.process_time()
    urls = stored_urls(reader, SkipRule("bench", "url"))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if len(urls) != rows:
        raise RuntimeError(f"{way}: {len(urls)} of {rows} URLs")
    return wall, cpu, memory("VmHWM") - before, memory("VmRSS") - before


def in_new_process(to: Server, way: str, kind: str, rows: int) -> tuple[float, float, float, float]:
    """Store the URLs, and call `read` in a process of its own."""
    to.run(
        "drop table if exists bench; create table bench (id bigint primary key, url text);"
        "grant all on bench to service_role; notify pgrst, 'reload schema';"
        f"insert into bench select n, {KINDS[kind]} from generate_series(1, {rows}) n; analyze bench"
    )
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(read, to, way, rows).result()


def main() -> None:
    """Measure and print; with `--write`, update the docs."""
    options = parse_options(__doc__, repeat=3, rows=1_000_000)
    with work_folder() as folder, server(folder) as to:
        runs = {(way, kind): partial(in_new_process, to, way, kind, options.rows) for way in WAYS for kind in KINDS}
        found = interleaved({"/".join(names): run for names, run in runs.items()}, options.repeat)
    lines, plot = [], dict[str, dict[str, float]]()
    for run, results in found.items():
        way, _, kind = run.partition("/")
        wall, cpu, peak, kept = zip(*results, strict=True)
        lines.append([way, kind, shown(wall, ".1f"), shown(cpu, ".1f"), shown(peak, ".0f"), shown(kept, ".0f")])
        plot.setdefault(kind, {})[way] = statistics.median(wall)
    head = ["over", "URLs", "seconds: median (range)", "of CPU", "peak memory, MB", "memory afterwards, MB"]
    table = markdown(head, lines)
    print(table)
    if options.write:
        text = f"{__doc__}\n{options.rows:,} URLs; {options.repeat} repetitions; {machine()}.\n\n{table}"
        write("skip_stored", "Stored URLs", text, plot, "seconds (median)")


if __name__ == "__main__":
    main()
