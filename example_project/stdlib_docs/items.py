"""Items of the spiders. Every kind of Scrapy item works: here dataclasses and `scrapy.Item`."""

from dataclasses import dataclass, field

import scrapy


@dataclass
class Module:
    """Module of the standard library."""

    name: str
    summary: str
    url: str | None
    symbol_count: int
    programming_language: str


class Symbol(scrapy.Item):
    """Class, function or data that a module defines."""

    module = scrapy.Field()
    name = scrapy.Field()
    kind = scrapy.Field()
    signature = scrapy.Field()
    summary = scrapy.Field()
    doc = scrapy.Field()


@dataclass
class Quote:
    """Quote from quotes.toscrape.com."""

    author: str
    text: str
    tags: list[str] = field(default_factory=list)
