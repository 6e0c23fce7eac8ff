"""A crawl of books with reviews, described by JSON on standard input: prints the CPU seconds of its process."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import scrapy
from scrapy.core.engine import ExecutionEngine


@dataclass
class Review:
    """A row of `reviews`; as a separate item, with the columns that a child gets from its parent."""

    stars: int
    text: str
    book_url: str | None = None
    n: int | None = None


@dataclass
class Child:
    """A review in the list of its book."""

    stars: int
    text: str


@dataclass
class Book:
    """A row of `books`."""

    url: str
    title: str
    price: float
    about: str
    category_id: int


@dataclass
class Parent(Book):
    """A book with its reviews."""

    reviews: list[Child] = field(default_factory=list)


@dataclass
class InCategory:
    """A book with its reviews and the name of its category."""

    url: str
    title: str
    price: float
    about: str
    category: str
    reviews: list[Child]


class Books(scrapy.Spider):
    """Yields books, each with its reviews or before them."""

    name = "books"
    job: dict[str, Any]

    async def start(self) -> AsyncIterator[Any]:
        """Yield without downloads."""
        job = self.job
        for number in range(job["count"]):
            book = (f"https://example.com/p/{number}", f"Product {number}", 9.99, "x" * 130)
            texts = [(n % 5, f"{n} {'y' * 100}") for n in range(job["children"])]
            category = number % job["categories"]
            if job["kind"] != "items":
                children = [Child(*text) for text in texts]
                named = job["kind"] == "reference"
                yield InCategory(*book, f"c{category}", children) if named else Parent(*book, category + 1, children)
                continue
            yield Book(*book, category + 1)
            for n, text in enumerate(texts, 1):
                yield Review(*text, book[0], n)


def main() -> None:
    """Crawl."""
    from scrapy.crawler import CrawlerProcess

    from benchmarks import child_crawl  # its classes are those that SUPABASE_TABLES names

    child_crawl.Books.job = json.load(sys.stdin)
    ExecutionEngine._SLOT_HEARTBEAT_INTERVAL = 0.1  # noqa: SLF001 (see benchmarks/crawl.py)
    process = CrawlerProcess({"TELNETCONSOLE_ENABLED": False, **child_crawl.Books.job["settings"]})
    process.crawl(child_crawl.Books)
    process.start()
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"cpu": used.ru_utime + used.ru_stime}))


if __name__ == "__main__":
    main()
