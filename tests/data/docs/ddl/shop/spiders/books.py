"""Two books of the page's own class."""

from datetime import UTC, datetime
from decimal import Decimal

import scrapy
from shop.items import Book


class BooksSpider(scrapy.Spider):
    """One book has all fields, one has only those that are required."""

    name = "books"

    async def start(self):
        yield Book(
            url="https://books.example/1",
            title="Emma",
            price=Decimal("4.50"),
            tags=["novel", "1815"],
            seen=datetime(2026, 11, 24, 7, 30, tzinfo=UTC),
        )
        yield Book(url="https://books.example/2", title="Persuasion")
