"""`scrapy supabase check`: it lists what would stop a crawl, with remedies, and stores nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jwt
import pytest
from scrapy.settings import Settings

from scrapy_supabase.checkup.check import check
from scrapy_supabase.checkup.finding import Level
from scrapy_supabase.local import LocalSupabase
from tests import fork_server
from tests.fault_proxy import FaultProxy, answers, delays, passes, resets_before
from tests.fix_project import Project

Sql = Callable[..., list[tuple[Any, ...]]]
Look = Callable[..., list[tuple[str, str, str, str]]]

TABLE = (
    "create table t (id bigint primary key, title text, price numeric); grant all on t to service_role; "
    "notify pgrst, 'reload schema'"
)
OPEN = "; grant all on t to anon; alter table t enable row level security; "


@dataclasses.dataclass
class Book:
    """What goes to table t."""

    id: int
    title: str
    price: float | None = None


@dataclasses.dataclass
class Page:
    """Fields that t lacks."""

    id: int
    isbn: str
    price: list[str]


@dataclasses.dataclass
class Author:
    """A field that t has, and one that it lacks."""

    id: int
    name: str


BOOKS = {"tests.checkup.test_check.Book": "t"}


@pytest.fixture
def look(project: Project, tmp_path: Path) -> Look:
    """Check with these settings; the findings as (level, subject, text, remedy)."""

    def run(
        clock: Callable[[], float] = time.time, spiders: Sequence[str] = (), **settings: Any
    ) -> list[tuple[str, str, str, str]]:
        given = {
            "SUPABASE_URL": project.url,
            "SUPABASE_KEY": project.key,
            "SUPABASE_TABLES": BOOKS,
            "SUPABASE_SPOOL_DIR": str(tmp_path / "spool"),
            "BATCH_RETRY_DELAY": 0.01,
            **settings,
        }
        findings = list(check(Settings(given), in_project=False, spiders=spiders, clock=clock))
        assert project.key not in repr(findings)
        return [(f.level.value, f.subject, f.text, f.remedy) for f in findings]

    return run


def errors(findings: list[tuple[str, str, str, str]]) -> list[tuple[str, str, str]]:
    """Those that are."""
    return [(subject, text, remedy) for level, subject, text, remedy in findings if level == Level.ERROR]


def warnings(findings: list[tuple[str, str, str, str]]) -> list[tuple[str, str]]:
    """What should be looked at."""
    return [(text, remedy) for level, _, text, remedy in findings if level == Level.WARNING]


def token(stack: LocalSupabase, **claims: Any) -> str:
    """A key signed with the project's secret."""
    return jwt.encode({"role": "service_role", **claims}, stack.jwt_secret, algorithm="HS256")


def test_a_project_that_is_ready(sql: Sql, look: Look) -> None:
    """The check finds no error and no warning, and stores no row."""
    sql(TABLE)
    found = look()
    assert {level for level, *_ in found} == {"ok"}, found
    assert [subject for _, subject, *_ in found] == [
        "settings", "spool", "key", "server", "server", "table t", "table t", "table t", "server",
    ]  # fmt: skip
    assert sql("select count(*) from t") == [(0,)]


def test_all_wrong_settings_are_listed(look: Look) -> None:
    """Each is listed with its value and the allowed values; no server is needed."""
    found = look(SUPABASE_MODE="replace", BATCH_CHUNK_SIZE=0)
    assert [subject for subject, _, _ in errors(found)] == ["settings"] * 2
    assert (
        "settings",
        "SUPABASE_MODE is 'replace' (str)",
        "It must be one of upsert, insert, ignore, update.",
    ) in errors(found)


@pytest.mark.parametrize("key", ["sb_secret_nonsense", "a.b.c"])
def test_a_wrong_key(sql: Sql, look: Look, key: str) -> None:
    """A key that the server refuses is an error about the key."""
    sql(TABLE)
    ((subject, _, remedy),) = errors(look(SUPABASE_KEY=key))
    assert subject == "key"
    assert "Check SUPABASE_URL and SUPABASE_KEY" in remedy


