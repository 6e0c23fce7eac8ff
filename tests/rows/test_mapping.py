"""The options that decide what a column gets: paths, blank texts, None, the whole item, constants, hashes."""

from __future__ import annotations

import datetime as dt
import decimal
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scrapy_supabase.backends.base import TableInfo
from scrapy_supabase.errors import ItemError
from scrapy_supabase.models import Row
from scrapy_supabase.rows.builder import RowBuilder
from scrapy_supabase.rows.hashing import hash_of
from scrapy_supabase.schema.schema import Schema, UnknownColumns
from scrapy_supabase.schema.table_spec import EmptyText, TableSpec
from tests.crawl import Author

TYPES = {"id": "integer", "price": "numeric", "title": "text", "data": "jsonb"}


def schema_of(types: Mapping[str, str] | None, spec: TableSpec, unknown: UnknownColumns | None = None) -> Schema:
    """Return a schema of table `t` with these columns and the key `id`; None: they are not known."""
    schema = Schema({"t": spec}, unknown=unknown)
    if types is not None:
        schema.learn("t", TableInfo(types, ("id",), frozenset()))
    return schema


def built(item: Any, types: Mapping[str, str] | None = None, *, policy: str = "drop", **options: Any) -> dict[str, Any]:
    """Return the values of the columns that are sent."""
    row = row_of(item, types, policy=policy, **options)
    values = json.loads(row.data)
    return {column: values[column] for column in row.columns}


def row_of(item: Any, types: Mapping[str, str] | None = None, *, policy: str = "drop", **options: Any) -> Row:
    """Return the row of an item; `types` are by default `TYPES`."""
    spec = TableSpec("t", **options)
    schema = schema_of(TYPES if types is None else types or None, spec, UnknownColumns(policy))
    return RowBuilder({None: spec}, schema, {"now": lambda *_: "now", "url": lambda *_: None}, lambda _: None).build(
        item
    )


NESTED = {"id": 1, "price": {"amount": 5, "all": [{"x": 7}, 8]}}


@pytest.mark.parametrize(
    ("item", "columns", "expected"),
    [
        (NESTED, {"price.amount": "title"}, {"id": 1, "title": 5}),
        (NESTED, {"price.all.0.x": "title", "price.all.1": "data"}, {"id": 1, "title": 7, "data": 8}),
        (NESTED, {"price.amount": "title", "price": "data"}, {"id": 1, "title": 5, "data": NESTED["price"]}),
        (NESTED, {"price.amount": "price"}, {"id": 1, "price": 5}),
        (NESTED, {"price.currency": "title"}, {"id": 1}),
        (NESTED, {"price.all.2": "title"}, {"id": 1}),
        (NESTED, {"price.all.-1": "title"}, {"id": 1}),
        (NESTED, {"cost.amount": "title"}, {"id": 1, "price": NESTED["price"]}),
        ({**NESTED, "price.amount": 6}, {"price.amount": "title"}, {"id": 1, "title": 6, "price": NESTED["price"]}),
        ({"id": 1, "price": None}, {"price.amount": "title"}, {"id": 1}),
        ({"id": 1, "who": Author(3, "Ann")}, {"who.name": "title"}, {"id": 1, "title": "Ann"}),
    ],
)
def test_a_path(item: dict[str, Any], columns: dict[str, str], expected: dict[str, Any]) -> None:
    """Keys, indexes, nested items; the field itself is sent only if it is mapped; a missing path is not sent."""
    before = repr(item)
    assert built(item, columns=columns) == expected
    assert repr(item) == before


def test_a_path_and_a_field_for_one_column() -> None:
    """Neither of the two values is lost silently."""
    with pytest.raises(ItemError, match="two fields of the item go to column 'title'"):
        built({"id": 1, "title": "a", "meta": {"title": "b"}}, columns={"meta.title": "title"})


@pytest.mark.parametrize("value", [5, "5", [{"amount": 5}], dt.date(2026, 1, 1)])
def test_a_path_into_another_kind_of_value(caplog: pytest.LogCaptureFixture, value: Any) -> None:
    """The value would be lost silently: a warning, once."""
    spec = TableSpec("t", columns={"price.amount": "price"})
    rows = RowBuilder({None: spec}, schema_of(TYPES, spec), {}, lambda _: None)
    assert [rows.build({"id": n, "price": value}).columns for n in range(2)] == [("id",)] * 2
    assert (
        caplog.text.count("gets no value from the path 'price.amount', since the value of field 'price' is of type")
        == 1
    )


