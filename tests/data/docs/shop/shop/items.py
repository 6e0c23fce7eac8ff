"""What the spider yields."""

from dataclasses import dataclass


@dataclass
class Author:
    """Somebody who wrote a book."""

    name: str
    born: int


@dataclass
class Book:
    """A book that is for sale."""

    url: str
    title: str
    price: str
    author: str
