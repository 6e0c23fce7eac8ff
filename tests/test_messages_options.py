"""Messages about the options that decide what a row gets and where it goes, provoked one by one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest

from scrapy_supabase.errors import FatalError, ItemError
from scrapy_supabase.models import Parent, Reference, Rejection, WriteOptions
from scrapy_supabase.rows.builder import RowBuilder
from scrapy_supabase.rows.children import FamilyBuilder
from scrapy_supabase.schema.item_fields import child_fields, fields_of
from scrapy_supabase.schema.routes import Routes, Switch
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.schema.table_spec import EmptyText, ParentFields, TableSpec
from tests.checkup.test_check import Look, look
from tests.fix_crawl import Crawler
from tests.fix_project import Line, MakeLine, Project
from tests.messages import Said, of_log, of_records

Sql = Callable[..., list[tuple[Any, ...]]]
TABLE = "create table t (id bigint primary key, title text, price numeric); grant all on t to service_role, anon"

__all__ = ["look"]


@dataclasses.dataclass
class Offer:
    """An item class with declared fields."""

    id: int
    title: str


def fails(_: Any) -> str:
    """A function for `by` with a fault."""
    raise KeyError("kind")


def returns(_: Any) -> str:
    """A function for `by` that returns what is not declared."""
    return "pen"


BOOKS = {"book": TableSpec("t"), "pen 2": TableSpec("t")}
ITEMS: Mapping[str, tuple[Mapping[str, Any], TableSpec | Switch]] = {
    "No field of a hash": ({"id": 1, "title": None}, TableSpec("t", stamps={"key": "hash(title, meta.id)"})),
    "A path into a number": ({"id": 1, "price": 5}, TableSpec("t", columns={"price.amount": "price"})),
    "No field of a reference": (
        {"id": 1, "category": "chairs"},
        TableSpec("t", references={"category_id": ParentFields({"slug": "categry"}, {})}),
    ),
    "A value without a table": ({"id": 1, "type": "pen"}, Switch("type", BOOKS, setting="SUPABASE_TABLES['*']")),
    "No value for the table": ({"id": 1}, Switch("type", BOOKS, setting="SUPABASE_TABLES['*']")),
    "A function that fails": ({"id": 1}, Switch("shop.routing.table_of", BOOKS, choose=fails)),
    "A function whose value has no table": ({"id": 1}, Switch("shop.routing.table_of", BOOKS, choose=returns)),
}


@pytest.mark.parametrize("how", ITEMS)
def test_an_item(how: str, said: Said, caplog: pytest.LogCaptureFixture) -> None:
    """The message names field, value and table, and what is declared."""
    item, route = ITEMS[how]
    routes: Routes = {None: route}
    rejected: list[str] = []
    try:
        RowBuilder(routes, Schema({"t": TableSpec("t")}), {}, lambda _: None).build(dict(item))
    except ItemError as error:
        rejected = [f"rejected {error.code}: {error}"]
    said(how, of_records(caplog), rejected)


@dataclasses.dataclass
class Shelf:
    """An item class with children."""

    id: int
    offers: list[Offer]


REVIEWS = TableSpec("t_reviews", position="n", writing=WriteOptions(parent=Parent("t", ("of",), ("id",))))
FAMILIES: Mapping[str, dict[str, Any]] = {
    "A text instead of children": {"id": 1, "offers": "none"},
    "A text among children": {"id": 1, "offers": ["none", {"text": "good"}]},
    "A child with a column of its parent": {"id": 1, "offers": {"text": "good", "of": 2}},
    "Children of a row without the column": {"id": None, "offers": {"text": "good"}},
    "Children of a row that cannot be stored": {"id": object(), "offers": {"text": "good"}},
}


@pytest.mark.parametrize("how", FAMILIES)
def test_children(how: str, said: Said) -> None:
    """The message names field or column, and why the parent was rejected."""
    spec = TableSpec("t", children={"offers": REVIEWS})
    builder = FamilyBuilder({None: spec}, Schema({"t": spec, "t_reviews": REVIEWS}), {}, lambda _: None)
    rows = builder.rows_of(FAMILIES[how])
    said(how, [f"rejected {one.code}: {one.message}" for one in rows if isinstance(one, Rejection)])


def test_the_sql_of_children(said: Said) -> None:
    """Comments name field and table; without a class of the children, what to do."""
    spec = TableSpec("t", children={"offers": REVIEWS, "others": msgspec.structs.replace(REVIEWS, name="t_others")})
    said("ddl of children", [f"stdout: -- {note}" for _, _, note in child_fields(spec, Shelf, fields_of(Shelf) or ())])


def test_the_json_column(said: Said, sql: Sql, crawl: Crawler) -> None:
    """Without its column, the crawl closes before its first page; the SQL in the message fixes it."""
    sql(TABLE)
    tables = {"*": {"table": "t", "json_column": "item"}}
    done = crawl({"items": []}, SUPABASE_TABLE=None, SUPABASE_TABLES=tables)
    said("A table without its JSON column", [one for one in of_log(done.log) if "json_column" in one])


def test_references(said: Said, sql: Sql, line: MakeLine, project: Project, caplog: pytest.LogCaptureFixture) -> None:
    """Rows without a parent, and each thing that the table of the parents lacks."""
    sql(
        "create table t_p (id bigint, name text, slug text not null, n bigint generated always as (id * 2) stored); "
        f"insert into t_p values (1, 'a', 'x'), (2, 'a', 'y'); {TABLE}; alter table t add p bigint; "
        "grant all on t_p to service_role; notify pgrst, 'reload schema'"
    )

    def start(parent: str = "t_p", column: str = "name", create: bool = False, key: str = "", **columns: str) -> Line:
        reference = Reference("p", parent, (column,), create=create)
        fields = ParentFields({column: "category"}, columns)
        return line(writing=WriteOptions(references=(reference,)), parents={"p": fields}, key=key)

    def refusal(**options: Any) -> str:
        with pytest.raises(FatalError) as raised:
            start(**options)
        return f"{raised.value.reason}: {raised.value}"

    done = start().upload({"id": 1, "category": "b"}, {"id": 2, "category": "a"})
    said("Rows without a parent", [f"rejected {one.code}: {one.message}" for one in done.rejections])
    sql("alter table t_p enable row level security; grant all on t, t_p to anon")
    (hidden,) = start(key=project.anon_key).upload({"id": 1, "category": "a"}).rejections
    said("A row whose parent is hidden by a policy", f"rejected {hidden.code}: {hidden.message}")
    with pytest.raises(ItemError) as raised:
        start().upload({"id": 1, "category": ["a"]})
    said("A list as natural key", f"rejected {raised.value.code}: {raised.value}")
    said("A table of parents without the unique index", refusal(create=True))
    said("A table of parents without a column", refusal(column="title"))
    said("A table of parents that does not exist", refusal(parent="t_q"))
    caplog.clear()
    sql("delete from t_p where id = 2; create unique index on t_p (name)")
    start(create=True)
    said("A column of parents that gets no value", of_records(caplog))
    said("A generated column of parents", refusal(create=True, n="n"))
    sql("alter table t drop column p; notify pgrst, 'reload schema'")
    said("A table without the column for the id", refusal())


def shown(found: list[tuple[str, str, str, str]], *texts: str) -> list[str]:
    """Findings with one of these texts, as in tests/test_messages_check.py."""
    listed = [(level, f"{subject}: {text}\n{fix}".strip()) for level, subject, text, fix in found]
    return [f"{level}: {text}" for level, text in listed if any(one in text for one in texts)]


def test_check(said: Said, sql: Sql, look: Look, project: Project) -> None:
    """Columns that are not there or of another type, fields that do not exist, types that are not known."""
    sql(f"{TABLE}; notify pgrst, 'reload schema'")
    of_offers = {"tests.test_messages_options.Offer": {"table": "t", "stamps": {"title": "hash(id, name)"}}}
    said("A hash of a field that does not exist", shown(look(SUPABASE_TABLES=of_offers), "hash("))
    parent = {"table": "t_p", "match": {"name": "brand"}}
    sql("create table t_p (id int, name text); grant all on t_p to service_role, anon; notify pgrst, 'reload schema'")
    of_offers = {"tests.test_messages_options.Offer": {"table": "t", "references": {"price": parent}}}
    said("A parent by a field that does not exist", shown(look(SUPABASE_TABLES=of_offers), "parent"))
    constant = look(SUPABASE_TABLES=None, SUPABASE_TABLE="t", SUPABASE_CONSTANTS={"source": "x"})
    said("A constant without a column", shown(constant, "'source'"))
    whole = {"*": {"table": "t", "json_column": "title"}}
    said("A text column for whole items", shown(look(SUPABASE_TABLES=whole), "whole"))
    blank = look(SUPABASE_KEY=project.anon_key, SUPABASE_EMPTY_TEXT=EmptyText.NULL)
    said("Blank texts, and a key that may not read the types", shown(blank, "empty_text"))