def test_an_expired_token(sql: Sql, look: Look, local_stack: LocalSupabase) -> None:
    """The expiry is read from the key, before the server refuses it."""
    sql(TABLE)
    found = errors(look(SUPABASE_KEY=token(local_stack, exp=1_700_000_000)))
    assert found[0][0] == "key"
    assert "expired on 2023-11-14 22:13 UTC" in found[0][1]
    assert "Set SUPABASE_KEY to a valid key" in found[0][2]


def test_a_token_that_expires_soon_is_a_warning(sql: Sql, look: Look, local_stack: LocalSupabase) -> None:
    """A key that expires within a week is a warning."""
    sql(TABLE)
    found = look(SUPABASE_KEY=token(local_stack, exp=int(time.time()) + 3600))
    assert [(level, subject) for level, subject, *_ in found if level != "ok"] == [("warning", "key")]


def test_the_anon_key_under_row_level_security(sql: Sql, look: Look, project: Project) -> None:
    """Without a policy, rows are rejected; the printed SQL fixes it; the test stores no row."""
    sql(TABLE + OPEN)
    found = look(SUPABASE_KEY=project.anon_key)
    assert ("warning", "key") in [(level, subject) for level, subject, *_ in found]
    ((subject, text, remedy),) = errors(found)
    assert subject == "table t"
    assert text.startswith("row-level security rejects rows of anon")
    sql(remedy.partition("run: ")[2])
    assert errors(look(SUPABASE_KEY=project.anon_key)) == []
    assert sql("select count(*) from t") == [(0,)]


def test_policies_for_inserts_only(sql: Sql, look: Look, project: Project) -> None:
    """Upserts would be rejected; plain inserts are accepted."""
    sql(f"{TABLE}{OPEN} create policy p on t for insert to anon with check (true)")
    ((_, text, remedy),) = errors(look(SUPABASE_KEY=project.anon_key))
    assert "rejects upserts" in text
    assert "FOR select" in remedy
    assert errors(look(SUPABASE_KEY=project.anon_key, SUPABASE_MODE="insert")) == []
    assert sql("select count(*) from t") == [(0,)]


def test_missing_columns_are_found_with_the_anon_key(sql: Sql, look: Look, project: Project) -> None:
    """The key may not read the schema, so each column is tried."""
    sql(f"{TABLE}{OPEN} create policy p on t for all to anon using (true)")
    found = errors(look(SUPABASE_KEY=project.anon_key, SUPABASE_TABLES={"tests.checkup.test_check.Page": "t"}))
    assert [text for _, text, _ in found] == [
        "no column 'isbn' for items of Page: the field is dropped (SUPABASE_UNKNOWN_COLUMNS)"
    ]


def test_a_missing_grant(sql: Sql, look: Look) -> None:
    """The printed GRANT fixes it."""
    sql(f"{TABLE}; revoke all on t from service_role")
    ((subject, text, remedy),) = errors(look())
    assert subject == "table t"
    assert "permission denied" in text
    sql(remedy.removeprefix("Run: "))
    assert errors(look()) == []


def test_a_missing_table(look: Look, sql: Sql) -> None:
    """The other tables are still checked."""
    sql(TABLE)
    found = look(SUPABASE_TABLES={**BOOKS, "*": "t_missing"})
    ((subject, _, remedy),) = errors(found)
    assert subject == "table t_missing"
    assert remedy.startswith("Create it")
    assert ("ok", "table t") in [(level, subject) for level, subject, *_ in found]


def test_a_missing_unique_index(sql: Sql, look: Look) -> None:
    """It is an error, because a crawl would fall back to inserts; the printed index fixes it."""
    sql(TABLE)
    ((subject, text, remedy),) = errors(look(SUPABASE_ON_CONFLICT="title"))
    assert subject == "table t"
    assert "42P10" in text
    sql(remedy.removeprefix("Run: "))
    assert errors(look(SUPABASE_ON_CONFLICT="title")) == []


