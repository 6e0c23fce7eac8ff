"""What the spiders yield. Any kind of item will do: here a dataclass and Scrapy's own."""

from dataclasses import dataclass, field

import scrapy


@dataclass
class Module:
    """A module of the standard library."""

    name: str
    summary: str
    url: str | None
    symbol_count: int
    programming_language: str


class Symbol(scrapy.Item):
    """A class, function or datum that a module defines."""

    module = scrapy.Field()
    name = scrapy.Field()
    kind = scrapy.Field()
    signature = scrapy.Field()
    summary = scrapy.Field()
    doc = scrapy.Field()


@dataclass
class Quote:
    """Something somebody said."""

    author: str
    text: str
    tags: list[str] = field(default_factory=list)
