"""One worker of a fleet in a process of its own, described by a JSON object on standard input (tests/fix_redis.py)."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import redis
import scrapy
from scrapy.core.engine import ExecutionEngine
from scrapy.exceptions import DropItem, IgnoreRequest
from scrapy.http import Response
from scrapy.http.response.text import TextResponse
from scrapy_redis.spiders import RedisSpider


class Pages(scrapy.Spider):
    """Yields what pages say: JSON objects with `items`, `links` (URLs or objects) and `fail`."""

    name = "pages"
    plan: dict[str, Any]

    async def start(self) -> AsyncIterator[Any]:
        """The URLs of the plan."""
        for link in self.plan.get("start", []):
            yield self.linked(link)

    def linked(self, link: Any) -> scrapy.Request:
        """A request: `{"url": …, "errback": true, "priority": 1, "dont_filter": true}`."""
        fields = {"url": link} if isinstance(link, str) else dict(link)
        if fields.pop("errback", False):
            fields["errback"] = self.failed
        return scrapy.Request(callback=self.parse, **fields)

    def parse(self, response: Response) -> Iterator[Any]:
        """Items, then links, then the failure."""
        assert isinstance(response, TextResponse)
        assert response.request is not None
        page = response.json()
        # What is leased is the request that led here: of a redirect, the last one.
        for item in page.get("items", []):
            yield {**item, "url": response.request.url}
        if page.get("hang"):
            time.sleep(page["hang"])
        for link in page.get("links", []):
            yield self.linked(link)
        if page.get("fail"):
            raise ValueError("the spider's fault")

    def failed(self, failure: Any) -> Iterator[Any]:
        """An item in place of the page."""
        yield {"id": -1, "url": failure.request.url}


class Ignoring:
    """A downloader middleware that ignores some requests."""

    def process_request(self, request: scrapy.Request) -> None:
        """Ignore those with `ignore` in their URL."""
        if "ignore" in request.url:
            raise IgnoreRequest


class StartUrls(RedisSpider):
    """A spider as the documentation of scrapy-redis has it. Up to Scrapy 2.15 it takes URLs at start, too."""

    name = "starts"
    redis_key = "starts"
    plan: dict[str, Any]
    parse = Pages.parse

    def make_request_from_data(self, data: bytes) -> Any:
        """Die at the URL of the plan."""
        if self.plan.get("die_at") == data.decode():
            os.kill(os.getpid(), 9)
        return super().make_request_from_data(data)


class Witness:
    """A pipeline that writes down each item, and whether its request was leased when it came."""

    def __init__(self, crawler: Any) -> None:
        self.file = os.open(crawler.settings["WITNESS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.client: redis.Redis = redis.Redis.from_url(crawler.settings["REDIS_URL"])
        self.prefix = f"{crawler.spidercls.name}:requests:leases:*"

    @classmethod
    def from_crawler(cls, crawler: Any) -> Witness:
        """Scrapy calls it."""
        return cls(crawler)

    def process_item(self, item: Any) -> Any:
        """Write, then do what the item says."""
        leased = None
        if not item.get("quick"):
            leases = b"".join(b"".join(self.client.hvals(key)) for key in self.client.scan_iter(self.prefix))  # type: ignore[arg-type]
            leased = item["url"].encode() in leases
        os.write(self.file, json.dumps({**item, "leased": leased, "pid": os.getpid()}).encode() + b"\n")
        if item.get("drop"):
            raise DropItem("dropped")
        if item.get("fail"):
            raise ValueError("the pipeline's fault")
        return item


def main() -> None:
    """Crawl."""
    from scrapy.crawler import AsyncCrawlerProcess, CrawlerProcess

    job = json.load(sys.stdin)
    settings = {"TELNETCONSOLE_ENABLED": False, "LOG_LEVEL": "INFO", "RETRY_TIMES": 1, **job["settings"]}
    if job["mode"] == "select":
        settings["TWISTED_REACTOR"] = "twisted.internet.selectreactor.SelectReactor"
    if job["mode"] == "none":
        settings["TWISTED_REACTOR_ENABLED"] = False
    ExecutionEngine._SLOT_HEARTBEAT_INTERVAL = 0.2  # else a worker that waits for others looks every five seconds
    process = AsyncCrawlerProcess(settings) if job["mode"] == "none" else CrawlerProcess(settings)
    crawler = process.create_crawler(type(job["spider"], (globals()[job["spider"]],), {"plan": job["plan"]}))
    process.crawl(crawler)
    process.start()
    Path(job["stats"]).write_text(json.dumps(crawler.stats.get_stats(), default=str))
