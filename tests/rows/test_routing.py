"""The choice of a table by a field, a path or a function."""

from __future__ import annotations

from typing import Any

import pytest
from scrapy.settings import Settings

from scrapy_supabase.backends.base import TableInfo
from scrapy_supabase.errors import ConfigurationError, ItemError
from scrapy_supabase.rows.builder import RowBuilder
from scrapy_supabase.schema.declared import known_columns
from scrapy_supabase.schema.schema import Schema, UnknownColumns
from scrapy_supabase.settings.config import Config
from scrapy_supabase.settings.tables import TablesConfig, uses_spider_name, uses_url_stamp
from tests.crawl import Author

SERVER = {"SUPABASE_URL": "https://abc.supabase.co", "SUPABASE_KEY": "sb_secret_x"}


def kind_of(item: Any) -> Any:
    """The function of these tests."""
    return item["kind"]["name"] if isinstance(item, dict) else "author"


def tables(by: Any, *spiders: str, **names: Any) -> TablesConfig:
    """Return the tables for all items, among which `by` chooses."""
    settings = Settings({**SERVER, "SUPABASE_TABLES": {"*": {"by": by, "tables": names}}})
    return Config.from_settings(settings, {}, spiders=spiders).tables


def builder(found: TablesConfig, policy: str = "drop") -> RowBuilder:
    """Return a builder for these tables; each has the columns id and v."""
    schema = Schema(found.specs, unknown=UnknownColumns(policy))
    for name in found.specs:
        schema.learn(name, TableInfo({"id": "integer", "v": "text"}, ("id",), frozenset()))
    return RowBuilder(found.routes, schema, {}, lambda _: None)


@pytest.mark.parametrize("by", ["kind.name", kind_of, "tests.rows.test_routing.kind_of"])
def test_a_choice(by: Any) -> None:
    """By a path, a function, its import path; each table has its own options, and * takes all others."""
    made = builder(tables(by, a="as", b={"table": "bs", "columns": {"w": "v"}}, **{"*": "rest"}))
    items = [{"id": 1, "kind": {"name": name}, "w": 5} for name in ("a", "b", "c", "a")]
    assert [(row.table, row.columns) for row in map(made.build, items)] == [
        ("as", ("id",)),
        ("bs", ("id", "v")),
        ("rest", ("id",)),
        ("as", ("id",)),
    ]
    assert made.fast_path(items[0], None) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", ["drop", "reject"])
def test_the_routing_field_is_dropped_silently(caplog: pytest.LogCaptureFixture, policy: str) -> None:
    """Unless the table has a column of its name, or it is mapped."""
    rows = builder(tables("v", a="as", b={"table": "bs", "columns": {"v": "id"}}), policy)
    assert rows.build({"id": 1, "v": "a"}).columns == ("id", "v")
    assert rows.build({"v": "b"}).columns == ("id",)
    rows = builder(tables("type", a="as"), policy)
    assert rows.build({"id": 1, "type": "a"}).columns == ("id",)
    assert not caplog.records


@pytest.mark.parametrize(
    ("by", "item", "message"),
    [
        ("type", {"type": "x"}, "field 'type' is 'x', and SUPABASE_TABLES['*'] has tables only for: a, 1"),
        ("type", {"type": "a; drop table t"}, "field 'type' is 'a; drop table t', and"),
        ("type", {"type": None}, "field 'type' is None, and"),
        ("type", {"type": ["a"]}, "field 'type' is ['a'], and"),
        ("type", {"id": 1}, "the item has no field 'type', and"),
        ("type.name", {"type": {}}, "the item has no field 'type.name', and"),
        (kind_of, {"kind": {"name": "x"}}, "kind_of returned 'x', and"),
        (kind_of, {"id": 1}, "kind_of failed for this item: KeyError: 'kind'."),
    ],
)
def test_a_value_that_is_not_declared(by: Any, item: dict[str, Any], message: str) -> None:
    """The row is rejected, with field, value and the declared values. Its table is not known."""
    rows = builder(tables(by, a="as", **{"1": "ones"}))
    with pytest.raises(ItemError) as raised:
        rows.build(item)
    assert raised.value.code == "no_route"
    assert str(raised.value).startswith(message)
    assert rows.rejection(item, raised.value).table == "(none)"


def test_numbers_and_items_choose_too() -> None:
    """1 and "1" are the same; the field of a dataclass is read."""
    assert builder(tables("type", **{"1": "ones"})).build({"id": 1, "type": 1}).table == "ones"
    assert builder(tables("name", ann="as")).build(Author(1, "ann")).table == "as"
    assert builder(tables(kind_of, author="as")).build(Author(1, "ann")).table == "as"


def test_a_path_that_looks_like_an_import_path() -> None:
    """`site` is a module of Python: fields of items have such names."""
    assert builder(tables("site.name", a="as")).build({"id": 1, "site": {"name": "a"}}).table == "as"
    with pytest.raises(ConfigurationError, match=r"tests\.crawl\.nothing cannot be imported: .+ doesn't define"):
        tables("tests.crawl.nothing", a="as")


def test_the_spiders_name() -> None:
    """One table in a crawl; those of all spiders for `check`."""
    assert list(tables("type", "shop", a="{spider}_jobs").specs) == ["shop_jobs"]
    assert list(tables("type", "shop", "mall", a="{spider}_jobs").specs) == ["shop_jobs", "mall_jobs"]
    with pytest.raises(ConfigurationError, match="no spider is known"):
        tables("type", a="{spider}_jobs")


def test_the_constants_with_the_spiders_name() -> None:
    """In texts, also inside lists and dicts."""
    constants = {"a": "{spider}", "b": [{"c": "by {spider}"}], "d": 1}
    settings = Settings({**SERVER, "SUPABASE_TABLE": "t", "SUPABASE_CONSTANTS": constants})
    (spec,) = Config.from_settings(settings, {}, spiders=["shop"]).tables.specs.values()
    assert spec.constants == {"a": "shop", "b": [{"c": "by shop"}], "d": 1}


def test_settings_of_nested_tables_are_found() -> None:
    """The `url` stamp needs a middleware, and `{spider}` the spiders of the project."""
    nested = {"*": {"by": "type", "tables": {"a": "t", "b": {"table": "{spider}_x", "stamps": {"u": "url"}}}}}
    assert uses_url_stamp(Settings({"SUPABASE_TABLES": nested}))
    assert uses_spider_name(Settings({"SUPABASE_TABLES": nested}))
    assert not uses_spider_name(Settings({"SUPABASE_TABLES": {"*": "t"}, "SUPABASE_CONSTANTS": {"a": "{spider}"}}))


def test_all_tables_are_checked_when_a_crawl_opens() -> None:
    """With the field that chooses: the check then learns whether a table has a column for it."""
    known, partly = known_columns(tables("type", a="as", b={"table": "bs", "constants": {"c": 1}}).routes)
    assert {table: set(names) for table, names in known.items()} == {"as": {"type"}, "bs": {"type", "c"}}
    assert partly == {"as", "bs"}
