"""One crawl of `benchmarks.peers`, in the peers' environment, with its job as JSON on standard input."""

from __future__ import annotations

import json
import logging
import resource
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import scrapy
from scrapy.crawler import CrawlerProcess

from benchmarks.common import item

JOB: dict[str, Any] = {}


class RowByRow:
    """Hand-written pipeline: one insert per item."""

    def open_spider(self) -> None:
        """See Scrapy's docs."""
        from supabase import create_client

        self.client = create_client(JOB["server"]["url"], JOB["server"]["key"])

    def process_item(self, item: Any) -> Any:
        """See Scrapy's docs."""
        self.client.table("bench").insert(dict(item)).execute()
        return item


class Chunks(RowByRow):
    """Better hand-written pipeline: upserts of 100 items, columns read once."""

    def open_spider(self) -> None:
        """See Scrapy's docs."""
        super().open_spider()
        self.rows: list[dict[str, Any]] = []
        found: Any = self.client.table("bench").select("*").limit(1).execute().data
        self.columns = set(found[0]) if found else None

    def process_item(self, item: Any) -> Any:
        """See Scrapy's docs."""
        row = dict(item)
        self.rows.append({n: v for n, v in row.items() if self.columns is None or n in self.columns})
        if len(self.rows) >= 100:
            self.flush()
        return item

    def close_spider(self) -> None:
        """See Scrapy's docs."""
        if self.rows:
            self.flush()

    def flush(self) -> None:
        """Upload the chunk; if that fails, log it and drop the rows."""
        try:
            self.client.table("bench").upsert(self.rows).execute()
        except Exception:
            logging.exception("chunk failed")
        self.rows = []


class Torrent(scrapy.Spider):
    """Spider that yields items without downloads."""

    name = "torrent"
    custom_settings: dict[str, Any] = {}  # noqa: RUF012

    async def start(self) -> AsyncIterator[Any]:
        """Yield the items."""
        made: Any = item
        if JOB["name"] == "ayuge":
            from ayugespidertools.items import AyuItem

            def made(number: int) -> Any:
                return AyuItem(_table="bench", **item(number))

        for number in range(JOB["items"]):
            yield made(number)


def main() -> None:
    """Crawl and print wall and CPU seconds."""
    JOB.update(json.load(sys.stdin))
    process = CrawlerProcess({"LOG_LEVEL": "CRITICAL", "TELNETCONSOLE_ENABLED": False, **JOB["settings"]})
    spider: type[scrapy.Spider] = Torrent
    if JOB["name"] == "ayuge":
        from ayugespidertools.spiders import AyuSpider

        spider = type("Torrent", (AyuSpider,), {"name": "torrent", "start": Torrent.start})
    process.crawl(spider)
    before = resource.getrusage(resource.RUSAGE_SELF)
    started = time.perf_counter()
    process.start()
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    sys.stdout.write("\n" + json.dumps({"seconds": seconds, "cpu": cpu}) + "\n")


if __name__ == "__main__":
    import benchmarks.peers_crawl

    benchmarks.peers_crawl.main()