BLANK = {"id": "", "price": " \t", "title": "", "data": "", "other": ""}


@pytest.mark.parametrize(
    ("empty_text", "types", "expected"),
    [
        (EmptyText.KEEP, TYPES, {"id": "", "price": " \t", "title": "", "data": ""}),
        (EmptyText.NULL, TYPES, {"id": "", "price": None, "title": "", "data": None}),
        (EmptyText.NULL_EVERYWHERE, TYPES, {"id": "", "price": None, "title": None, "data": None}),
        (EmptyText.NULL, {}, BLANK),
        (
            EmptyText.NULL,
            {**TYPES, "price": "extensions.citext"},
            {"id": "", "price": " \t", "title": "", "data": None},
        ),
        (EmptyText.NULL, {**TYPES, "title": "public.color"}, {"id": "", "price": None, "title": None, "data": None}),
    ],
)
def test_blank_texts(empty_text: EmptyText, types: dict[str, str], expected: dict[str, Any]) -> None:
    """NULL where the option says so, but never in the key; other texts stay."""
    assert built(BLANK, types, empty_text=empty_text) == expected
    full = {"id": "1", "price": " 1 ", "title": " x", "data": {"a": ""}}
    assert built(full, types, empty_text=empty_text) == full


def test_the_types_may_become_known_later() -> None:
    """The columns that are no text are those of the newest description; a domain counts as what it is based on."""
    spec = TableSpec("t", empty_text=EmptyText.NULL)
    schema = schema_of(None, spec)
    rows = RowBuilder({None: spec}, schema, {}, lambda _: None)
    assert rows.build({"id": 1, "price": "", "title": ""}).data == b'{"id":1,"price":"","title":""}'
    bases = {"price": "integer", "title": "text"}
    columns = {"id": "integer", "price": "amount", "title": "name_of_it"}
    schema.learn("t", TableInfo(columns, ("id",), frozenset(), key_types=bases))
    assert rows.build({"id": 1, "price": "", "title": ""}).data == b'{"id":1,"price":null,"title":""}'


@pytest.mark.parametrize("nothing", [None, math.nan, decimal.Decimal("NaN")])
def test_none_is_skipped(nothing: Any) -> None:
    """Whatever would be stored as NULL is not sent; zero and empty values are. The key is always sent."""
    item = {"id": nothing, "price": nothing, "title": "", "data": []}
    assert built(item, skip_none=True) == {"id": None, "title": "", "data": []}
    assert built(item, skip_none=True, empty_text=EmptyText.NULL_EVERYWHERE) == {"id": None, "data": []}


def test_stamps_and_constants_beside_none() -> None:
    """A skipped field counts as missing, so that they fill its column. A stamp without a value is not sent."""
    options: dict[str, Any] = {"stamps": {"title": "now", "data": "url"}, "constants": {"price": None}}
    assert built({"id": 1, "title": None}, **options) == {"id": 1, "title": None, "data": None, "price": None}
    assert built({"id": 1, "title": None}, skip_none=True, **options) == {"id": 1, "title": "now", "price": None}


def test_constants() -> None:
    """Any JSON; a scraped value wins, also None."""
    constants = {"title": "x", "data": {"a": [1]}}
    assert built({"id": 1}, constants=constants) == {"id": 1, **constants}
    assert built({"id": 1, "title": None}, constants=constants) == {"id": 1, **constants, "title": None}


ITEM = {"id": 1, "name": "Lamp", "tags": ["a"], "price": 2.5, "when": decimal.Decimal("1.10")}
WHOLE = {**ITEM, "when": "1.10"}


@pytest.mark.parametrize("policy", ["drop", "reject"])
def test_the_whole_item(caplog: pytest.LogCaptureFixture, policy: str) -> None:
    """Beside it, columns that the table has, or that are mapped; the other fields are in it only, without a warning."""
    options: dict[str, Any] = {"json_column": "data", "columns": {"name": "title"}, "policy": policy}
    assert built(ITEM, **options) == {"id": 1, "title": "Lamp", "price": 2.5, "data": WHOLE}
    assert row_of(ITEM, **options).data.count(b"tags") == 1
    assert built({**ITEM, "data": 5}, **options)["data"] == {**WHOLE, "data": 5}
    assert not caplog.records