@pytest.mark.parametrize("over", ["rest", "anon", "database"])
def test_a_deferrable_constraint(sql: Sql, look: Look, project: Project, over: str) -> None:
    """It is found in the catalog, or by two rows of defaults that are not stored; requests without rows pass."""
    sql(
        "create table t (id bigint, title text, price numeric, constraint t_title_key unique (title) deferrable)"
        f"{OPEN} create policy p on t for all to anon using (true); grant all on t to service_role"
    )
    ways = {"anon": {"SUPABASE_KEY": project.anon_key}, "database": {"SUPABASE_DB_URL": project.db_url}}
    where = ways.get(over, {})
    ((subject, text, remedy),) = errors(look(**where, SUPABASE_ON_CONFLICT="title"))
    assert subject == "table t"
    assert text.startswith("refuses upserts: 55000")
    assert remedy == "Run: ALTER TABLE public.t DROP CONSTRAINT t_title_key, ADD UNIQUE (title);"
    assert sql("select * from t") == []
    sql(remedy.removeprefix("Run: "))
    assert errors(look(**where, SUPABASE_ON_CONFLICT="title")) == []


def test_a_generated_column_as_key(sql: Sql, look: Look, project: Project) -> None:
    """It is a valid key; an identity column is not."""
    sql(
        "create table t (id bigint, title text, price numeric, made text generated always as (md5(title)) stored "
        "unique, number bigint generated always as identity unique); grant all on t to service_role; "
        "notify pgrst, 'reload schema'"
    )
    for where in ({}, {"SUPABASE_DB_URL": project.db_url}):
        found = look(**where, SUPABASE_ON_CONFLICT="made")
        assert errors(found) == []
        assert not [text for _, text in warnings(found) if "key" in text]
        ((_, text, remedy),) = errors(look(**where, SUPABASE_ON_CONFLICT="number"))
        assert "'number' of table t gets a new value for each row" in text
        assert remedy.startswith("SUPABASE_ON_CONFLICT must name columns that the items have")


def test_columns_that_are_missing_or_of_another_type(sql: Sql, look: Look) -> None:
    """Both are errors; the printed SQL fixes them."""
    sql(TABLE)
    pages = {"SUPABASE_TABLES": {"tests.checkup.test_check.Page": "t"}}
    missing, wrong = errors(look(**pages))
    assert missing[1] == "no column 'isbn' for items of Page: the field is dropped (SUPABASE_UNKNOWN_COLUMNS)"
    assert wrong[1] == "column 'price' is numeric, but items of Page have text[]: rows are rejected"
    sql(missing[2].removeprefix("Run: "))
    sql("alter table t drop column price")
    sql("alter table t add column price text[]")
    assert errors(look(**pages)) == []


def test_an_explicit_drop_of_fields_is_a_warning(sql: Sql, look: Look) -> None:
    """Dropped fields are an error only by default; `reject` is an error; a jsonb column stores the fields."""
    sql(f"{TABLE}; alter table t drop column title; alter table t add column rest jsonb")
    assert [text for _, text, _ in errors(look())] == [
        "no column 'title' for items of Book: the field is dropped (SUPABASE_UNKNOWN_COLUMNS)"
    ]
    assert errors(look(SUPABASE_UNKNOWN_COLUMNS="drop")) == []
    assert "rows with the field are rejected" in errors(look(SUPABASE_UNKNOWN_COLUMNS="reject"))[0][1]
    assert errors(look(SUPABASE_UNKNOWN_COLUMNS="rest")) == []
    assert "cannot store fields" in errors(look(SUPABASE_UNKNOWN_COLUMNS="price"))[0][1]


def test_whole_items(sql: Sql, look: Look) -> None:
    """Fields without a column are in the JSON column: no finding. Mapped ones need theirs."""
    sql(f"{TABLE}; alter table t add column item jsonb")
    pages = {"table": "t", "json_column": "item"}
    assert errors(look(SUPABASE_TABLES={"tests.checkup.test_check.Author": pages})) == []
    mapped = {"tests.checkup.test_check.Author": {**pages, "columns": {"name": "who"}}}
    assert [text for _, text, _ in errors(look(SUPABASE_TABLES=mapped))] == [
        "no column 'who' for items of Author: the field is dropped (SUPABASE_UNKNOWN_COLUMNS)"
    ]


