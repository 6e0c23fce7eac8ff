"""Items with children → rows: parents first, each child with its parent's columns, rejections in their place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
import scrapy
from scrapy.settings import Settings

from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.models import Rejection, Row
from scrapy_supabase.rows.children import FamilyBuilder, add_family
from scrapy_supabase.schema.ddl import create_sql, table_of
from scrapy_supabase.schema.item_fields import child_fields, fields_of
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.settings.config import Config
from tests.settings.test_settings import GOOD

REVIEWS: dict[str, Any] = {
    "table": "reviews",
    "parent": {"book": "url"},
    "position": "n",
    "columns": {"url": "link"},
    "children": {"votes": {"table": "votes", "parent": {"book": "book", "review": "n"}}},
}


@dataclass
class Vote:
    """A child of a child."""

    who: str
    score: int = 1


@dataclass
class Review:
    """A child."""

    text: str
    votes: list[Vote] = field(default_factory=list)


class Comment(scrapy.Item):
    """A child that is a Scrapy item."""

    text = scrapy.Field()
    votes = scrapy.Field()


@dataclass
class Book:
    """A parent."""

    url: str
    reviews: list[Review] | None = None


def config(**options: Any) -> Config:
    """Read the settings of the table `books`, for all items."""
    return Config.from_settings(Settings({**GOOD, "SUPABASE_TABLES": {"*": {"table": "books", **options}}}), {})


def rows_of(item: Any, given: Any = None, **options: Any) -> list[tuple[str, Any]]:
    """Return (table, values) of each row, (table, (code, message, values)) of each rejection."""
    found = config(**{"children": {"reviews": REVIEWS}, **options})
    builder = FamilyBuilder(found.tables.routes, Schema(found.tables.specs), given or {}, lambda _: None)

    def shown(one: Row | Rejection) -> tuple[str, Any]:
        values = msgspec.json.decode(one.data)
        return one.table, (one.code, str(one.message), values) if isinstance(one, Rejection) else values

    return [shown(one) for one in builder.rows_of(item)]


def test_children_of_children() -> None:
    """Dicts, dataclasses and Scrapy items, and a single one; the item itself is not changed."""
    item = {
        "url": "a",
        "reviews": [
            {"text": "1", "url": "x", "votes": Vote("me")},
            Comment(text="2"),
            Review("3", [Vote("you", 2)]),
        ],
    }
    before = repr(item)
    assert rows_of(item) == [
        ("books", {"url": "a"}),
        ("reviews", {"text": "1", "link": "x", "book": "a", "n": 1}),
        ("votes", {"who": "me", "score": 1, "book": "a", "review": 1}),
        ("reviews", {"text": "2", "book": "a", "n": 2}),
        ("reviews", {"text": "3", "book": "a", "n": 3}),
        ("votes", {"who": "you", "score": 2, "book": "a", "review": 3}),
    ]
    assert repr(item) == before
    assert rows_of(Book("a")) == rows_of({"url": "a", "reviews": []}) == [("books", {"url": "a"})]
    mapped = rows_of(Book("a", [Review("x")]), columns={"reviews": "all"})
    assert mapped[0] == ("books", {"url": "a", "all": [{"text": "x", "votes": []}]})


def test_the_parents_columns_are_those_of_its_row() -> None:
    """After mapping, stamps and constants; a hash of the child may name them. The URL is that of the page."""
    urls = iter(["https://page"])
    found = rows_of(
        {"link": "a", "reviews": [{"text": "x"}, {"text": "y"}]},
        {"url": lambda *_: next(urls), "run_id": lambda *_: "r"},
        columns={"link": "url"},
        constants={"shop": 7},
        stamps={"id": "hash(link)"},
        children={
            "reviews": {
                "table": "reviews",
                "parent": {"book": "id", "shop": "shop", "of": "url"},
                "stamps": {"id": "hash(book, n)", "seen": "run_id", "page": "url"},
                "position": "n",
            }
        },
    )
    book, *reviews = (values for _, values in found)
    assert book == {"url": "a", "shop": 7, "id": book["id"]}
    assert [(one["book"], one["shop"], one["of"], one["page"], one["seen"]) for one in reviews] == [
        (book["id"], 7, "a", "https://page", "r")
    ] * 2
    assert len({one["id"] for one in reviews}) == 2


def test_what_is_no_child_is_rejected_alone() -> None:
    """The parent and the other children are stored."""
    found = rows_of({"url": "a", "reviews": [5, {"text": "x"}, {"text": "y", "n": 9, "votes": [{"who": "me"}]}]})
    assert found[0] == ("books", {"url": "a"})
    assert found[1] == (
        "reviews",
        (
            "bad_child",
            "an element of field 'reviews' is of type int: it must be a dict or an item",
            {"book": "a", "n": 1, "reviews": 5},
        ),
    )
    assert found[2] == ("reviews", {"text": "x", "book": "a", "n": 2})
    table, (code, message, values) = found[3]
    assert (table, code, values) == (
        "reviews",
        "same_column",
        {"text": "y", "n": 9, "book": "a", "votes": [{"who": "me"}]},
    )
    assert "fill column 'n' of table reviews, with different values" in message
    table, (code, message, values) = found[4]
    assert (table, code) == ("votes", "parent_rejected")
    assert message.startswith("the row of table reviews that it belongs to was rejected (same_column): a field of")
    ((_, (code, message, _)),) = rows_of({"url": "a", "reviews": "none"})[1:]
    assert (code, message) == (
        "bad_child",
        "field 'reviews' is of type str: it must be a list of dicts or items, or one of them",
    )
    ((_, (code, message, _)),) = rows_of({"url": None, "reviews": [{"text": "x"}]})[1:]
    assert (code, message) == ("bad_child", "the row of table books has no value in column 'url'")


def test_children_of_a_rejected_item_are_rejected() -> None:
    """They have the parent's columns, so that they can be sent when the parent is stored."""
    found = rows_of({"url": "a", "bad": object(), "reviews": [{"text": "x", "votes": [{"who": "me"}]}]})
    assert [(table, why[0]) for table, why in found] == [
        ("books", "not_encodable"),
        ("reviews", "parent_rejected"),
        ("votes", "parent_rejected"),
    ]
    assert "(not_encodable): field 'bad' of type object cannot be stored" in found[1][1][1]
    assert found[1][1][2] == {"text": "x", "book": "a", "n": 1}
    assert found[2][1][2] == {"who": "me", "book": "a", "review": 1}
    # Also if the columns of the parent's row are not complete.
    brand = {"brand_id": {"table": "brands", "match": {"name": "brand"}}}
    for item, options in (
        ({"url": "a", "brand": ["x"]}, {"references": brand}),
        ({"url": "a", "title": "x", "name": "y"}, {"columns": {"title": "name"}}),
    ):
        found = rows_of({**item, "reviews": [{"text": "x"}]}, **options)
        assert found[0][1][0] in ("no_parent", "same_column")
        assert found[1][1][2] == {"text": "x", "book": "a", "n": 1}


