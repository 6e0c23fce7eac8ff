"""Six books, then their three authors, without a download."""

import scrapy

from shop.items import Author, Book

AUTHORS = {"Mary Shelley": 1797, "Bram Stoker": 1847, "Jane Austen": 1775}
BOOKS = {
    "Frankenstein": "Mary Shelley",
    "The Last Man": "Mary Shelley",
    "Dracula": "Bram Stoker",
    "Emma": "Jane Austen",
    "Persuasion": "Jane Austen",
    "Lady Susan": "Jane Austen",
}


class BooksSpider(scrapy.Spider):
    """`-a kinds=books` leaves the authors out, `-a without=Emma` a book. `-a emma=3.90` is the price of Emma."""

    name = "books"
    kinds = "books,authors"
    without = ""
    emma = "4.50"

    async def start(self):
        for number, (title, author) in enumerate(BOOKS.items(), 1):
            price = self.emma if title == "Emma" else f"{number}.50"
            if title != self.without:
                yield Book(url=f"https://books.example/{number}", title=title, price=price, author=author)
        if "authors" in self.kinds:
            for name, born in AUTHORS.items():
                yield Author(name=name, born=born)