def test_all_tables_of_a_choice_are_checked(sql: Sql, look: Look) -> None:
    """By value and by spider; the field that chooses needs no column."""
    sql(f"{TABLE}; {TABLE.replace('table t', 'table t_b').replace('on t', 'on t_b')}")
    tables = {"by": "type", "tables": {"a": "t", "b": "{spider}"}}
    found = look(SUPABASE_TABLES={"*": tables}, spiders=["t_b", "t_c"])
    assert [(subject, text) for subject, text, _ in errors(found)] == [
        ("table t_c", "PGRST205: Could not find the table 'public.t_c' in the schema cache.")
    ]
    assert ("ok", "table t_b") in {(level, subject) for level, subject, *_ in found}
    assert not [text for *_, text, _ in found if "'type'" in text]
    assert "no spider is known" in errors(look(SUPABASE_TABLES={"*": tables}))[0][1]


def test_values_that_may_not_fit_are_a_warning(sql: Sql, look: Look) -> None:
    """A text may be a valid number, or not."""
    sql(f"{TABLE}; alter table t drop column title; alter table t add column title integer")
    found = look()
    assert errors(found) == []
    assert [text for level, _, text, _ in found if level == "warning"] == [
        "column 'title' is integer, but items of Book have text: rows whose value is not a valid integer are rejected"
    ]


def test_columns_that_require_a_value(sql: Sql, look: Look, project: Project) -> None:
    """A missing value is an error, unless the database generates it; the REST API does not show identity columns."""
    sql(
        "create table t (id bigint primary key, title text, price numeric, isbn text not null, number bigint generated "
        "always as identity, n int generated by default as identity, twice numeric generated always as (price * 2) "
        "stored not null, made timestamptz not null default now()); grant all on t to service_role; "
        "notify pgrst, 'reload schema'"
    )
    ((_, text, remedy),) = errors(look())
    assert text == "column 'isbn' (text) requires a value, but items of Book have none: rows are rejected"
    ((unsure, _),) = warnings(look())
    assert unsure == (
        "column 'n' (integer) requires a value, but items of Book have none: rows are rejected unless the database "
        "generates one (identity, serial), which it does not show"
    )
    sql(remedy.partition("run: ")[2])
    assert errors(look()) == []
    assert warnings(look(SUPABASE_DB_URL=project.db_url)) == []


def test_an_unreachable_host(look: Look) -> None:
    """The finding names the host and the setting."""
    ((subject, text, remedy),) = errors(look(SUPABASE_URL="http://127.0.0.1:1"))
    assert subject == "server"
    assert "no usable answer from 127.0.0.1:1" in text
    assert "SUPABASE_URL" in remedy


def test_a_server_that_becomes_unreachable_during_the_check(sql: Sql, look: Look, proxy: FaultProxy) -> None:
    """The findings so far are listed, and then the server's failure."""
    sql(TABLE)
    for passed in range(1, 8):
        proxy.faults.extend([passes] * passed)
        proxy.always = resets_before
        found = look(SUPABASE_URL=proxy.url)
        proxy.faults.clear()
        assert [(subject, "no usable answer" in text) for subject, text, _ in errors(found)] == [("server", True)]


IDENTITY = (
    "create table t (id bigint generated by default as identity primary key, title text, price numeric); "
    "grant all on t to service_role; notify pgrst, 'reload schema'"
)


@dataclasses.dataclass
class Keyless:
    """An item without the table's key."""

    title: str


