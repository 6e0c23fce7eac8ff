"""Items become rows with values that PostgreSQL reads, and with keys. Items are never changed."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scrapy_supabase.backends.base import TableInfo
from scrapy_supabase.errors import ItemError
from scrapy_supabase.models import Row
from scrapy_supabase.rows.builder import RowBuilder
from scrapy_supabase.rows.values import encode_row, printable, text_of
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.schema.table_spec import TableSpec
from tests.fix_project import MakeLine

Sql = Callable[..., list[tuple[Any, ...]]]


@pytest.mark.parametrize(
    ("kind", "value", "stored"),
    [("text", "a\x00b\ud800c", "abc"), ("jsonb", [{"id": 1, "where": {"a": "\x00"}}], [{"id": 1, "where": {"a": ""}}])],
)
def test_unstorable_characters_are_removed(sql: Sql, line: MakeLine, kind: str, value: Any, stored: Any) -> None:
    """NUL and lone surrogates are removed, and the row is counted as cleaned."""
    sql(f"create table t (id bigint primary key, v {kind}); grant all on t to service_role")
    made = line()
    assert made.upload({"id": 1, "v": value}).rejections == ()
    assert sql("select v from t") == [(stored,)]
    assert made.cleaned == ["t"]


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=8)


@settings(max_examples=50)
@given(st.dictionaries(TEXT, JSON, max_size=5))
def test_json_values_are_not_changed(row: dict[str, Any]) -> None:
    """Any JSON object is encoded as itself."""
    data, cleaned = encode_row(row)
    assert json.loads(data) == row
    assert not cleaned


@given(st.text())
def test_any_text_can_be_stored(text: str) -> None:
    """The result is valid UTF-8 that lacks only NUL and lone surrogates."""
    data, cleaned = encode_row({"a": text})
    kept = json.loads(data)["a"]
    assert kept == "".join(c for c in text if c != "\x00" and not "\ud800" <= c <= "\udfff")
    assert cleaned == (kept != text)


@pytest.mark.parametrize(
    ("value", "text"), [(1, "1"), ("1", "1"), (True, "true"), (1.5, "1.5"), (uuid.UUID(int=1), str(uuid.UUID(int=1)))]
)
def test_keys_are_compared_as_text(value: Any, text: str) -> None:
    """1 and "1" are the same key."""
    assert text_of(value) == text


class Odd:
    """A class that JSON cannot represent."""


@pytest.mark.parametrize(
    ("item", "code", "field"),
    [
        ({"id": 1, "v": Odd()}, "not_encodable", "v"),
        ({"id": 1, "v": [{"deep": Odd()}]}, "not_encodable", "v"),
        ({"id": "\ud800", "v": Odd()}, "not_encodable", "v"),
        ({"zz": 1}, "no_column", None),
        ({}, "no_column", None),
        ({1: 2}, "bad_field", None),
    ],
)
def test_items_that_cannot_become_rows(item: dict[Any, Any], code: str, field: str | None) -> None:
    """The error has a code and names the field; the item can be printed."""
    with pytest.raises(ItemError) as raised:
        builder("id", "v").build(item)
    assert (raised.value.code, raised.value.field) == (code, field)
    assert json.loads(printable(item)[0]) is not None


@pytest.mark.parametrize("odd", ["\ud800", "\x00"])
@pytest.mark.parametrize(("value", "stored"), [(math.nan, None), (-math.inf, "-Infinity"), (b"\x01", "\\x01")])
def test_cleaning_a_text_changes_no_other_field(odd: str, value: Any, stored: str) -> None:
    """Other values are encoded as they are beside clean text."""
    data, cleaned = encode_row({"a": f"a{odd}b", "v": value, Name(f"c{odd}"): {Name(f"d{odd}"): 1}})
    assert (json.loads(data), cleaned) == ({"a": "ab", "v": stored, "c": {"d": 1}}, True)


class Name(str):
    """A subclass of str."""

    __slots__ = ()


@pytest.mark.parametrize("name", ["a\ud800", "a\x00"])
def test_an_invalid_field_name(name: str) -> None:
    """If the columns are unknown, it is rejected before it is written to a file's header."""
    schema = Schema({"t": TableSpec("t")})
    rows = RowBuilder({None: schema.specs["t"]}, schema, {}, lambda _: None)
    with pytest.raises(ItemError, match="field names must be text") as raised:
        rows.build({"id": 1, name: 2})
    assert raised.value.code == "bad_field"


def test_a_value_that_contains_itself() -> None:
    """The item is rejected, and the crawl goes on."""
    value: list[Any] = []
    value.append(value)
    with pytest.raises(ItemError, match="contains itself"):
        builder("id", "v").build({"id": 1, "v": value})


def builder(*columns: str, spec: TableSpec | None = None) -> RowBuilder:
    """Return a builder for table `t` with these columns and the key `id`."""
    spec = spec or TableSpec("t")
    schema = Schema({"t": spec})
    schema.learn("t", TableInfo(dict.fromkeys(columns, "text"), ("id",), frozenset()))
    return RowBuilder({None: spec}, schema, {"now": lambda *_: "stamped"}, lambda _: None)


def test_the_item_is_not_changed() -> None:
    """Mapping, stamping, cleaning and nested values do not change it."""
    item = {"ident": "a\x00", "v": [b"x", (1, 2)], "zz": 1}
    before = {"ident": "a\x00", "v": [b"x", (1, 2)], "zz": 1}
    spec = TableSpec("t", columns={"ident": "id"}, stamps={"w": "now"})
    row = builder("id", "v", "w", spec=spec).build(item)
    assert item == before
    assert row == Row("t", ("id", "v", "w"), "a", b'{"id":"a","v":["\\\\x78",[1,2]],"zz":1,"w":"stamped"}')


def test_a_stamp_does_not_replace_a_scraped_value() -> None:
    """The item's value is stored."""
    spec = TableSpec("t", stamps={"v": "now"})
    assert builder("id", "v", spec=spec).build({"id": 1, "v": "mine"}).data == b'{"id":1,"v":"mine"}'


def test_two_fields_for_one_column_are_an_error() -> None:
    """Neither of the two values is lost silently."""
    spec = TableSpec("t", columns={"a": "v"})
    with pytest.raises(ItemError, match="two fields of the item go to column 'v'"):
        builder("id", "v", spec=spec).build({"id": 1, "a": 1, "v": 2})


def test_keys_of_several_columns() -> None:
    """A key with NULL in one column equals no other key."""
    made = builder("id", "v", spec=TableSpec("t", on_conflict=("id", "v")))
    keys = [
        made.build(item).key for item in ({"id": 1, "v": "a"}, {"id": "1", "v": "a"}, {"id": 1, "v": None}, {"id": 1})
    ]
    assert keys == ["1\0a", "1\0a", None, None]
