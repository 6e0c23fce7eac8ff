"""`SUPABASE_CREATE_TABLES`: a crawl creates the tables and columns that its items need, over both backends."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from tests import fault_proxy as faults
from tests.checkup.test_check import Look, look
from tests.fault_proxy import FaultProxy
from tests.fix_crawl import OLDEST, Crawler
from tests.fix_project import Project
from tests.polling import eventually
from tests.test_messages_commands import Command, command

__all__ = ["command", "look"]  # fixtures
Sql = Callable[..., list[tuple[Any, ...]]]
Load = Callable[..., list[str]]
CLASSES: dict[str, Any] = {
    "tests.crawl.Author": {"table": "t_authors", "on_conflict": "id", "stamps": {"seen": "now"}},
    "tests.crawl.Tag": {"table": "t_tags", "on_conflict": "id"},
    "tests.crawl.Price": {"table": "t_prices", "on_conflict": "id"},
    "tests.crawl.Book": {"table": "t_books", "on_conflict": "id"},
    "*": {"table": "t_dicts", "on_conflict": "url", "constants": {"source": "x"}},
}
ITEMS = [
    {"_class": "Author", "id": 1, "name": "Jane"},
    {"_class": "Tag", "id": 1, "label": "new"},
    {"_class": "Price", "id": 1, "amount": "9.99"},
    {"_class": "Book", "id": 1, "title": "Emma", "pages": 300, "author": None},
    {"_class": "Book", "id": 2, "title": "Persuasion"},
    {"url": "a", "price": 5, "seen": "2026-11-27T10:00:00Z", "tags": ["x"], "more": {"a": 1}, "sold": None},
    {"url": "b", "price": 5.5, "seen": "2026-11-27T10:00:00Z", "tags": [], "more": {"a": 1}, "sold": None},
]


def server(project: Project, over: str, **more: Any) -> dict[str, Any]:
    """Return the settings of a crawl that creates tables; the setting is a text, as with `-s`."""
    backend = {"SUPABASE_BACKEND": over}
    return {"SUPABASE_CREATE_TABLES": "true", "SUPABASE_DB_URL": project.db_url, **backend, **more}


def dicts(*items: dict[str, Any]) -> dict[str, Any]:
    """Return the plan of a crawl."""
    return {"items": list(items)}


@pytest.fixture
def load(command: Command, project: Project) -> Load:
    """Load rows, as `scrapy supabase load` does: `load(options, *rows)`."""

    def run(options: Sequence[str], *rows: dict[str, Any]) -> list[str]:
        text = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        settings = server(project, "database", SUPABASE_TABLE="t")
        return command("load", "-", *options, text=text, **settings)

    return run


def columns(sql: Sql, table: str) -> dict[str, str]:
    """Return column → type."""
    query = (
        "select attname, format_type(atttypid, atttypmod) from pg_attribute "
        "where attrelid = %s::regclass and attnum > 0 order by attnum"
    )
    return dict(sql(query, table))


@pytest.mark.parametrize(("over", "python"), [("rest", str(OLDEST)), ("database", sys.executable)])
def test_every_kind_of_item(crawl: Crawler, sql: Sql, project: Project, over: str, python: str) -> None:
    """Classes at open, the rest from the first rows; the next crawl creates only a column that is new."""
    settings = server(project, over, SUPABASE_TABLES=CLASSES, SUPABASE_TABLE=None)
    done = crawl(dicts(*ITEMS), python=python, **settings)
    assert done.counts("received", "uploaded", "failed") == (7, 7, 0), done.log
    assert columns(sql, "t_authors") == {"id": "bigint", "name": "text", "seen": "timestamp with time zone"}
    assert columns(sql, "t_tags") == {"id": "bigint", "label": "text"}
    assert columns(sql, "t_prices") == {"id": "bigint", "amount": "numeric"}
    assert columns(sql, "t_books") == {"id": "bigint", "title": "text", "pages": "numeric"}  # author had no value
    assert columns(sql, "t_dicts") == {
        "url": "text", "source": "text", "price": "numeric", "seen": "timestamp with time zone", "tags": "text[]",
        "more": "jsonb",
    }  # fmt: skip
    assert sql("select id, title, pages from t_books order by id") == [(1, "Emma", 300), (2, "Persuasion", None)]
    secured = "select bool_and(relrowsecurity), count(*) from pg_class where relname ~ '^t_.*s$' and relkind = 'r'"
    assert sql(secured) == [(True, 5)]
    assert sql("select has_table_privilege('service_role', 't_dicts', 'insert, update, select')") == [(True,)]
    assert done.log.count("create table if not exists") == 5
    assert "WARNING: Table" not in done.log
    password = conninfo_to_dict(project.db_url).get("password")
    assert not password or f":{password}@" not in done.log
    more = dicts(
        *ITEMS[:1], {"url": "a", "price": 6, "sold": 3, "note": None}, {"_class": "Book", "id": 1, "author": "J"}
    )
    again = crawl(more, python=python, **settings)
    assert again.counts("uploaded", "failed") == (3, 0), again.log
    assert "create table" not in again.log
    assert again.log.count("alter table public.t_dicts add column if not exists sold numeric;") == 1
    assert sql("select url, price, sold from t_dicts order by url") == [("a", 6, 3), ("b", 5.5, None)]
    assert sql("select author from t_books order by id") == [("J",), (None,)]
    assert "note" not in columns(sql, "t_dicts")
    assert "WARNING: Table" not in again.log


def test_a_value_that_does_not_fit(load: Load, sql: Sql) -> None:
    """The row is rejected and the type stays. Rows without a key get a number."""
    load(["--chunk-size", "1"], {"n": 1, "day": "2026-11-27"}, {"n": "many", "day": "2026-11-28"})
    assert columns(sql, "t") == {"id": "bigint", "n": "numeric", "day": "text"}
    assert sql("select id, n from t") == [(1, 1)]
    load([], {"n": "some", "day": "unknown"}, {"n": 3, "day": None})
    assert sql("select n from t order by id") == [(1,), (3,)]


def test_a_type_does_not_change_later_values(load: Load, sql: Sql) -> None:
    """Dates would lose a time of day, times an offset, an array of texts the types of its elements."""
    first = {"id": 1, "day": "2026-11-27", "at": "2026-11-27T10:00:00", "clock": "10:00:00", "tags": []}
    later = {"id": 2, "day": "2026-11-28T09:00:00", "at": "2026-11-28T10:00:00+05:00", "clock": "10:00:00+05:00"}
    rows = [first, {**later, "tags": [{"a": 1}]}, {**later, "id": 3, "day": "tomorrow", "tags": ["x", 1]}]
    load(["--chunk-size", "1"], *rows)
    assert [row for (row,) in sql("select to_jsonb(t) from t order by id")] == rows


def test_two_crawls_at_once(crawl: Crawler, sql: Sql, project: Project, tmp_path: Any) -> None:
    """One creates the tables; both store their rows."""
    settings = server(project, "rest", SUPABASE_TABLES=CLASSES, SUPABASE_TABLE=None)
    crawlers = [crawl, Crawler(tmp_path / "other", project)]
    (tmp_path / "other").mkdir()
    plans = [
        dicts({"_class": "Tag", "id": n, "label": "x"}, {"url": f"u{n}", "price": 1, f"own{n}": n}) for n in range(2)
    ]
    started = [one.start(plan, **settings) for one, plan in zip(crawlers, plans, strict=True)]
    done = [one.finish(process) for one, process in zip(crawlers, started, strict=True)]
    for each in done:
        assert each.counts("uploaded", "failed") == (2, 0), each.log
    created = "SUPABASE_CREATE_TABLES: create table if not exists public.t_"
    assert sum(each.log.count(created) for each in done) == 4, [each.log for each in done]
    assert sql("select id from t_tags order by id") == [(0,), (1,)]
    assert sql("select url, own0, own1 from t_dicts order by url") == [("u0", 0, None), ("u1", None, 1)]


def test_a_table_and_its_children(crawl: Crawler, sql: Sql, project: Project) -> None:
    """The tables of children at any depth are created from their first rows; keys keep the type of the parent."""
    tags = {"table": "t_tags", "parent": {"book": "book", "n": "n"}, "on_conflict": ["book", "n", "name"]}
    reviews = {"table": "t_reviews", "parent": {"book": "id"}, "position": "n", "on_conflict": ["book", "n"]}
    books = {"table": "t", "on_conflict": "id", "children": {"reviews": {**reviews, "children": {"tags": tags}}}}
    item = {
        "id": 7,
        "title": "Emma",
        "reviews": [{"text": "good", "stars": 5, "tags": [{"name": "x"}]}, {"text": "bad"}],
    }
    done = crawl(dicts(item), **server(project, "database", SUPABASE_TABLES={"*": books}, SUPABASE_TABLE=None))
    assert done.counts("uploaded", "failed") == (4, 0), done.log
    assert columns(sql, "t") == {"id": "bigint", "title": "text"}
    assert columns(sql, "t_reviews") == {"book": "bigint", "n": "integer", "text": "text", "stars": "numeric"}
    assert columns(sql, "t_tags") == {"book": "bigint", "n": "integer", "name": "text"}
    assert sql("select n, text, stars from t_reviews order by n") == [(1, "good", 5), (2, "bad", None)]
    assert sql("select * from t_tags") == [(7, 1, "x")]


def test_rights_to_delete(crawl: Crawler, sql: Sql, project: Project) -> None:
    """A role that owns no table deletes what is gone from the tables that the crawl created: `unseen`, `replace`."""
    reviews = {"table": "t_reviews", "parent": {"book": "id"}, "position": "n", "on_conflict": ["book", "n"]}
    books = {
        "table": "t",
        "on_conflict": "id",
        "unseen": {"delete": True, "at_most": 1.0},
        "children": {"reviews": {**reviews, "replace": True}},
    }
    settings = server(project, "rest", SUPABASE_TABLES={"*": books}, SUPABASE_TABLE=None)
    settings["SUPABASE_STAMPS"] = {"run_id": "run_id"}
    for numbers, stars, unseen in (((1, 2), (5, 4), 0), ((1,), (3,), 2)):
        done = crawl(dicts(*({"id": n, "reviews": [{"stars": s} for s in stars]} for n in numbers)), **settings)
        assert done.counts("failed", "spooled", "unseen") == (0, 0, unseen), done.log
    assert sql("select id from t") == [(1,)]
    assert sql("select book, n, stars from t_reviews order by 1, 2") == [(1, 1, 3), (2, 1, 5), (2, 2, 4)]


def test_a_table_and_its_parents(crawl: Crawler, sql: Sql, project: Project) -> None:
    """A parent has a number and a unique natural key, and the column with its id is a foreign key."""
    brand = {"table": "t_brands", "match": {"name": "brand"}, "columns": {"site": "brand_site"}, "create": True}
    shelf = {"table": "t_shelves", "match": {"code": "shelf"}}
    references = {"brand_id": brand, "shelf_id": shelf}
    parent = {"lamp": "url", "brand": "brand_id"}
    parts = {"table": "t_parts", "parent": parent, "position": "n", "on_conflict": ["lamp", "n"]}
    kinds = {
        "shelf": {"table": "t_shelves", "on_conflict": "code"},
        "lamp": {"table": "t_lamps", "on_conflict": "url", "references": references, "children": {"parts": parts}},
    }
    settings = server(project, "rest", SUPABASE_TABLES={"*": {"by": "kind", "tables": kinds}}, SUPABASE_TABLE=None)
    lamps: list[dict[str, Any]] = [
        {"kind": "lamp", "url": f"u{n}", "brand": f"b{n % 2}", "brand_site": "x", "shelf": "s", "price": 1 + n}
        for n in range(4)
    ]
    lamps[1]["parts"] = [{"name": "bulb"}]
    done = crawl(dicts({"kind": "shelf", "code": "s", "floor": 2}, *lamps), **settings)
    assert done.counts("uploaded", "failed") == (6, 0), done.log
    assert columns(sql, "t_parts") == {"lamp": "text", "brand": "bigint", "n": "integer", "name": "text"}
    assert sql("select t_parts.name from t_parts join t_brands b on b.id = brand where b.name = 'b1'") == [("bulb",)]
    assert columns(sql, "t_brands") == {"id": "bigint", "name": "text", "site": "text"}
    assert columns(sql, "t_shelves") == {"id": "bigint", "code": "text", "floor": "numeric"}
    found = columns(sql, "t_lamps")
    assert (found["brand_id"], found["shelf_id"], found["price"]) == ("bigint", "bigint", "numeric")
    assert not {"brand", "shelf", "brand_site"} & found.keys()
    joined = (
        "select url, b.name, code from t_lamps join t_brands b on b.id = brand_id join t_shelves s on s.id = shelf_id"
    )
    assert sql(f"{joined} order by url") == [(f"u{n}", f"b{n % 2}", "s") for n in range(4)]
    keys = "select count(*) from pg_constraint where conrelid = 't_lamps'::regclass and contype = 'f'"
    assert sql(keys) == [(2,)]


@pytest.mark.parametrize("child", ["", "create table t (url text primary key); grant all on t to service_role"])
def test_a_parent_that_no_crawl_makes(crawl: Crawler, sql: Sql, project: Project, look: Look, child: str) -> None:
    """Without `create`, its table must be there: the crawl and `check` say so before a page, for a new child, too."""
    sql(f"{child or 'select'}; notify pgrst, 'reload schema'")
    references = {"brand_id": {"table": "t_brands", "match": {"name": "brand"}}}
    tables = {"*": {"table": "t", "on_conflict": "url", "references": references}}
    settings = server(project, "rest", SUPABASE_TABLES=tables, SUPABASE_TABLE=None)
    found = [finding for finding in look(**settings) if finding[0] == "error"]
    assert [(subject, remedy) for _, subject, _, remedy in found] == [
        ("table t", "Correct references['brand_id'] of table t in SUPABASE_TABLES, or create the table.")
    ]
    if child:
        return
    done = crawl(dicts({"url": "a", "brand": "b"}), **settings)
    assert (done.stats["finish_reason"], sql("select to_regclass('t')")) == ("supabase_no_table", [(None,)]), done.log
    assert "before its first page" in done.log


def test_a_kill_between_the_table_and_its_first_row(
    crawl: Crawler, sql: Sql, project: Project, proxy: FaultProxy
) -> None:
    """The next crawl uploads the rows; their table is there."""

    def holds_writes(exchange: faults.Exchange) -> None:
        (faults.hangs if exchange.handler.command == "POST" else faults.passes)(exchange)

    proxy.always = holds_writes
    settings = server(project, "rest", SUPABASE_URL=proxy.url, BATCH_FLUSH_INTERVAL=0.1)
    process = crawl.start(dicts({"_class": "Price", "id": 1, "amount": "9.5"}), **settings)
    assert eventually(lambda: sql("select to_regclass('t') is not null") == [(True,)], 30), crawl.log_of(process)
    process.send_signal(signal.SIGKILL)
    crawl.finish(process, balanced=False)
    proxy.always = faults.passes
    again = crawl(dicts({"_class": "Price", "id": 2, "amount": "7"}), **settings)
    assert again.counts("uploaded") == (1,), again.log
    assert sql("select id, amount from t order by id") == [(1, 9.5), (2, 7)]
    assert columns(sql, "t") == {"id": "bigint", "amount": "numeric"}  # as declared: a Decimal is sent as text


def test_the_policy_for_unknown_columns(load: Load, sql: Sql) -> None:
    """Where the settings say what becomes of fields without a column, only a new table gets columns for them."""
    key = ["--on-conflict", "url", "-s", "SUPABASE_UNKNOWN_COLUMNS=extra"]
    load(key, {"url": "a", "price": 1, "gone": None})
    assert columns(sql, "t") == {"url": "text", "price": "numeric", "gone": "text", "extra": "jsonb"}
    load(key, {"url": "b", "color": "red"})
    assert sql("select url, extra from t order by url") == [("a", None), ("b", {"color": "red"})]
    load(["-s", "SUPABASE_UNKNOWN_COLUMNS=reject"], {"url": "c", "color": "red"})
    assert sql("select count(*) from t") == [(2,)]


def test_names_that_no_column_may_have(load: Load, sql: Sql) -> None:
    """Their fields are left out with a warning, and the others are stored."""
    _, warning = load([], {"id": 1, "ctid": 5, "x" * 64: 1, "Odd \"name'": 2})
    names = f"'ctid', '{'x' * 64}'"
    start = "stderr: WARNING: Table t: fields whose names no column can have are left out"
    assert warning.startswith(f"{start}: {names}. A name has ")
    assert sql('select id, "Odd ""name\'" from t') == [(1, 2)]
    assert list(columns(sql, "t")) == ["id", "Odd \"name'"]
    sql("create view t_view as select id from t")
    _, warning = load(["--table", "t_view"], {"id": 2, "more": 1})  # a view gets no column
    assert "Table t_view has no column 'more': the field is left out" in warning
    assert sql("select id from t order by id") == [(1,), (2,)]


def test_the_name_of_a_later_field_is_that_of_the_generated_key(load: Load, sql: Sql) -> None:
    """A warning says that its values are not stored."""
    _, warning = load(["--chunk-size", "1"], {"n": 1}, {"n": 2, "id": 7})
    assert "Table t generates column 'id' itself: the items' values for it are not sent." in warning
    assert sql("select id, n from t order by id") == [(1, 1), (2, 2)]
