"""Crawls with the options that decide what a row gets and where it goes, over REST and over a database connection."""

from __future__ import annotations

import hashlib
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import fault_proxy as faults
from tests.fault_proxy import FaultProxy
from tests.fix_crawl import OLDEST, Crawler
from tests.fix_project import Project
from tests.polling import eventually
from tests.spool.test_replay import Command, command

Sql = Callable[..., list[tuple[Any, ...]]]
GRANT = "; grant all on t to service_role"
__all__ = ["command"]
OVER = pytest.mark.parametrize("over", ["rest", "database"])


def server(project: Project, over: str) -> dict[str, Any]:
    """Return the settings of the backend."""
    return {"SUPABASE_DB_URL": project.db_url} if over == "database" else {}


def sha256(*values: Any) -> str:
    """Return the hash as documented."""
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("over", "python"), [("rest", sys.executable), ("database", sys.executable), ("database", str(OLDEST))]
)
def test_constants_hash_and_blank_texts(crawl: Crawler, sql: Sql, project: Project, over: str, python: str) -> None:
    """The hash is the key, so that the second crawl updates. All settings as texts, as with `-s`."""
    sql(f"create table t (key text primary key, title text, price numeric, source text, extra jsonb){GRANT}")
    settings: dict[str, Any] = {
        "SUPABASE_TABLES": '{"*": {"table": "t", "on_conflict": "key", "stamps": {"key": "hash(title, meta.shop)"}}}',
        "SUPABASE_TABLE": None,
        "SUPABASE_CONSTANTS": '{"source": "by {spider}", "extra": {"a": [1]}}',
        "SUPABASE_EMPTY_TEXT": "null",
        "python": python,
        **server(project, over),
    }
    items: list[dict[str, Any]] = [
        {"title": "é", "meta": {"shop": 1}, "price": ""},
        {"title": "é", "price": " "},
        {"price": "7"},
    ]
    done = crawl({"items": items}, **settings)
    assert done.counts("received", "uploaded", "failed") == (3, 2, 1), done.log
    (rejected,) = done.rejected
    assert rejected["code"] == "nothing_to_hash"
    assert "title, meta.shop" in rejected["message"]
    crawl({"items": [{**items[0], "price": "2.50"}]}, **settings)
    found = {row[0]: row[1:] for row in sql("select key, title, price::text, source, extra from t")}
    assert found == {
        sha256("é", 1): ("é", "2.50", "by test0", {"a": [1]}),
        sha256("é", None): ("é", None, "by test0", {"a": [1]}),
    }


@OVER
def test_none_is_skipped(crawl: Crawler, sql: Sql, project: Project, over: str) -> None:
    """What is stored stays; a new row gets the default of the column."""
    sql(f"create table t (id int primary key, title text default 'none', n int){GRANT}")
    sql("insert into t values (1, 'a', 1)")
    items = [{"id": 1, "title": None, "n": " "}, {"id": 2, "title": "", "n": 2}, {"id": 3, "title": "c", "n": None}]
    options: dict[str, Any] = {"SUPABASE_NONE": "skip", "SUPABASE_EMPTY_TEXT": "null_everywhere"}
    done = crawl({"items": items}, **options, **server(project, over))
    assert done.counts("uploaded", "failed") == (3, 0)
    assert sql("select * from t order by id") == [(1, "a", 1), (2, "none", 2), (3, "c", None)]


@pytest.mark.parametrize(("over", "known"), [("rest", True), ("rest", False), ("database", True)])
def test_the_whole_item(crawl: Crawler, sql: Sql, project: Project, over: str, known: bool) -> None:
    """Paths and mapped fields beside it; unknown fields are not rejected. Also with a key that may not read columns."""
    sql(f"create table t (id int primary key, price numeric, title text, item jsonb){GRANT}")
    sql("grant all on t to anon")
    item = {"id": 1, "offer": {"prices": [2.5, 3]}, "title": "x", "odd name": [None]}
    done = crawl(
        {"items": [item]},
        SUPABASE_TABLE=None,
        SUPABASE_TABLES={
            "*": {"table": "t", "json_column": "item", "on_conflict": "id", "columns": {"offer.prices.0": "price"}}
        },
        SUPABASE_UNKNOWN_COLUMNS="reject",
        **({} if known else {"SUPABASE_KEY": project.anon_key}),
        **server(project, over),
    )
    assert done.counts("uploaded", "failed") == (1, 0), done.log
    assert sql("select id, price::float, title, item from t") == [(1, 2.5, "x" if known else None, item)]
    assert "has no column" not in done.log


