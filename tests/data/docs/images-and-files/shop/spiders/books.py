"""Two books, each with the address of its cover."""

from pathlib import Path

import scrapy
from shop.items import Book

COVERS = Path(__file__).parents[2] / "covers"


class BooksSpider(scrapy.Spider):
    """The covers are files on this machine."""

    name = "books"

    async def start(self):
        for title in ("Emma", "Persuasion"):
            cover = COVERS / f"{title.lower()}.png"
            yield Book(url=f"https://books.example/{title}", title=title, file_urls=[cover.as_uri()])
