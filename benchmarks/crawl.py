"""What the pipeline costs a crawl: the same crawl with it and with a pipeline that only returns the item.

`pages`: 1,500 pages of 10 items from a local site. `torrent`: 20,000 items yielded by `start()`, no download at all.
Pairs run one after the other in alternating order; medians of wall and CPU seconds of the crawl's own process (children
not counted). Default settings, spool on, local Supabase in processes of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psycopg

from scrapy_supabase.local import LocalSupabase

TABLE = """
create table if not exists items (id bigint primary key, url text, title text, price numeric, stock int, about text);
truncate items; grant all on items to service_role;
"""
CRAWL = """
import json, resource, sys, time
import scrapy
from scrapy.crawler import CrawlerProcess

job = json.load(sys.stdin)


def item(number):
    return {"id": number, "url": f"https://example.com/p/{number}", "title": f"Product {number}", "price": 9.99,
            "stock": number % 9, "about": "x" * 250}


class Nothing:
    def process_item(self, item):
        return item


class Torrent(scrapy.Spider):
    name = "torrent"

    async def start(self):
        for number in range(job["count"]):
            yield item(number)


class Pages(scrapy.Spider):
    name = "pages"

    async def start(self):
        for number in range(job["count"]):
            yield scrapy.Request(f"{job['site']}/{number}")

    def parse(self, response):
        first = 10 * int(response.url.rpartition("/")[2])
        for number in range(first, first + 10):
            yield item(number)


process = CrawlerProcess({"LOG_LEVEL": "ERROR", "TELNETCONSOLE_ENABLED": False, **job["settings"]})
crawler = process.create_crawler(Torrent if job["kind"] == "torrent" else Pages)
process.crawl(crawler)
wall = time.perf_counter()
process.start()
wall = time.perf_counter() - wall
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"wall": wall, "cpu": used.ru_utime + used.ru_stime, "memory": used.ru_maxrss // 1024,
                  "spent": globals().get("spent", [0.0])[0], "stats": crawler.stats.get_stats()}, default=str))
"""


def serve(report: Connection) -> None:
    """A site of small pages, in a process of its own."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = b"<html><body>" + b"<p>text</p>" * 300 + b"</body></html>"
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    report.send(server.server_address[1])
    server.serve_forever()


def crawl(kind: str, count: int, site: str, settings: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Run one crawl, after the code `before`; what it measured of itself."""
    job = {"kind": kind, "count": count, "site": site, "settings": settings}
    # A package installed by pip is compiled once; an editable one must be allowed to be.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", before + CRAWL],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    if done.returncode or done.stderr:
        raise RuntimeError(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=["pages", "torrent", "both"], default="both")
    parser.add_argument("--pages", type=int, default=1500)
    parser.add_argument("--items", type=int, default=20_000, help="of the torrent (default: 20000)")
    parser.add_argument("--repeat", type=int, default=5, help="pairs (default: 5)")
    options = parser.parse_args()
    receive, send = multiprocessing.Pipe(duplex=False)
    site = multiprocessing.Process(target=serve, args=(send,), daemon=True)
    site.start()
    url = f"http://127.0.0.1:{receive.recv()}"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        with LocalSupabase(Path(folder) / "stack") as stack:
            base: dict[str, Any] = {"ITEM_PIPELINES": {"__main__.Nothing": 300}}
            ours: dict[str, Any] = {
                "ITEM_PIPELINES": {"scrapy_supabase.SupabasePipeline": 300},
                "SUPABASE_URL": stack.url,
                "SUPABASE_KEY": stack.service_role_key,
                "SUPABASE_TABLE": "items",
                "SUPABASE_SPOOL_DIR": f"{folder}/spool",
            }
            for kind in ["pages", "torrent"] if options.kind == "both" else [options.kind]:
                count = options.pages if kind == "pages" else options.items
                pairs = []
                for repetition in range(options.repeat):
                    with psycopg.connect(stack.db_url, autocommit=True) as connection:
                        connection.execute(TABLE.encode())
                    order = [base, ours] if repetition % 2 else [ours, base]
                    found = {id(settings): crawl(kind, count, url, settings) for settings in order}
                    pairs.append((found[id(base)], found[id(ours)]))
                    uploaded = pairs[-1][1]["stats"]["supabase/uploaded_count"]
                    if uploaded != (10 * count if kind == "pages" else count):
                        raise RuntimeError(f"only {uploaded} rows uploaded")
                print(f"{kind}, {count:,}: medians of {options.repeat} pairs (without, with, ratio)")
                for measure in ("cpu", "wall", "memory"):
                    without, with_us = (statistics.median(pair[at][measure] for pair in pairs) for at in (0, 1))
                    ratios = [pair[1][measure] / pair[0][measure] for pair in pairs]
                    shown = ", ".join(f"{ratio:.3f}" for ratio in ratios)
                    print(f"  {measure:6} {without:8.2f} {with_us:8.2f} {statistics.median(ratios):.3f}  ({shown})")
    site.terminate()


if __name__ == "__main__":
    main()
