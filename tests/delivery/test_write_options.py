"""Options of a table for the write of its rows: over REST, over REST with the function, over a database connection."""

from __future__ import annotations

import random
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scrapy_supabase.backends.merge_sql import function_sql
from scrapy_supabase.models import Chunk, Mode, Row
from tests.fault_proxy import FaultProxy
from tests.fix_crawl import Crawl, Crawler
from tests.fix_project import MakeLine, Project
from tests.polling import eventually

Sql = Callable[..., list[tuple[Any, ...]]]
Rows = list[dict[str, Any]]

BOOKS = (
    "create table t (id int primary key, title text not null, n int default 7, first text, data jsonb, tags text[],"
    " seen timestamptz); grant select, insert, update on t to service_role"
)


@dataclass(frozen=True)
class Way:
    """A way of writing: its name, and how to crawl by it."""

    name: str
    crawler: Crawler
    project: Project

    def __call__(self, items: Rows, **options: Any) -> Crawl:
        """Crawl items into the table `t` with these options."""
        return self.crawler.finish(self.start({"items": items}, **options))

    def start(self, plan: dict[str, Any], **options: Any) -> Any:
        """Start a crawl."""
        settings: dict[str, Any] = {"SUPABASE_TABLE": None, "SUPABASE_TABLES": {"*": {"table": "t", **options}}}
        if self.name == "database":
            settings |= {"SUPABASE_DB_URL": self.project.db_url, "SUPABASE_BACKEND": "database"}
        return self.crawler.start(plan, **settings)

    @property
    def merges(self) -> bool:
        """Whether it does all options."""
        return self.name != "rest"


@pytest.fixture(params=["rest", "function", "database"])
def way(request: pytest.FixtureRequest, crawl: Crawler, project: Project, sql: Sql) -> Way:
    """Each way of writing."""
    sql("drop function if exists scrapy_upsert; notify pgrst, 'reload schema'")
    if request.param == "function":
        sql(function_sql("public", "service_role"))
    return Way(request.param, crawl, project)


@pytest.fixture(params=["function", "database"])
def full_way(request: pytest.FixtureRequest, crawl: Crawler, project: Project, sql: Sql) -> Way:
    """The ways that do all options."""
    sql("drop function if exists scrapy_upsert")
    if request.param == "function":
        sql(function_sql("public", "service_role"))
    return Way(request.param, crawl, project)


def test_insert_only_columns_are_those_of_the_first_row(way: Way, sql: Sql) -> None:
    """Also within a chunk: the second row of a key updates the others."""
    sql(BOOKS)
    sql("insert into t (id, title, first) values (1, 'Old', 'before')")
    items = [
        {"id": 1, "title": "New", "first": "now"},
        {"id": 2, "title": "One", "first": "now"},
        {"id": 2, "title": "Two", "first": "later"},
    ]
    done = way(items, insert_only=["first"])
    assert sql("select id, title, first from t order by id") == [(1, "New", "before"), (2, "Two", "now")], done.log
    assert done.counts("uploaded", "superseded", "failed") == (3, 0, 0)
    assert done.counts("inserted", "updated") == (1, 2)


def test_insert_only_of_a_required_column(way: Way, sql: Sql) -> None:
    """PostgreSQL checks NOT NULL before the conflict: over REST that needs the function."""
    sql(BOOKS)
    sql("insert into t (id, title) values (1, 'Old')")
    done = way([{"id": 1, "title": "New", "n": 1}, {"id": 2, "title": "New", "n": 2}], insert_only="title")
    if not way.merges:
        assert done.stats["finish_reason"] == "supabase_no_function"
        return
    assert sql("select id, title, n from t order by id") == [(1, "Old", 1), (2, "New", 2)], done.log


def test_update_stores_no_new_rows(full_way: Way, sql: Sql) -> None:
    """Rows whose key is not there are counted; required columns may be missing."""
    sql(BOOKS)
    sql("insert into t (id, title, n) values (1, 'Lamp', 10), (2, 'Chair', 20)")
    done = full_way([{"id": 1, "n": 11}, {"id": 2, "n": 21}, {"id": 3, "n": 31}], mode="update")
    assert sql("select id, title, n from t order by id") == [(1, "Lamp", 11), (2, "Chair", 21)], done.log
    assert done.counts("received", "uploaded", "not_found", "failed") == (3, 2, 1, 0)
    assert "1 row not stored, since their key is not in the table" in done.log


