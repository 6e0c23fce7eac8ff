"""Cost of the pipeline to a crawl: the crawl with it, compared with one whose pipeline only returns the item.

The crawls are: 1,500 pages of 10 items from a local site, parsed with selectors; the same pages, not parsed, with
generated items; and 20,000 items yielded by `start()`, without downloads. CPU seconds are those of the crawl's process.
Settings are the defaults, with a spool; the server runs in its own processes.

Crawls are compared twice: one after the other, which gives wall time; and side by side, in turns of 0.1 s while the
others are stopped. Side by side, other load on the machine slows down all of them: the ratio of two identical crawls
differs from 1 by 1 to 2 %, but by 10 % or more if they run one after the other on a shared machine.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import multiprocessing
import random
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.common import (
    Server,
    environment,
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
from benchmarks.delay import far_away

ITEMS = """
create table if not exists items (id bigint primary key, url text, title text, price numeric, stock int, about text);
truncate items; grant all on items to service_role;
"""
# Copied, not imported: importing benchmarks.common would add to the crawl's memory and time.
ITEM = "from typing import Any\n" + inspect.getsource(item)
CRAWL = """
import json, random, resource, sys, time
import scrapy
from scrapy.core.engine import ExecutionEngine
from scrapy.crawler import CrawlerProcess

job = json.load(sys.stdin)


class Nothing:
    def process_item(self, item):
        return item


class Torrent(scrapy.Spider):
    name = "torrent"

    async def start(self):
        bad = set(random.Random(1).sample(range(job["count"]), job["settings"].get("BENCHMARK_BAD", 0)))
        for number in range(job["count"]):
            yield {**item(number), "price": "on request"} if number in bad else item(number)


class Pages(scrapy.Spider):
    name = "pages"

    async def start(self):
        for number in range(job["count"]):
            yield scrapy.Request(f"{job['site']}/{number}")

    def parse(self, response):
        for product in response.css("article.product"):
            yield {"id": int(product.attrib["id"]), "url": product.css("a::attr(href)").get(),
                   "title": product.css("h2 a::text").get(), "price": float(product.css(".price::text").get()),
                   "stock": int(product.css(".stock::text").get()), "about": product.css(".about::text").get()}


class Unread(Pages):
    name = "unread"

    def parse(self, response):
        first = 10 * int(response.url.rpartition("/")[2])
        for number in range(first, first + 10):
            yield item(number)


gaps, times = [0.0], []
if job["settings"].get("BENCHMARK_DETAIL"):
    from scrapy_supabase import SupabasePipeline

    process_item = SupabasePipeline.process_item

    def timed(self, item):
        started = time.perf_counter()
        found = process_item(self, item)
        if found is item:
            times.append(time.perf_counter() - started)
        return found

    SupabasePipeline.process_item = timed

# Without downloads, Scrapy notices only at this heartbeat, every 5 s, that a crawl whose last items waited has ended.
ExecutionEngine._SLOT_HEARTBEAT_INTERVAL = 0.1
process = CrawlerProcess({"LOG_LEVEL": "ERROR", "TELNETCONSOLE_ENABLED": False, **job["settings"]})
spiders = {spider.name: spider for spider in (Torrent, Pages, Unread)}
crawler = process.create_crawler(spiders[job["kind"]])
process.crawl(crawler)
if job["settings"].get("BENCHMARK_DETAIL"):
    from twisted.internet import reactor

    last = time.perf_counter()

    def tick():
        global last
        now = time.perf_counter()
        gaps.append(now - last - 0.01)
        last = now
        reactor.callLater(0.01, tick)

    reactor.callWhenRunning(tick)
    reactor.callWhenRunning(gaps.clear)
