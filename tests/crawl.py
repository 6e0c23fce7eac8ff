"""One crawl (or two at once) in a process of its own, described by a JSON object on standard input.

`settings` are the project's; `spiders` a list of {"items": [...], "pages": n, "site": url}, with the arguments of
`select_rows` as "select" and those of requests as "requests"; `mode` is asyncio, select or none. The stats of each
spider are written to `stats`, a file, as a JSON list.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import resource
import sys
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pydantic
import scrapy
from scrapy.http import Response
from scrapy.http.response.text import TextResponse
from scrapy.statscollectors import MemoryStatsCollector

from scrapy_supabase import select_rows
from scrapy_supabase.delivery import takeover
from scrapy_supabase.monitoring import crawl_log, ledger


@dataclasses.dataclass
class Author:
    """A dataclass item."""

    id: int
    name: str


@attrs.define
class Tag:
    """An attrs item."""

    id: int
    label: str


class Price(pydantic.BaseModel):
    """A pydantic item."""

    id: int
    amount: Decimal


class Book(scrapy.Item):
    """A Scrapy item; some of its fields may be missing."""

    id = scrapy.Field()
    title = scrapy.Field()
    pages = scrapy.Field()
    author = scrapy.Field()


def selected(**fields: Any) -> dict[str, Any]:
    """An item whose title lacks its `.get()`."""
    return {**fields, "title": scrapy.Selector(text=f"<h1>{fields['title']}</h1>").css("h1")[0]}


CLASSES: dict[str, Any] = {
    "Selected": selected,
    "Author": Author,
    "Tag": Tag,
    "Price": Price,
    "Book": Book,
    "dict": dict,
}


class TestSpider(scrapy.Spider):
    """Yields the items it is given, then those of a site's pages."""

    __test__ = False
    name = "test"
    ballast = b""
    yielded = 0
    plan: dict[str, Any]

    async def start(self) -> AsyncIterator[Any]:
        """Items first, then requests. `progress_every` seconds are a minute."""
        crawl_log._PROGRESS_EVERY = self.plan.get("progress_every", crawl_log._PROGRESS_EVERY)
        for item in self.plan.get("items", []):
            yield made(item)
        for number in range(self.plan.get("count", 0)):
            yield {"id": number, "title": "x" * 200, "n": self.plan["n"]}
        for number in range(self.plan.get("pages", 0)):
            yield scrapy.Request(f"{self.plan['site']}/{number}")
        for request in self.plan.get("requests", []):
            yield scrapy.Request(**request)
        if "select" in self.plan:
            async for row in select_rows(self.crawler, **self.plan["select"]):
                yield row
        if "raises" in self.plan:
            raise ValueError(self.plan["raises"])

    def parse(self, response: Response) -> Iterator[Any]:
        """A page is a JSON list of items."""
        assert isinstance(response, TextResponse)
        for item in response.json():
            yield scrapy.Request(response.urljoin(item["follow"])) if "follow" in item else made(item)
            self.yielded += 1
        if self.plan.get("grows_after") and self.yielded >= self.plan["grows_after"]:
            self.ballast = self.ballast or b"x" * 500_000_000


def made(item: dict[str, Any]) -> Any:
    """`{"_class": "Book", …}` → a Book."""
    fields = {name: value for name, value in item.items() if name != "_class"}
    return CLASSES[item.get("_class", "dict")](**fields)


class Changer:
    """A later pipeline that changes the item: it must not matter."""

    def process_item(self, item: Any) -> Any:
        """Spoil the item."""
        if isinstance(item, dict):
            item["title"] = "changed later"
        return item


class Dropper:
    """A pipeline with a fault."""

    def process_item(self, item: Any) -> Any:  # noqa: ARG002
        """Fail on every item."""
        raise RuntimeError("another pipeline's fault")


class Witness:
    """A pipeline that writes down what came through the one before it."""

    def __init__(self, path: str) -> None:
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    @classmethod
    def from_crawler(cls, crawler: Any) -> Witness:
        """`WITNESS` names the file."""
        return cls(crawler.settings["WITNESS"])

    def process_item(self, item: Any) -> Any:
        """Append the item's id, and its version."""
        os.write(self.file, f"{item['id']} {item.get('n', '')}\n".encode())
        return item

    def close_spider(self) -> None:
        """Say that pipelines are being closed."""
        logging.getLogger(__name__).info("The witness closes")


class BrokenStats(MemoryStatsCollector):
    """A collector that loses what it should send elsewhere."""

    def inc_value(self, key: str, count: int = 1, start: int = 0, spider: scrapy.Spider | None = None) -> None:
        """Fail at what the pipeline counts."""
        if key.startswith("supabase/") and count:
            raise ConnectionError("the server of the stats is gone")
        super().inc_value(key, count, start, spider)


class WholeNumbers(MemoryStatsCollector):
    """A collector that takes whole numbers only, as that of scrapy-redis does."""

    def inc_value(self, key: str, count: int = 1, start: int = 0, spider: scrapy.Spider | None = None) -> None:
        """Refuse fractions."""
        if not isinstance(count, int):
            raise ValueError("value is not an integer or out of range")  # noqa: TRY004 (as Redis has it)
        super().inc_value(key, count, start, spider)


class Wanderer(TestSpider):
    """Changes the folder of the process before its first item."""

    async def start(self) -> AsyncIterator[Any]:
        """Leave."""
        os.chdir(self.plan["to"])
        async for each in super().start():
            yield each


def main() -> None:
    """Crawl."""
    from scrapy.crawler import AsyncCrawlerProcess, CrawlerProcess

    job = json.load(sys.stdin)
    os.chdir(job.get("cwd") or ".")
    settings = {"TELNETCONSOLE_ENABLED": False, "LOG_LEVEL": "DEBUG", **job["settings"]}
    if job["mode"] == "select":
        settings["TWISTED_REACTOR"] = "twisted.internet.selectreactor.SelectReactor"
    if job["mode"] == "none":
        settings["TWISTED_REACTOR_ENABLED"] = False
    if job.get("file_size"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_size"], job["file_size"]))
    process = AsyncCrawlerProcess(settings) if job["mode"] == "none" else CrawlerProcess(settings)
    crawlers = []
    for number, plan in enumerate(job["spiders"]):
        ledger._EVERY = plan.get("ledger_every", ledger._EVERY)  # these seconds are a minute
        takeover._EVERY = plan.get("takeover_every", takeover._EVERY)  # these, too
        base = Wanderer if "to" in plan else TestSpider
        spider = type(f"Spider{number}", (base,), {"plan": plan, "name": plan.get("name", f"test{number}")})
        crawler = process.create_crawler(spider)
        crawlers.append(crawler)
        process.crawl(crawler)
    process.start()
    stats = [crawler.stats.get_stats() for crawler in crawlers]
    Path(job["stats"]).write_text(json.dumps(stats, default=str))