def test_update_needs_no_right_to_insert(crawl: Crawler, project: Project, sql: Sql) -> None:
    """A row without a key is rejected."""
    sql(function_sql("public", "service_role"))
    sql("create table t (id int primary key, n int); insert into t values (1, 1)")
    sql("grant select, update on t to service_role")
    done = Way("function", crawl, project)([{"id": 1, "n": 2}, {"n": 3}], mode="update")
    assert sql("select * from t") == [(1, 2)], done.log
    assert [line["code"] for line in done.rejected] == ["no_key"]


@pytest.mark.parametrize("line", ["rest", "database"], indirect=True)
def test_an_update_without_a_key_is_never_an_insert(line: MakeLine, sql: Sql) -> None:
    """A rejected item may come back by `replay --rejected`, without the builder."""
    sql(function_sql("public", "service_role"))
    sql("create table t (id serial primary key, n int); grant all on t to service_role")
    made = line(mode=Mode.UPDATE)
    outcome = made.uploader.upload(Chunk(1, (Row("t", ("n",), None, b'{"n": 1}'),), "1.jsonl"))
    assert [rejection.code for rejection in outcome.rejections] == ["no_key"]
    assert sql("select count(*) from t") == [(0,)]


def test_plain_rows_do_not_use_the_function(crawl: Crawler, proxy: FaultProxy, sql: Sql) -> None:
    """Nor do they ask for it."""
    sql(function_sql("public", "service_role"))
    sql(BOOKS)
    done = crawl({"items": [{"id": n, "title": "x"} for n in range(250)]}, SUPABASE_URL=proxy.url)
    assert done.counts("uploaded", "request") == (250, 3)
    assert not any("/rpc/" in path for _, path, _ in proxy.seen)


@pytest.mark.parametrize("options", [{"mode": "update"}, {"merge": ["data"]}, {"if_changed": True}])
def test_without_the_function_the_crawl_closes(
    crawl: Crawler, project: Project, sql: Sql, options: dict[str, Any]
) -> None:
    """Before its first page, with the SQL."""
    sql(BOOKS)
    sql("drop function if exists scrapy_upsert; notify pgrst, 'reload schema'")
    done = Way("rest", crawl, project)([{"id": 1, "title": "a"}], **options)
    assert done.stats["finish_reason"] == "supabase_no_function"
    assert "scrapy supabase ddl --function" in done.log
    assert "create or replace function" in done.log
    assert sql("select count(*) from t") == [(0,)]


def test_a_row_that_is_equal_is_not_written(full_way: Way, sql: Sql) -> None:
    """No trigger fires; a stamp of the run is no change."""
    sql(BOOKS)
    sql("alter table t add column j json, add column p point, add column seen_at timestamptz")
    items = [
        {"id": n, "title": f"Book {n}", "data": {"a": [n, None]}, "tags": ["x"], "j": {"b": n}, "p": "(1,2)"}
        for n in range(10)
    ]
    options = {"if_changed": True, "stamps": {"seen_at": "now"}}
    first = full_way(items, **options)
    assert first.counts("inserted", "updated", "unchanged") == (10, 0, 0), first.log
    stored = sql("select xmin, * from t order by id")
    items[3]["title"] = "Changed"
    items[4]["tags"] = ["x", "y"]
    second = full_way(items, **options)
    assert second.counts("uploaded", "inserted", "updated", "unchanged") == (10, 0, 2, 8), second.log
    now = sql("select xmin, * from t order by id")
    assert [n for n in range(10) if now[n] != stored[n]] == [3, 4]
    assert "Of the uploaded rows: 2 updated, 8 unchanged" in second.log