wall = time.perf_counter()
process.start()
wall = time.perf_counter() - wall
used = resource.getrusage(resource.RUSAGE_SELF)
detail = {"pause": 1000 * max(gaps, default=0.0)}
if times:
    times.sort()
    detail |= {f"p{rank}": 1e6 * times[-(-len(times) * rank // 100) - 1] for rank in (50, 98, 99)}
print(json.dumps({**detail, "wall": wall, "cpu": used.ru_utime + used.ru_stime, "memory": used.ru_maxrss // 1024,
                  "spent": globals().get("spent", [0.0])[0], "stats": crawler.stats.get_stats()}, default=str))
"""


PRODUCT = """
<article class="product" id="{0[id]}">
  <h2><a href="{0[url]}">{0[title]}</a></h2>
  <span class="price">{0[price]}</span> <span class="stock">{0[stock]}</span>
  <p class="about">{0[about]}</p>
</article>
"""


def _serve(report: Connection) -> None:
    """Serve pages of ten products each; send the port through `report`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            first = 10 * int(self.path.removeprefix("/"))
            products = "".join(PRODUCT.format(item(number)) for number in range(first, first + 10))
            body = f"<html><body><h1>Products</h1>{products}</body></html>".encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    report.send(server.server_address[1])
    server.serve_forever()


@contextlib.contextmanager
def site() -> Iterator[str]:
    """Serve the product pages from another process; yield their URL."""
    receive, send = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=_serve, args=(send,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{receive.recv()}"
    finally:
        process.terminate()


def start(kind: str, count: int, site: str, settings: dict[str, Any], before: str = "") -> subprocess.Popen[str]:
    """Start a crawl in its own process, which runs the code `before` first."""
    command = [sys.executable, "-c", before + ITEM + CRAWL]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment())
    job = {"kind": kind, "count": count, "site": site, "settings": settings}
    assert process.stdin
    process.stdin.write(json.dumps(job))
    process.stdin.close()
    process.stdin = None
    return process


def measured(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for a crawl and return its measurements. Raises `RuntimeError` if it failed or wrote to standard error."""
    out, error = process.communicate()
    if process.returncode or error:
        raise RuntimeError(error)
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def crawl(kind: str, count: int, site: str, settings: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Run a crawl and return its measurements."""
    return measured(start(kind, count, site, settings, before))


def take_turns(processes: Iterable[subprocess.Popen[str]], seconds: float) -> None:
    """Let one process at a time run for `seconds`, in random order, until all have ended."""
    running = list(processes)
    try:
        for process in running:
            process.send_signal(signal.SIGSTOP)
        while running:
            for process in random.sample(running, len(running)):
                process.send_signal(signal.SIGCONT)
                try:
                    process.wait(seconds)
                    running.remove(process)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGSTOP)
    finally:
        for process in running:
            process.kill()


def pipeline(to: Server, folder: Path) -> dict[str, Any]:
    """Return the settings of a crawl with the pipeline at its defaults and its spool in `folder`."""
    return {
        "ITEM_PIPELINES": {"scrapy_supabase.SupabasePipeline": 300},
        "SUPABASE_URL": to.url,
        "SUPABASE_KEY": to.key,
        "SUPABASE_TABLE": "items",
        "SUPABASE_SPOOL_DIR": str(folder / "spool"),
    }


KINDS = {
    "pages": "1,500 pages of 10 items",
    "unread": "1,500 pages, not read",
    "torrent": "20,000 items without a download",
}


class Crawls:
    """Runner of crawls from one site into one server."""

    def __init__(self, to: Server, site: str, options: argparse.Namespace) -> None:
        self._to = to
        self._site = site
        self._options = options

    def alone(self, kind: str, settings: dict[str, Any]) -> dict[str, Any]:
        """Run a crawl and return its measurements."""
        self._to.run(ITEMS)
        return self._checked(kind, settings, measured(self._start(kind, settings)))

    def in_turns(self, kind: str, ways: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Run a crawl for each of the settings side by side, in turns; return their measurements."""
        self._to.run(ITEMS)
        processes = {name: self._start(kind, settings) for name, settings in ways.items()}
        take_turns(processes.values(), self._options.turn)
        return {name: self._checked(kind, ways[name], measured(process)) for name, process in processes.items()}

    def _start(self, kind: str, settings: dict[str, Any]) -> subprocess.Popen[str]:
        return start(kind, self._options.items if kind == "torrent" else self._options.pages, self._site, settings)

    def _checked(self, kind: str, settings: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
        rows = self._options.items if kind == "torrent" else 10 * self._options.pages
        uploaded = found["stats"].get("supabase/uploaded_count")
        if "SUPABASE_URL" in settings and uploaded != rows:
            raise RuntimeError(f"only {uploaded} of {rows} rows uploaded")
        return found


def main() -> None:
    """Measure and print; with `--write`, update the docs."""
    options = parse_options(
        __doc__, choices={"kind": KINDS}, kind=list(KINDS), pages=1500, items=20_000, latency=0.05, turn=0.1
    )
    base: dict[str, Any] = {"ITEM_PIPELINES": {"__main__.Nothing": 300}}
    rows, pauses, plot = [], [], dict[str, dict[str, float]]()
    with site() as url, work_folder() as folder, server(folder) as to:
        crawls = Crawls(to, url, options)
        at = urlsplit(to.url)
        with far_away(at.hostname or "", at.port or 80, options.latency) as port:
            ours = pipeline(to, folder)
            ways = {
                "nothing": base,
                "nothing, once more": base,
                "REST": ours,
                f"REST, {1000 * options.latency:.0f} ms away": {**ours, "SUPABASE_URL": f"http://127.0.0.1:{port}"},
                "database": {**ours, "SUPABASE_DB_URL": to.db_url},
            }
            for kind in options.kind:
                runs = {name: partial(crawls.alone, kind, settings) for name, settings in ways.items()}
                alone = interleaved(runs, options.repeat)
                turns = [crawls.in_turns(kind, ways) for _ in range(options.repeat)]
                in_turns = {name: [turn[name] for turn in turns] for name in ways}
                for name in list(ways)[1:]:
                    measures = [
                        ratios({way: [run[measure] for run in each] for way, each in found.items()}, name, "nothing")
                        for found, measure in ((in_turns, "cpu"), (alone, "cpu"), (alone, "wall"))
                    ]
                    plot.setdefault(KINDS[kind], {})[name] = statistics.median(measures[0])
                    memory = statistics.median(run["memory"] for run in alone[name])
                    rows.append([f"{KINDS[kind]}, {name}", *(shown(each, ".3f") for each in measures), f"{memory:.0f}"])
                for name, settings in ways.items():
                    if name != "nothing, once more":
                        detail = crawls.alone(kind, {**settings, "BENCHMARK_DETAIL": True})
                        times = [f"{detail[key]:.1f}" if key in detail else "" for key in ("p50", "p98", "p99")]
                        pauses.append([f"{KINDS[kind]}, {name}", *times, f"{detail['pause']:.0f}"])
    head = ["crawl", "CPU, in turns: ratio (range)", "CPU, one after the other", "wall, one after the other"]
    table = markdown([*head, "peak memory, MB"], rows)
    second = markdown(
        ["one crawl more", "process_item µs, p50", "p98", "p99", "longest pause of the reactor, ms"], pauses
    )
    print(table, second, sep="\n\n")
    if options.write:
        text = (
            f"{__doc__}\nRatios to the same crawl with a pipeline that only returns the item, within each of "
            f"{options.repeat} repetitions; {machine()}.\n\n{table}\n\nMeasured in separate crawls, because it takes "
            f"time: calls of `process_item` that do not wait, and the longest gap of a 10 ms ticker.\n\n{second}"
        )
        write("crawl", "What it costs a crawl", text, plot, "CPU seconds, of those without the pipeline (median)")


if __name__ == "__main__":
    main()