@pytest.mark.parametrize("over", ["rest", "database"])
@pytest.mark.parametrize("key", ["bigint generated by default as identity", "uuid default gen_random_uuid()"])
def test_a_second_crawl_that_stores_its_rows_again(sql: Sql, look: Look, project: Project, over: str, key: str) -> None:
    """A warning if the database generates the key and the items may lack it; a plain statement in mode insert."""
    sql(IDENTITY.replace("bigint generated by default as identity", key))
    where = {"SUPABASE_DB_URL": project.db_url} if over == "database" else {}
    dicts: dict[str, Any] = {**where, "SUPABASE_TABLES": None, "SUPABASE_TABLE": "t"}
    keyless = {**where, "SUPABASE_TABLES": {"tests.checkup.test_check.Keyless": "t"}}

    def said(**settings: Any) -> list[tuple[str, str]]:
        return [(level, text) for level, _, text, _ in look(**settings) if "second crawl" in text or "twice" in text]

    assert said(**dicts) == [
        (
            "warning",
            "the database generates the key (id): items without it are inserted, and a second crawl stores them again",
        )
    ]
    again = [("ok", "mode insert: a second crawl stores items without the key (id) again")]
    assert said(**dicts, SUPABASE_MODE="insert") == said(**keyless, SUPABASE_MODE="insert") == again
    ((level, text),) = said(**keyless)
    assert (level, text.split(":")[0]) == ("warning", "gets no value for its key (id) from the items")
    assert said(**dicts, SUPABASE_ON_CONFLICT="id") == []
    assert said(**where) == said(**where, SUPABASE_MODE="insert") == []  # the items have it


def test_a_key_that_items_must_have_is_no_problem(sql: Sql, look: Look, project: Project) -> None:
    """A key without a default: items that lack it are rejected, not stored twice. No row is stored to find out."""
    sql(TABLE)
    dicts: dict[str, Any] = {"SUPABASE_TABLES": None, "SUPABASE_TABLE": "t"}
    for where in ({}, {"SUPABASE_DB_URL": project.db_url}):
        assert warnings(look(**dicts, **where)) == []
        assert not [text for *_, text, _ in look(**dicts, **where, SUPABASE_MODE="insert") if "second crawl" in text]
    sql("alter table t alter column id type text")
    assert warnings(look(**dicts)) == []
    assert sql("select count(*) from t") == [(0,)]


@pytest.mark.parametrize(
    ("columns", "generated"),
    [
        ("id int generated by default as identity primary key, title text not null", True),
        ("title text not null, id int generated by default as identity primary key", False),  # not known: no finding
        ("id int generated always as identity primary key, title text not null", True),
        ("id serial primary key, n int check (n > 0) default 0", True),
        ("id int primary key, title text not null", False),
        ("id serial primary key", False),
    ],
)
def test_a_number_as_key_whose_default_is_not_shown(sql: Sql, look: Look, columns: str, generated: bool) -> None:
    """Over the REST API, rows of defaults are tried. They are not stored."""
    sql(
        f"create table t ({columns}); grant all on all sequences in schema public to service_role; "
        "grant all on t to service_role; notify pgrst, 'reload schema'"
    )
    found = warnings(look(SUPABASE_TABLES=None, SUPABASE_TABLE="t"))
    assert any("second crawl" in text for text, _ in found) == generated
    assert sql("select count(*) from t") == [(0,)]


@pytest.mark.parametrize("status", [404, 405, 501])
def test_another_server_does_not_answer(sql: Sql, look: Look, proxy: FaultProxy, status: int) -> None:
    """A web server is no Supabase project: one error, and no word that it answers."""
    sql(TABLE)
    proxy.always = answers(status, "<html><h1>Not Found</h1></html>")
    found = look(SUPABASE_URL=proxy.url)
    ((subject, text, remedy),) = errors(found)
    assert (subject, text) == ("server", f"http_{status}: the server is no Supabase project: it sent a web page.")
    assert remedy.startswith("Set SUPABASE_URL to the project's URL itself")
    assert not [text for *_, text, _ in found if " answers" in text]