def test_objects_and_arrays_are_merged(full_way: Way, sql: Sql) -> None:
    """Also with the row before of the same crawl; twice is as once."""
    sql(BOOKS)
    sql("""insert into t (id, title, data, tags) values (1, 'a', '{"other": {"fee": 5}}', '{p}')""")
    sql("""insert into t (id, title, data) values (2, 'b', '[1, {"k": 1}]')""")
    items = [
        {"id": 1, "title": "a", "data": {"mine": {"fee": 6}}, "tags": ["p", "q"]},
        {"id": 1, "title": "a", "data": {"third": 1}, "tags": ["r"]},
        {"id": 2, "title": "b", "data": [{"k": 1}, 2], "tags": ["x"]},
        {"id": 3, "title": "c", "data": None, "tags": None},
    ]
    for _ in range(2):
        done = full_way(items, merge=["data", "tags"])
        assert done.counts("uploaded", "superseded") == (4, 0), done.log
        assert sql("select data, tags from t order by id") == [
            ({"other": {"fee": 5}, "mine": {"fee": 6}, "third": 1}, ["p", "q", "r"]),
            ([1, {"k": 1}, 2], ["x"]),
            (None, None),
        ]


def test_a_missing_field_is_null(way: Way, sql: Sql) -> None:
    """All rows share full chunks, and a stored value becomes NULL; a column that no item has stays."""
    sql(BOOKS)
    sql("insert into t (id, title, n, first, seen) values (1, 'Old', 1, 'before', '2020-01-01')")
    items = [{"id": 1, "title": "a", "n": 2}, {"id": 2, "title": "b", "first": "x"}]
    done = way(items, missing="null")
    assert sql("select id, n, first, seen is null from t order by id") == [(1, 2, None, False), (2, None, "x", True)], (
        done.log
    )


def mixed_items(number: int, seed: int) -> Rows:
    """Items of which each has some of twelve fields."""
    chance = random.Random(seed)
    return [{"id": n, **{f"a{c:02}": f"{seed} {n}" for c in range(12) if chance.random() < 0.5}} for n in range(number)]


MIXED = "create table t (id int primary key, {}); grant select, insert, update on t to service_role".format(
    ", ".join(f"a{n:02} text" for n in range(12))
)


def test_rows_of_many_column_sets(way: Way, sql: Sql) -> None:
    """Few requests, in a first crawl and in one that updates all rows; no stored value is nulled."""
    sql(MIXED)
    expected: dict[int, dict[str, Any]] = {}
    for seed, most in ((1, 60), (2, 40 if way.merges else 300)):
        items = mixed_items(2000, seed)
        for item in items:
            expected.setdefault(item["id"], {}).update(item)
        done = way(items)
        assert done.counts("uploaded", "failed") == (2000, 0), done.log
        assert done.counts("request")[0] <= most
        inserted, updated = done.counts("inserted", "updated")  # plain upserts of the first eight sets are not counted
        assert (inserted, updated) >= ((1980, 0) if seed == 1 else (0, 1980))
        stored = sql("select to_jsonb(t) from t order by id")
        assert [{k: v for k, v in row.items() if v is not None} for (row,) in stored] == [
            expected[n] for n in range(2000)
        ]
        assert ("SUPABASE_MISSING" in done.log) is (seed == 2 and not way.merges)


def test_missing_null_fills_every_request(way: Way, sql: Sql) -> None:
    """2,000 rows in 20 requests."""
    sql(MIXED)
    done = way(mixed_items(2000, 3), missing="null")
    assert done.counts("uploaded", "failed") == (2000, 0), done.log
    assert done.counts("request") == (20,)


def test_one_bad_row_costs_one_row(full_way: Way, sql: Sql) -> None:
    """As with plain upserts."""
    sql(BOOKS)
    items: Rows = [{"id": n, "title": "x", "n": n} for n in range(50)]
    items[17]["n"] = "many"
    done = full_way(items, if_changed=True)
    assert sql("select count(*) from t") == [(49,)], done.log
    assert [(line["code"], line["writing"]) for line in done.rejected] == [("22P02", {"if_changed": True})]


def test_rows_that_only_the_database_knows_to_be_equal(full_way: Way, sql: Sql) -> None:
    """The newest is stored."""
    sql(
        "create extension if not exists citext; create table t (id citext primary key, n int, data jsonb);"
        " grant all on t to service_role"
    )
    done = full_way([{"id": "ann", "n": 1, "data": {"a": 1}}, {"id": "Ann", "n": 2, "data": {"b": 1}}], merge=["data"])
    assert sql("select id::text, n, data from t") == [("ann", 2, {"a": 1, "b": 1})], done.log