def test_the_whole_item_in_a_table_that_is_not_known() -> None:
    """Only mapped fields and the key have columns of their own."""
    options: dict[str, Any] = {"json_column": "data", "columns": {"name": "title"}, "on_conflict": ("id",)}
    assert built(ITEM, {}, **options) == {"id": 1, "title": "Lamp", "data": WHOLE}


def test_a_value_of_the_whole_item_that_cannot_be_stored() -> None:
    """The error names the field, not the column of the whole item."""
    with pytest.raises(ItemError) as raised:
        built({**ITEM, "odd": object()}, json_column="data")
    assert (raised.value.code, raised.value.field) == ("not_encodable", "odd")


def test_the_whole_item_is_what_was_scraped() -> None:
    """Neither NULL for blank texts, nor constants and stamps."""
    options: dict[str, Any] = {"empty_text": EmptyText.NULL_EVERYWHERE, "skip_none": True, "constants": {"price": 1}}
    found = built({"id": 1, "title": " ", "x": None}, json_column="data", **options)
    assert found == {"id": 1, "price": 1, "data": {"id": 1, "title": " ", "x": None}}


def test_a_hash_is_as_documented() -> None:
    """docs/reference/settings.md has the same expression."""
    item = {"id": "é", "price": {"b": 1, "a": None}, "data": [1.5, True]}
    values = ["é", item["price"], None, 1.5]
    canonical = json.dumps(values, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    assert canonical == '["é",{"a":null,"b":1},null,1.5]'
    found = built(item, stamps={"title": "hash(id, price, missing,data.0)"})
    assert found["title"] == hashlib.sha256(canonical.encode()).hexdigest()


def test_a_hash_is_a_key() -> None:
    """Rows with equal values have the same key; so has a row whose number was written otherwise in a file."""
    options: dict[str, Any] = {"stamps": {"title": "hash(data)"}, "on_conflict": ("title",)}
    keys = [row_of({"data": value}, **options).key for value in (1.5, msgspec.Raw(b"1.50"), decimal.Decimal("1.5"))]
    assert keys[0] == keys[1] == built({"data": 1.5}, **options)["title"]
    assert keys[2] != keys[0]  # sent as a text, to keep its digits


def test_a_hash_of_a_set_does_not_depend_on_its_order() -> None:
    """The order of a set of texts differs from process to process."""
    texts = [f"t{n}" for n in range(50)]
    assert hash_of([set(texts), {"a": frozenset([3, 1])}]) == hash_of([sorted(texts), {"a": [1, 3]}])


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=6,
)


@settings(max_examples=60)
@given(st.lists(JSON, min_size=1, max_size=3))
def test_any_hash_is_as_documented(values: list[Any]) -> None:
    """As Python encodes JSON."""
    canonical = json.dumps(values, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    if any(value is not None for value in values):
        assert hash_of(values) == hashlib.sha256(canonical.encode()).hexdigest()


@pytest.mark.parametrize("item", [{"id": 1}, {"id": 1, "price": None, "title": math.nan}])
def test_nothing_to_hash(item: dict[str, Any]) -> None:
    """All such rows would have the same hash: they are rejected, naming the fields."""
    with pytest.raises(ItemError, match=r"column 'data' is the hash of fields that the item lacks: price, title") as no:
        built(item, stamps={"data": "hash(price, title)", "when": "now"})
    assert no.value.code == "nothing_to_hash"
    assert no.value.row == {**item, "when": "now"}


def test_a_hash_is_of_scraped_values() -> None:
    """It does not depend on what is known about the table."""
    options: dict[str, Any] = {"stamps": {"title": "hash(price)"}}
    plain = built({"id": 1, "price": ""}, **options)["title"]
    assert built({"id": 1, "price": ""}, empty_text=EmptyText.NULL, skip_none=True, **options)["title"] == plain
    assert built({"id": 1, "title": "mine", "price": 1}, **options)["title"] == "mine"


def test_a_hash_of_a_value_that_cannot_be_stored() -> None:
    """The error names the field."""
    with pytest.raises(ItemError, match="field 'price' of type object"):
        built({"id": 1, "price": object()}, stamps={"title": "hash(price)"})