def test_back_pressure_is_that_of_the_last_row() -> None:
    """All rows are added, and rejections written a thousand at a time: rows of equal keys keep their order."""
    row, rejection = Row("t", ("a",), None, b"{}"), Rejection("t", b"{}", "bad_child", "")
    added: list[Row] = []
    rejected: list[int] = []

    def add(one: Row) -> int:
        added.append(one)
        return len(added)

    rows: list[Row | Rejection] = [row, *[rejection] * 1500, row, rejection]
    assert add_family(rows, add, lambda found: rejected.append(len(found))) == 2
    assert (len(added), rejected) == (2, [1000, 501])
    assert add_family([rejection], add, lambda found: rejected.append(len(found))) is None


@pytest.mark.parametrize(
    ("children", "allowed"),
    [
        ("reviews", "'children'] is 'reviews' (str): it must be a dict that maps fields"),
        ({"reviews": "reviews"}, "'reviews'] is 'reviews' (str): it must be a dict with the keys table, on_conflict"),
        ({"reviews": {**REVIEWS, "parents": 1}}, "no option 'parents'. Did you mean 'parent'?"),
        ({"reviews": {"parent": {"book": "url"}}}, "['table'] is missing"),
        ({"reviews": {"table": "reviews"}}, "['parent'] is missing. It must be a dict"),
        ({"reviews": {**REVIEWS, "parent": {}}}, "['parent'] is missing. It must be a dict"),
        ({"reviews": {**REVIEWS, "parent": {"book": "link"}}}, "the field of this name goes to column 'url'"),
        ({"reviews": {**REVIEWS, "parent": {"book": "reviews"}}}, "the field of this name has children"),
        ({"reviews": {**REVIEWS, "position": 5}}, "['position'] is 5 (int): it must be the name of a column"),
        ({"reviews": {**REVIEWS, "position": "link"}}, "['position'] and SUPABASE_TABLES['*']['children']['reviews']["),
        ({"reviews": {**REVIEWS, "position": "book"}}, "['parent'] both have column 'book': use different columns"),
        ({"reviews": {**REVIEWS, "parent": {"link": "url"}}}, "['columns'] both have column 'link'"),
        ({"reviews": {**REVIEWS, "table": "books"}}, "['table'] is 'books', a table above it: use another table"),
        (
            {"reviews": REVIEWS, "more": {"table": "reviews", "parent": {"b": "url"}}},
            "names table 'reviews' twice, with different mode",
        ),
    ],
)
def test_wrong_options_are_told(children: Any, allowed: str) -> None:
    """In one error, with the path of the option."""
    with pytest.raises(ConfigurationError) as raised:
        config(children=children, columns={"link": "url"})
    assert allowed in str(raised.value)


def test_columns_of_declared_classes_are_checked() -> None:
    """A parent column that a declared item class lacks."""
    tables = {Book: {"table": "books", "children": {"reviews": {**REVIEWS, "parent": {"book": "isbn"}}}}}
    with pytest.raises(ConfigurationError, match="children 'reviews' of Book refer to column 'isbn' of table 'books'"):
        Config.from_settings(Settings({**GOOD, "SUPABASE_TABLES": tables}), {})


def test_ddl_prints_child_tables() -> None:
    """With the types of the parent's columns; the class is that of the annotation."""
    children = {"reviews": {**REVIEWS, "columns": {}, "on_conflict": "book,n"}}
    spec = config(children=children).tables.specs["books"]
    fields = fields_of(Book)
    assert fields is not None
    found = list(child_fields(spec, Book, fields))
    assert [child.name for child, _, _ in found] == ["reviews", "votes"]
    reviews, votes = (create_sql(table_of(child, known or ())) for child, known, _ in found)
    assert (
        "(\n  book text not null,\n  text text not null,\n  n integer not null,\n  primary key (book, n)\n)" in reviews
    )
    assert "  book text not null,\n  review integer not null,\n  who text not null," in votes
    assert "  reviews " not in create_sql(table_of(spec, fields))