@OVER
def test_a_table_without_the_json_column(crawl: Crawler, sql: Sql, project: Project, over: str) -> None:
    """The crawl closes before its first page, with the SQL that adds it."""
    sql(f"create table t (id int primary key){GRANT}")
    tables = {"*": {"table": "t", "json_column": "item"}}
    done = crawl({"items": [{"id": 1}]}, SUPABASE_TABLE=None, SUPABASE_TABLES=tables, **server(project, over))
    assert done.stats["finish_reason"] == "supabase_schema"
    assert "json_column must name a jsonb column of table t. To create it, run: ALTER TABLE public.t ADD" in done.log


@OVER
def test_tables_by_a_field_and_by_the_spider(crawl: Crawler, sql: Sql, project: Project, over: str) -> None:
    """Declared values go to their tables; any other is rejected and names no table of its own making."""
    sql(f"create table t (id int primary key, type text){GRANT}; create table t_test0 (id int primary key, n int)")
    sql("grant all on t_test0 to service_role")
    tables = {"*": {"by": "type", "tables": {"a": "t", "b": {"table": "t_{spider}", "constants": {"n": 3}}}}}
    items = [{"id": n, "type": kind} for n, kind in enumerate(("a", "b", "t_test0", "a", "b"))]
    done = crawl({"items": [*items, {"id": 9}]}, SUPABASE_TABLE=None, SUPABASE_TABLES=tables, **server(project, over))
    assert done.counts("received", "uploaded", "failed") == (6, 4, 2), done.log
    assert sql("select * from t order by id") == [(0, "a"), (3, "a")]
    assert sql("select * from t_test0 order by id") == [(1, 3), (4, 3)]
    assert [(line["code"], line["message"]) for line in done.rejected] == [
        ("no_route", "field 'type' is 't_test0', and SUPABASE_TABLES['*'] has tables only for: a, b"),
        ("no_route", "the item has no field 'type', and SUPABASE_TABLES['*'] has tables only for: a, b"),
    ]
    assert "has no column 'type'" not in done.log


@OVER
def test_a_table_that_may_occur_is_checked(crawl: Crawler, sql: Sql, project: Project, over: str) -> None:
    """Also if no item goes there: the crawl closes before its first page."""
    sql(f"create table t (id int primary key){GRANT}")
    tables = {"*": {"by": "tests.crawl.made", "tables": {"a": "t", "b": "t_missing"}}}
    done = crawl({"items": []}, SUPABASE_TABLE=None, SUPABASE_TABLES=tables, **server(project, over))
    assert done.stats["finish_reason"] == "supabase_no_table"
    assert "t_missing" in done.log


SLOW = """create or replace function t_slow() returns trigger language plpgsql as
$$ begin perform pg_sleep(60); return new; end $$;
create trigger slow before insert on t for each row execute function t_slow()"""
END_INSERTS = """select pg_terminate_backend(pid) from pg_stat_activity
where state = 'active' and query like '%json_to_recordset%' and pid <> pg_backend_pid()"""


@OVER
def test_rows_in_the_spool_keep_what_they_got(
    crawl: Crawler, sql: Sql, proxy: FaultProxy, project: Project, over: str
) -> None:
    """`kill -9` while the server is down or slow, then a crawl with other settings: rows are stored as scraped."""
    sql(f"create table t (id int primary key, key text unique, title text, n int, source text){GRANT}")
    settings = {"SUPABASE_URL": proxy.url, **server(project, over)}
    if over == "rest":
        proxy.faults.extend([faults.passes] * 2)
        proxy.always = faults.answers(503, "<h1>down</h1>")
    else:
        sql(SLOW)
    items = [*[{"id": n, "title": " ", "n": ""} for n in range(30)], {"id": 30, "title": "x", "n": 5}]
    killed = crawl.start(
        {"items": items},
        SUPABASE_CONSTANTS={"source": "{spider} 1"},
        SUPABASE_STAMPS={"key": "hash(id)"},
        SUPABASE_EMPTY_TEXT="null",
        SUPABASE_NONE="skip",
        SUPABASE_CLOSE_TIMEOUT=100,
        **settings,
    )
    spool = crawl.folder / "spool"
    assert eventually(
        lambda: sum(path.read_bytes().count(b'"test0 1"') for path in spool.glob("*/*.jsonl")) == len(items)
    )
    killed.send_signal(signal.SIGKILL)
    crawl.finish(killed, balanced=False)
    proxy.always = faults.passes
    if over == "database":
        sql(END_INSERTS)
        sql("drop trigger slow on t")
    done = crawl(
        {"items": [{"id": 99, "title": "", "n": 1}]},
        SUPABASE_CONSTANTS={"source": "other"},
        SUPABASE_EMPTY_TEXT="null_everywhere",
        **settings,
    )
    assert done.counts("recovered", "uploaded", "failed", "spooled") == (31, 1, 0, 0), done.log
    found = sql("select id, key, title, n, source from t order by id")
    assert found[:30] == [(n, sha256(n), " ", None, "test0 1") for n in range(30)]
    assert found[30:] == [(30, sha256(30), "x", 5, "test0 1"), (99, None, None, 1, "other")]