def test_the_port_is_named(sql: Sql, look: Look, project: Project) -> None:
    """That of the REST API, or that of the database."""
    sql(TABLE)
    port = project.url.rpartition(":")[2]
    assert [text for *_, text, _ in look() if text.endswith(f"(REST API, port {port})")]
    database = project.db_url.partition("@")[2].partition("/")[0].replace(":", ", port ")
    over = look(SUPABASE_DB_URL=project.db_url)
    assert [text for *_, text, _ in over if text.endswith(f"(database connection to {database})")], over


@dataclasses.dataclass
class Unreadable:
    """An annotation that names nothing."""

    a: Nowhere  # type: ignore[name-defined]  # noqa: F821


def test_a_class_that_cannot_be_read_is_named(sql: Sql, look: Look) -> None:
    """It is a finding, not a traceback."""
    sql(TABLE)
    ((subject, text, _),) = errors(look(SUPABASE_TABLES={"tests.checkup.test_check.Unreadable": "t"}))
    assert subject == "settings"
    assert text == "The annotations of Unreadable cannot be read: name 'Nowhere' is not defined"


def test_a_wrong_schema(sql: Sql, look: Look) -> None:
    """A schema that the API does not expose is an error."""
    sql(TABLE)
    ((_, text, remedy),) = errors(look(SUPABASE_SCHEMA="private"))
    assert "PGRST106" in text
    assert "Exposed schemas" in remedy


def test_a_clock_that_is_wrong(sql: Sql, look: Look) -> None:
    """A skewed clock is a warning, because stamps would be wrong."""
    sql(TABLE)
    warned = [text for level, _, text, _ in look(clock=lambda: time.time() + 120) if level == "warning"]
    assert len(warned) == 1
    assert "ahead of the server's" in warned[0]


def test_larger_chunks_are_suggested_for_a_distant_server(sql: Sql, look: Look, proxy: FaultProxy) -> None:
    """The suggestion comes from the measured round trip; chunks of any size need none."""
    sql(TABLE)
    proxy.always = delays(0.1)
    warned = [(text, remedy) for level, _, text, remedy in look(SUPABASE_URL=proxy.url) if level == "warning"]
    assert len(warned) == 1
    assert "rows per second" in warned[0][0]
    assert "set BATCH_CHUNK_SIZE to " in warned[0][1]
    found = look(SUPABASE_URL=proxy.url, BATCH_CHUNK_SIZE="auto")
    assert [text for level, _, text, _ in found if level == "warning"] == []


def test_snapshots_and_ledger(sql: Sql, snapshots: Sql, look: Look) -> None:
    """Both are tested without taking a version or storing a row."""
    sql(
        "create table t (id bigint, title text, price numeric, snapshot_date date, snapshot_version int, primary key "
        "(id, snapshot_date, snapshot_version)); grant all on t to service_role; notify pgrst, 'reload schema'"
    )
    given = {"SUPABASE_DAILY_SNAPSHOTS": True, "SUPABASE_RUNS_TABLE": "t_runs"}
    found = look(**given)
    assert ("ok", "snapshots") in [(level, subject) for level, subject, *_ in found]
    assert [subject for subject, _, _ in errors(found)] == ["ledger"]
    ledger = (
        (Path(__file__).parents[2] / "migrations" / "009_scrapy_runs.sql").read_text().replace("scrapy_runs", "t_runs")
    )
    sql(f"{ledger}; notify pgrst, 'reload schema'")
    assert errors(look(**given)) == []
    assert sql("select (select count(*) from t_runs), (select count(*) from snapshot_versions)") == [(0, 0)]
    sql("drop function next_snapshot_version; notify pgrst, 'reload schema'")
    assert [subject for subject, _, _ in errors(look(**given))] == ["snapshots"]