def test_a_row_that_a_trigger_skips_is_rejected(full_way: Way, sql: Sql) -> None:
    """It is neither stored nor lost."""
    sql(BOOKS)
    sql(
        "create or replace function skips() returns trigger language plpgsql as $$ begin return null; end $$;"
        "create trigger skips before insert on t for each row when (new.n = 3) execute function skips()"
    )
    done = full_way([{"id": n, "title": "x", "n": n} for n in range(6)], if_changed=True)
    assert sql("select array_agg(id order by id) from t") == [([0, 1, 2, 4, 5],)], done.log
    assert [line["code"] for line in done.rejected] == ["not_stored"]


def test_rows_in_the_spool_wait_for_the_function(crawl: Crawler, project: Project, sql: Sql) -> None:
    """A plain upsert would replace what they should be merged with."""
    sql(function_sql("public", "service_role"))
    sql(BOOKS)
    sql("""insert into t (id, title, data) values (1, 'Old', '{"a": 1}')""")
    way = Way("function", crawl, project)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        site = f"http://127.0.0.1:{silent.getsockname()[1]}"
        items = [{"id": 1, "title": "New", "data": {"b": 2}}]
        process = way.start({"items": items, "pages": 1, "site": site}, merge=["data"])
        spool = crawl.folder / "spool"
        assert eventually(lambda: sum(path.read_bytes().count(b"\n") for path in spool.glob("*/*.jsonl")) >= 2)
        process.send_signal(signal.SIGKILL)
        crawl.finish(process, balanced=False)
    sql("drop function scrapy_upsert; notify pgrst, 'reload schema'")
    done = way([])
    assert done.counts("recovered_spooled") == (1,), done.log
    assert "the options of table t need the function scrapy_upsert" in done.log
    assert sql("select data from t") == [({"a": 1},)]
    sql(function_sql("public", "service_role"))
    done = way([])
    assert done.counts("recovered") == (1,), done.log
    assert sql("select data from t where id = 1") == [({"a": 1, "b": 2},)]


def test_rows_without_a_key_are_inserted_once(way: Way, sql: Sql) -> None:
    """Also with columns that only a new row gets."""
    sql("create table t (id serial primary key, title text, first text)")
    sql("grant all on t to service_role; grant usage on sequence t_id_seq to service_role")
    done = way([{"title": "a", "first": "x"}, {"title": "b", "first": "y"}], insert_only=["first"])
    assert sql("select title, first from t order by title") == [("a", "x"), ("b", "y")], done.log


def test_rows_in_the_spool_keep_their_options(full_way: Way, sql: Sql) -> None:
    """A crawl is killed; the next one, with other options, uploads the rows as they were meant."""
    sql(BOOKS)
    sql("""insert into t (id, title, first, data) values (1, 'Old', 'before', '{"a": 1}')""")
    options = {"insert_only": ["first"], "merge": ["data"], "missing": "null"}
    items = [{"id": 1, "title": "New", "first": "x", "data": {"b": 2}}, {"id": 2, "title": "Two", "n": 5}]
    spool: Path = full_way.crawler.folder / "spool"
    with socket.create_server(("127.0.0.1", 0)) as silent:  # a site that never answers
        site = f"http://127.0.0.1:{silent.getsockname()[1]}"
        process = full_way.start({"items": items, "pages": 1, "site": site}, **options)
        assert eventually(lambda: sum(path.read_bytes().count(b"\n") for path in spool.glob("*/*.jsonl")) >= 3)
        process.send_signal(signal.SIGKILL)
        full_way.crawler.finish(process, balanced=False)
    done = full_way([{"id": 9, "title": "Nine"}])
    assert done.counts("recovered", "uploaded") == (2, 1), done.log
    assert sql("select id, title, n, first, data from t order by id") == [
        (1, "New", None, "before", {"a": 1, "b": 2}),
        (2, "Two", 5, None, None),
        (9, "Nine", 7, None, None),
    ]