@OVER
def test_load(command: Command, sql: Sql, project: Project, tmp_path: Path, over: str) -> None:
    """The options of the table apply to the rows of files; `{spider}` is "load", as in the stamp `spider`."""
    sql(f"create table t (key text primary key, n numeric, source text, title text default 'old'){GRANT}")
    tables = {
        "*": {
            "by": "type",
            "tables": {
                "a": "other",
                "b": {
                    "table": "t",
                    "on_conflict": "key",
                    "stamps": {"key": "hash(meta.id)"},
                    "columns": {"meta.n": "n"},
                    "constants": {"source": "{spider}"},
                    "empty_text": "null",
                    "none": "skip",
                },
            },
        }
    }
    lines = ['{"meta": {"id": 1, "n": 1.50}, "title": null}', '{"meta": {"id": 2, "n": ""}, "title": ""}', "{}"]
    done = command(
        *("load", "-", "--table", "t"),
        text="\n".join(lines),
        SUPABASE_TABLES=json.dumps(tables),
        **server(project, over),
    )
    assert done.returncode == 1, done
    assert sql("select key, n::text, source, title from t order by n") == [
        (sha256(1), "1.50", "load", "old"),
        (sha256(2), None, "load", ""),
    ]
    (rejected,) = [json.loads(line) for line in (tmp_path / "spool" / "rejected.jsonl").read_text().splitlines()]
    assert rejected["code"] == "nothing_to_hash"


def test_check_and_ddl_take_the_names_of_the_spiders(command: Command, sql: Sql, tmp_path: Path) -> None:
    """All of the project, or the one that is named; outside of a project, the message says so."""
    sql("create table t_a (id int primary key); grant all on t_a to service_role; notify pgrst, 'reload schema'")
    given = {"SUPABASE_TABLE": "t_{spider}"}
    outside = command("check", **given)
    assert "SUPABASE_TABLE is 't_{spider}', and no spider is known whose name belongs there" in outside.stdout
    (tmp_path / "scrapy.cfg").write_text("[settings]\ndefault = project_settings\n")
    (tmp_path / "project_settings.py").write_text(
        "SPIDER_MODULES = ['t_spiders']\nADDONS = {'scrapy_supabase.Addon': 1}\n"
    )
    spider = "class {0}(scrapy.Spider):\n    name = '{0}'\n"
    items = "class Item(scrapy.Item):\n    id = scrapy.Field(type=int)\n"
    (tmp_path / "t_spiders.py").write_text("import scrapy\n" + spider.format("a") + spider.format("b") + items)
    every = command("check", **given)
    assert "✓ table t_a: exists" in every.stdout
    assert "✗ table t_b: PGRST205" in every.stdout
    assert "t_b" not in command("check", "a", **given).stdout
    assert "Name one of them with --table: t_a, t_b." in command("ddl", "t_spiders.Item", **given).stderr
    assert (
        "create table if not exists public.t_b (" in command("ddl", "t_spiders.Item", "--table", "t_b", **given).stdout
    )
    (tmp_path / "rows.jsonl").write_text('{"id": 1}\n')
    assert command("load", "rows.jsonl", "--table", "t_a", **given).returncode == 0
    assert sql("select * from t_a") == [(1,)]
    assert "No table is named. Add --table" in command("load", "rows.jsonl", **given).stderr