def test_over_a_database_connection(sql: Sql, look: Look, project: Project) -> None:
    """The check finds role and version, and tests row-level security by a row that is rolled back."""
    sql(TABLE)
    found = look(SUPABASE_DB_URL=project.db_url)
    assert {level for level, *_ in found} == {"ok"}, found
    assert any("PostgreSQL" in text for _, _, text, _ in found)
    sql(
        "create role t_writer login password 'x'; grant usage on schema public to t_writer; "
        "grant all on t to t_writer; alter table t enable row level security"
    )
    try:
        writer = project.db_url.partition("@")[2]
        ((_, text, _),) = errors(look(SUPABASE_DB_URL=f"postgresql://t_writer:x@{writer}"))
        assert "rejects rows" in text
        sql("create policy p on t for all to t_writer using (true)")
        assert errors(look(SUPABASE_DB_URL=f"postgresql://t_writer:x@{writer}")) == []
        ((subject, text, _),) = errors(look(SUPABASE_DB_URL=f"postgresql://t_writer:wrong@{writer}"))
        assert (subject, "wrong" in text) == ("key", False)
    finally:
        sql("drop owned by t_writer; drop role t_writer")
    assert sql("select count(*) from t") == [(0,)]


def test_rows_in_the_spool_are_listed(sql: Sql, look: Look, tmp_path: Path) -> None:
    """They are a warning; a folder that is not writable is an error."""
    sql(TABLE)
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "rejected.jsonl").write_text(
        json.dumps({"time": "2026-01-01", "table": "t", "code": "23505", "message": "m", "row": {"id": 1}}) + "\n"
    )
    warned = [text for level, _, text, _ in look() if level == "warning"]
    assert warned == [f"1 row of earlier crawls rejected, with the reasons in {tmp_path / 'spool' / 'rejected.jsonl'}"]
    (tmp_path / "file").touch()
    assert errors(look(SUPABASE_SPOOL_DIR=str(tmp_path / "file" / "spool")))[0][0] == "spool"


PROJECT = {
    "scrapy.cfg": "[settings]\ndefault = shop.settings\n",
    "shop/__init__.py": "",
    "shop/settings.py": (
        "SPIDER_MODULES = ['shop.spiders']\nADDONS = {'scrapy_supabase.Addon': 300}\nSUPABASE_TABLE = 't'\n"
    ),
    "shop/spiders/__init__.py": (
        "import scrapy\n\n\nclass Books(scrapy.Spider):\n    name = 'books'\n"
        "    custom_settings = {'SUPABASE_TABLE': 't_missing'}\n"
    ),
}


def run_in_project(folder: Path, project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a project made in `folder`."""
    for name, text in PROJECT.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    environment = {**os.environ, "SUPABASE_URL": project.url, "SUPABASE_KEY": project.key, "BATCH_RETRY_DELAY": "0.01"}
    return fork_server.scrapy("supabase", "check", *arguments, cwd=folder, env=environment)


def test_the_command_in_a_project(sql: Sql, project: Project, tmp_path: Path) -> None:
    """It prints findings and a summary; with a spider's name, it uses that spider's settings."""
    sql(TABLE)
    done = run_in_project(tmp_path, project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[0] == "✓ settings: the pipeline is enabled by ADDONS"
    assert done.stdout.splitlines()[-1] == "No problems: a crawl can start."
    of_spider = run_in_project(tmp_path, project, "books")
    assert of_spider.returncode == 1
    assert "✗ table t_missing: " in of_spider.stdout
    assert of_spider.stdout.splitlines()[-1] == "1 error."
    unknown = run_in_project(tmp_path, project, "nothing")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "There is no spider 'nothing' here. Use one of: books\n" in unknown.stderr


def test_json_output(sql: Sql, project: Project, tmp_path: Path) -> None:
    """`--json` prints one object with all findings."""
    sql(TABLE)
    done = run_in_project(tmp_path, project, "books", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["ok"]) == (1, False)
    assert [f["subject"] for f in found["findings"] if f["level"] == "error"] == ["table t_missing"]


def test_a_pipeline_that_is_not_enabled(sql: Sql, project: Project, tmp_path: Path) -> None:
    """It is an error: a crawl would store no rows."""
    sql(TABLE)
    done = run_in_project(tmp_path, project, "-s", "ADDONS={}")
    assert done.returncode == 1
    assert "✗ settings: the pipeline is in neither ADDONS nor ITEM_PIPELINES" in done.stdout
