"""Messages about tables, rows and the server's answers, provoked on a real server or on one behind a fault proxy."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import pytest
from parsel import Selector
from scrapy.http import Response

from scrapy_supabase.backends.merge_sql import function_sql
from scrapy_supabase.backends.open_policy import OpenPolicy
from scrapy_supabase.backends.postgres import PostgresBackend
from scrapy_supabase.backends.postgrest import PostgrestBackend
from scrapy_supabase.backends.retry import Deadline
from scrapy_supabase.delivery.schema_check import SchemaCheck
from scrapy_supabase.errors import FatalError, ItemError, TransientError
from scrapy_supabase.models import Chunk, Mode, Row, WriteOptions
from scrapy_supabase.monitoring.ledger import Ledger
from scrapy_supabase.monitoring.run import Run
from scrapy_supabase.rows.builder import RowBuilder
from scrapy_supabase.schema.ddl import ledger_sql
from scrapy_supabase.schema.declared import DeclaredItems
from scrapy_supabase.schema.routes import Switch
from scrapy_supabase.schema.schema import Schema, UnknownColumns
from scrapy_supabase.schema.table_spec import TableSpec
from scrapy_supabase.settings.config import Config
from tests import fault_proxy as faults
from tests.fault_proxy import FaultProxy
from tests.fix_project import Line, MakeLine, Project
from tests.messages import Said, of_records
from tests.polling import eventually
from tests.refusing_server import RefusingServer

Sql = Callable[..., list[tuple[Any, ...]]]
NOBODY = "http://127.0.0.1:9"  # the discard port: nobody listens there
ALL = "grant all on t to service_role, anon;"
KEYED = f"create table t (id bigint primary key, title text, n int check (n >= 0)); {ALL}"
TRIGGER = f"""{KEYED} create or replace function t_odd() returns trigger language plpgsql as
$$ begin new.nowhere = 1; return new; end $$; create trigger odd before insert on t for each row
execute function t_odd()"""
SECOND = """create table t (id bigint primary key); create table t_log (id bigint);
create or replace function t_copy() returns trigger language plpgsql as
$$ begin insert into t_log (nowhere) values (new.id); return new; end $$;
create trigger copy before insert on t for each row execute function t_copy();"""
VIEW = f"""create table t_under (id bigint primary key, title text); create view t as table t_under; {ALL}
grant all on t_under to service_role; create or replace function t_take() returns trigger language plpgsql as
$$ begin insert into t_under values (new.id, new.title); return new; end $$;
create trigger take instead of insert on t for each row execute function t_take()"""
FUNCTION = function_sql("public", "service_role")
SKIPS = f"""{KEYED} create or replace function t_skip() returns trigger language plpgsql as
$$ begin return null; end $$; create trigger skip before insert on t for each row execute function t_skip();"""
HTML = "<html><head><style>body { color: red }</style></head><body><h1>Bad gateway</h1>" + "<p>Sorry. </p>" * 500
OPEN = {"check": False}


@dataclass(frozen=True)
class Case:
    """A table (`sql`) and items sent to it; `fixes` says whether the SQL in the last message fixes the problem."""

    how: str
    sql: str
    items: Sequence[Mapping[str, Any]] = ()
    options: Mapping[str, Any] | None = None
    anon: bool = False
    revoked: str = ""  # SQL after which the REST API could not tell that it has seen it
    after_check: str = ""
    fixes: bool = False


def collect(column: str) -> UnknownColumns:
    """Return the policy that collects unknown fields in `column`."""
    return UnknownColumns("collect", column)


CASES = (
    Case("No such table", "select 1"),
    Case("A table without grants", "create table t (id bigint primary key)", fixes=True),
    Case("A table without grants, and the public key", "create table t (id bigint primary key)", anon=True),
    Case("A table with only the INSERT grant", f"{KEYED} revoke all on t from service_role; grant insert on t to "
         "service_role", [{"id": 1}], fixes=True),
    Case("Conflict columns without a unique index", KEYED, options={"on_conflict": ("title",)}, fixes=True),
    Case("Conflict columns without a unique index, and SUPABASE_INSERT_FALLBACK is False", KEYED,
         options={"on_conflict": ("title",), "fallback": False}, fixes=True),
    Case("Conflict columns with a deferrable constraint", "create table t (id bigint, title text unique deferrable); "
         f"{ALL}", [{"id": 1, "title": "x"}], {"on_conflict": ("title",)}, fixes=True),
    Case("A primary key that is deferrable", f"create table t (id bigint primary key deferrable, title text); {ALL}",
         [{"id": 1, "title": "x"}], fixes=True),
    Case("A view with an INSTEAD OF trigger", VIEW, [{"id": 1, "title": "x"}]),
    Case("A view that accepts no rows",
         f"create table t_under (id int); create view t as select id, count(*) from t_under group by id; {ALL}"),
    Case("Conflict columns that the table lacks", KEYED, options={"on_conflict": ("isbn",)}),
    Case("A table without a primary key", f"create table t (title text); {ALL}"),
    Case("A key that may not read the schema", KEYED, anon=True),
    Case("Items that lack the key", KEYED, options={"fields": {"t": ["title"]}}),
    Case("A field without a column", KEYED, options={"fields": {"t": ["id", "isbn"]}}, fixes=True),
    Case("Two fields without a column", KEYED, options={"fields": {"t": ["id", "isbn", "Pages"]}}, fixes=True),
    Case("Fields whose columns are spelled differently", f'{KEYED} alter table t add column "Page count" integer',
         options={"fields": {"t": ["id", "isbn", "Title", "page_count"]}}, fixes=False),
    Case("A field without a column, with the policy reject", KEYED, [{"id": 1, "isbn": "x"}],
         {"unknown": UnknownColumns("reject")}, fixes=True),
    Case("Two fields without a column, with the policy reject", KEYED, [{"id": 1, "isbn": "x", "pages": 1}],
         {"unknown": UnknownColumns("reject")}),
    Case("A field without a column, with the policy collect", f"{KEYED} alter table t add column more jsonb",
         [{"id": 1, "isbn": "x"}], {"unknown": collect("more")}, fixes=True),
    Case("Two fields without a column, with the policy collect", f"{KEYED} alter table t add column more jsonb",
         [{"id": 1, "isbn": "x", "pages": 1}], {"unknown": collect("more")}),
    Case("A column for unknown fields that the table lacks", KEYED, options={"unknown": collect("more")}, fixes=True),
    Case("A column for unknown fields is missing, and the key may not read the schema", KEYED,
         options={"unknown": collect("more")}, anon=True, fixes=True),
    Case("JSON as text for a jsonb column", f"{KEYED} alter table t add column data jsonb",
         [{"id": 1, "data": '{"a": 1}'}]),
    Case("An option that needs the function", f"drop function if exists scrapy_upsert; {KEYED}",
         options={"mode": Mode.UPDATE, "writing": WriteOptions(if_changed=True)}),
    Case("A column only for new rows that the table lacks", KEYED, options={"writing": WriteOptions(("seen",))}),
    Case("A text column to merge", KEYED, options={"writing": WriteOptions(merge=("title",))}),
    Case("A generated key, and an option that compares keys", f"{FUNCTION} create table t (a int, id int generated "
         f"always as (a) stored primary key); {ALL}",
         options={"on_conflict": ("id",), "writing": WriteOptions(if_changed=True)}),
    Case("Mode update without a key", f"{FUNCTION} create table t (a int); {ALL}", options={"mode": Mode.UPDATE}),
    Case("Mode update, and an item without the key", FUNCTION + KEYED, [{"title": "x"}], {"mode": Mode.UPDATE}),
    Case("A trigger that skips a row", FUNCTION + SKIPS, [{"id": 1}], {"writing": WriteOptions(if_changed=True)}),
    Case("Items with no field that is a column", KEYED, [{"zz": 1}]),
    Case("Items with no field at all", KEYED, [{}]),
    Case("Items whose key is missing", KEYED, [{"title": "x"}]),
    Case("Rows that the table's rules refuse", KEYED, [{"id": 1, "n": -1}, {"id": "x", "n": 1}, {"id": 3, "n": 1}]),
    Case("A generated column", f"{KEYED} alter table t add column twice int generated always as (n * 2) "
         "stored", [{"id": 1, "twice": 4}]),
    Case("An identity column as the key", "create table t (id bigint generated always as "
         f"identity primary key, title text); {ALL}", options={"on_conflict": ("id",)}),
    Case("An identity column that was scraped", "create table t (id bigint generated always as identity primary key, "
         f"title text); {ALL}", [{"id": 9, "title": "x"}]),
    Case("A trigger that reads a missing column", TRIGGER, [{"id": 1}]),
    Case("A trigger that writes to a missing column", SECOND + ALL, [{"id": 1}]),
    Case("A trigger that writes to a table without grants", SECOND.replace("nowhere", "id") + ALL, [{"id": 1}]),
    Case("A statement trigger that writes to a missing column",
         SECOND.replace("trigger copy", "trigger copy_row") + ALL + "drop trigger copy_row on t", [{"id": 1}],
         after_check="create or replace function t_copy() returns trigger language plpgsql as $$ begin "
         "insert into t_log (nowhere) values (1); return null; end $$; "
         "create trigger copy before insert on t for each statement execute function t_copy()"),
    Case("A sequence without grants", f"create table t (id bigserial primary key, title text); {ALL} "
         "revoke all on sequence t_id_seq from service_role", [{"title": "x"}], {"mode": Mode.INSERT}, fixes=True),
    Case("A sequence without grants, and an upsert", f"create table t (id bigserial primary key, title text); {ALL} "
         "revoke all on sequence t_id_seq from service_role", [{"title": "x"}]),
    Case("A schema without grants", KEYED, revoked="revoke usage on schema public from public, service_role",
         fixes=True),
    Case("A column that is dropped while the crawl runs", KEYED, [{"id": 1, "title": "x"}],
         after_check="alter table t drop column title", fixes=True),
    Case("A column that is dropped, and rows with it are to be rejected", KEYED, [{"id": 1, "title": "x"}],
         {"unknown": UnknownColumns("reject")}, after_check="alter table t drop column title"),
    Case("All columns of a row are dropped", KEYED, [{"title": "x"}], {"mode": Mode.INSERT},
         after_check="alter table t drop column title"),
    Case("The key is dropped while the crawl runs", f"create table t (a int, b int, unique (a)); {ALL}",
         [{"a": 1, "b": 1}], {"on_conflict": ("a",)}, after_check="alter table t drop column a"),
    Case("The table is dropped while the crawl runs", KEYED, [{"id": 1}], after_check="drop table t"),
    Case("Grants are taken away while the crawl runs", KEYED, [{"id": 1}],
         after_check="revoke all on t from service_role", fixes=True),
    Case("The unique index is dropped while the crawl runs",
         f"create table t (a int, constraint t_a unique (a)); {ALL}",
         [{"a": 1}], {"on_conflict": ("a",)}, after_check="alter table t drop constraint t_a", fixes=True),
    Case("A policy that allows inserts, but not upserts", f"{KEYED} alter table t enable row level security; "
         "create policy ins on t for insert to anon with check (true)", [{"id": 1}], anon=True, fixes=True),
    Case("Row-level security without a policy", f"{KEYED} alter table t enable row level security", [{"id": 1}],
         anon=True, fixes=True),
)  # fmt: skip


@pytest.fixture
def alter(sql: Sql, project: Project) -> Iterator[Sql]:
    """Return `sql` for changes of tables: it returns when the REST API knows the change."""
    backend = PostgrestBackend(project.url, project.key)
    numbers = count()

    def run(query: str) -> list[tuple[Any, ...]]:
        found = sql(query)
        mark = f"n{next(numbers)}"
        sql(f"drop table if exists t_mark; create table t_mark ({mark} int); grant select on t_mark to service_role")
        sql("notify pgrst, 'reload schema'")

        def seen() -> bool:
            table = (backend.describe() or {}).get("t_mark")
            return table is not None and mark in table.columns

        assert eventually(seen)
        return found

    yield run
    backend.close()


def provoke(case: Case, line: MakeLine, alter: Sql, project: Project, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the messages of a check of the table and an upload of the items."""
    caplog.clear()
    options = {"key": project.anon_key if case.anon else "", **(case.options or {})}
    refused: list[str] = []
    try:
        made = line(**options)
        if case.after_check:
            made.upload(*case.items) if "dropped while" not in case.how else None
            alter(case.after_check)
        rows: list[Row] = []
        for item in case.items:
            try:
                rows.extend(made.rows([item]))
            except ItemError as error:
                refused.append(f"rejected {error.code}: {error}")
        if rows:
            refused += of_outcome(made, rows)
    except FatalError as error:
        refused.append(f"{error.reason}: {error}")
    return [*of_records(caplog), *refused]


def of_outcome(made: Line, rows: Sequence[Row]) -> list[str]:
    """Return the messages in the outcome of an upload."""
    made.number += 1
    outcome = made.uploader.upload(Chunk(made.number, tuple(rows), f"{made.number}.jsonl"))
    said = [f"rejected {one.code}: {one.message}" for one in outcome.rejections]
    return said + ([f"{outcome.fatal.reason}: {outcome.fatal}"] if outcome.fatal else [])


@pytest.fixture
def schema_open(sql: Sql) -> Iterator[None]:
    """Restore everybody's rights on the schema after the test."""
    yield
    sql("grant usage on schema public to public, anon, authenticated, service_role")


@pytest.mark.usefixtures("schema_open")
@pytest.mark.parametrize("case", CASES, ids=[case.how for case in CASES])
def test_a_table(
    case: Case,
    said: Said,
    line: MakeLine,
    sql: Sql,
    alter: Sql,
    project: Project,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The message names the problem and the table; the SQL in it fixes the problem."""
    alter(case.sql)
    if case.revoked:
        sql(case.revoked)
    messages = provoke(case, line, alter, project, caplog)
    said(case.how, messages)
    if case.fixes:
        printed = [found[1] for message in messages if (found := re.search(r"\brun: (.*;)$", message, re.IGNORECASE))]
        assert printed
        alter(printed[-1])
        again = Case(case.how, "", case.items, case.options, anon=case.anon)
        left = provoke(again, line, alter, project, caplog)
        known = "that SUPABASE_KEY may read"
        assert [message for message in left if known not in message] == [], printed[-1]


ANSWERS: Sequence[tuple[str, faults.Fault]] = (
    ("401 from the gateway", faults.answers(401, {"message": "Invalid API key"})),
    ("402: over the quota", faults.answers(402, {"message": "Service for this project is restricted"})),
    ("403 from the gateway", faults.answers(403, HTML)),
    ("404 of something that is not the API", faults.answers(404, {"message": "no Route matched with those values"})),
    ("404 of a web server", faults.answers(404, "<h1>Not found</h1>")),
    ("A redirect", faults.answers(301, None, Location="https://www.example.com/home?x=1")),
    ("540: the project is paused", faults.answers(540, "<h1>Project paused</h1>")),
    ("414: the request line is too long", faults.answers(414, "<h1>Request-URI Too Large</h1>")),
    ("A role that the server may not use", faults.answers(403, {
        "code": "42501", "message": 'permission denied to set role "web"'})),
    ("An unknown answer", faults.answers(418, {"message": "I'm a teapot"})),
    ("An answer without a message", faults.answers(418, "")),
    ("The schema is not exposed", faults.answers(406, {"code": "PGRST106", "message": "Invalid schema: shop",
                                                       "hint": "Only the following schemas are exposed: public"})),
    ("The database is read-only", faults.answers(405, {
        "code": "25006", "message": "cannot execute INSERT in a read-only transaction"})),
    ("The database's disk is full", faults.answers(500, {
        "code": "53100", "message": "could not extend file: No space left on device",
        "hint": "Check free disk space."})),
    ("A column is missing, and the server does not say which", faults.answers(400, {
        "code": "42703", "message": "column does not exist"})),
    ("200 with a page of HTML", faults.answers(200, HTML)),
    ("502 with a page of HTML", faults.answers(502, HTML)),
    ("500 without a message", faults.answers(500, "")),
    ("The connection is reset", faults.resets_before),
)  # fmt: skip


@pytest.mark.parametrize(("how", "fault"), ANSWERS, ids=[how for how, _ in ANSWERS])
def test_an_answer(
    how: str,
    fault: faults.Fault,
    said: Said,
    line: MakeLine,
    sql: Sql,
    proxy: FaultProxy,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Code and message of the server, cut to one line, then the remedy. Transient errors are at DEBUG."""
    sql(KEYED)
    made = line(url=proxy.url)
    proxy.always = fault
    caplog.set_level("DEBUG", "scrapy_supabase")
    said(how, *[of_outcome(made, made.rows([{"id": 1}, {"id": 2}]))], of_records(caplog, least=logging.DEBUG))


def test_a_lock_on_the_table(said: Said, line: MakeLine, sql: Sql, proxy: FaultProxy) -> None:
    """The message names what may hold the lock."""
    sql(KEYED)
    proxy.always = faults.answers(500, {"code": "57014", "message": "canceling statement due to statement timeout"})
    with pytest.raises(FatalError) as raised:
        line(url=proxy.url, attempts=1)
    said("A lock on the table", f"{raised.value.reason}: {raised.value}")


def test_a_wrong_key(said: Said, line: MakeLine, sql: Sql, project: Project) -> None:
    """The message names the two settings to check."""
    sql(KEYED)
    with pytest.raises(FatalError) as raised:
        line(key=project.key[:-5] + "AAAAA")
    said("A key that is not the project's", f"{raised.value.reason}: {raised.value}")


def test_an_unreachable_server(said: Said, line: MakeLine, caplog: pytest.LogCaptureFixture) -> None:
    """Each try is logged, then the settings to check."""
    caplog.set_level("INFO", "scrapy_supabase.backends.open_policy")
    with pytest.raises(FatalError) as raised:
        line(url=NOBODY, attempts=2)
    said(
        "An unreachable server",
        of_records(caplog, least=logging.INFO),
        f"{raised.value.reason}: {raised.value}",
    )


def test_a_busy_server_at_open(
    said: Said, line: MakeLine, proxy: FaultProxy, caplog: pytest.LogCaptureFixture, sql: Sql
) -> None:
    """How long is waited, and the setting for it; Ctrl-C has Scrapy's reason."""
    sql(KEYED)
    proxy.always = faults.answers(429, {"message": "slow down"})
    caplog.set_level("INFO", "scrapy_supabase.backends.open_policy")
    with pytest.raises(FatalError) as raised:
        line(url=proxy.url, attempts=2, open_timeout=0.2)
    deadline = Deadline()
    with pytest.raises(FatalError) as stopped:
        _stop(OpenPolicy(2, 0.01, deadline), deadline, TransientError("slow down", code="http_429"))
    said(
        "A server that is busy when a run opens",
        of_records(caplog, least=logging.INFO),
        f"{raised.value.reason}: {raised.value}",
        f"{stopped.value.reason}: {stopped.value}",
    )


def _stop(policy: OpenPolicy, deadline: Deadline, error: TransientError) -> None:
    deadline.end()
    with policy.unavailable_is_fatal():
        raise error


def test_no_such_host(said: Said, line: MakeLine) -> None:
    """The message names the host."""
    with pytest.raises(FatalError) as raised:
        line(url="http://nowhere.invalid", attempts=1)
    message = re.sub("invalid[^(]*: .* \\(nowhere", "invalid: <the system's words> (nowhere", str(raised.value))
    said("A host that does not exist", f"{raised.value.reason}: {re.sub(': .* [(]', ': <words> (', message)}")


FAULTS: Sequence[tuple[str, str, Sequence[faults.Fault], Mapping[str, Any]]] = (
    ("No answer in time, twice", KEYED, [faults.hangs] * 2, {"timeout": 0.4, "attempts": 2}),
    ("An answer that is lost, and rows without a key", f"create table t (n int); {ALL}", [faults.resets_after], {}),
    ("504 of a gateway", KEYED, [faults.answers(504, "<h1>Gateway time-out</h1>")], {}),
    ("An error of the database itself, twice", KEYED, [
        faults.answers(500, {"code": "XX000", "message": "cache lookup failed"})] * 2, {}),
)  # fmt: skip


@pytest.mark.parametrize(("how", "table", "given", "options"), FAULTS, ids=[each[0] for each in FAULTS])
def test_a_fault_on_the_way(
    how: str,
    table: str,
    given: Sequence[faults.Fault],
    options: Mapping[str, Any],
    said: Said,
    line: MakeLine,
    sql: Sql,
    proxy: FaultProxy,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The message has the error and the next step."""
    sql(table)
    made = line(url=proxy.url, **options)
    caplog.clear()
    caplog.set_level("DEBUG", "scrapy_supabase")
    proxy.faults.extend(given)
    made.upload({"n": 1}, {"n": 2}) if "id" not in table else made.upload({"id": 1}, {"id": 2})
    said(how, of_records(caplog, least=logging.DEBUG))


@pytest.mark.parametrize("line", ["database"], indirect=True)
def test_a_deferrable_constraint_over_a_database_connection(
    said: Said, line: MakeLine, sql: Sql, caplog: pytest.LogCaptureFixture
) -> None:
    """It is found at open, by name; the SQL in the message makes upserts possible."""
    sql(f"create table t (id bigint, title text, constraint odd unique (title) deferrable); {ALL}")
    with pytest.raises(FatalError) as raised:
        line(on_conflict=("title",), fallback=False)
    line(on_conflict=("title",))
    said("A deferrable constraint, over a database connection", of_records(caplog), str(raised.value))
    sql(raised.value.remedy.removeprefix("Run: "))
    made = line(on_conflict=("title",))
    assert [made.upload({"id": n, "title": "x"}).uploaded for n in (1, 2)] == [1, 1]
    assert sql("select id from t") == [(2,)]


@pytest.mark.parametrize("line", ["database"], indirect=True)
def test_over_a_database_connection(
    said: Said, line: MakeLine, sql: Sql, project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    """The messages are those of the REST API, with the setting of the database connection."""
    with pytest.raises(FatalError) as raised:
        line()
    said("No such table, over a database connection", f"{raised.value.reason}: {raised.value}")
    sql(KEYED)
    made = line()
    sql("drop table t")
    said("The table is dropped, over a database connection", of_outcome(made, made.rows([{"id": 1}])))
    sql(KEYED)
    silent = line(timeout=0.2, attempts=1)
    sql("begin; lock table t in access exclusive mode")
    try:
        caplog.clear()
        caplog.set_level("DEBUG", "scrapy_supabase")
        silent.upload({"id": 1})
    finally:
        sql("rollback")
    said("No answer in time, over a database connection", of_records(caplog, least=logging.DEBUG))


@pytest.mark.parametrize("line", ["database"], indirect=True)
@pytest.mark.parametrize(
    ("how", "tables"),
    [
        ("A view with an INSTEAD OF trigger, over a database connection", VIEW),
        ("A view, whose table has no unique index, over a database connection",
         f"create table t_under (id int, title text); create view t as table t_under; {ALL}"),
        ("A partial unique index, over a database connection",
         f"create table t (id int, title text); create unique index t_some on t (id) where id > 0; {ALL}"),
    ],
)  # fmt: skip
def test_no_index_for_upserts(
    said: Said, line: MakeLine, sql: Sql, how: str, tables: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The remedy is one that is possible for the table or view."""
    sql(tables)
    line(on_conflict=("id",))
    said(how, of_records(caplog))


@dataclass
class Book:
    """An item class."""

    url: str


@pytest.mark.usefixtures("sql")
def test_a_table_that_is_missing(said: Said, project: Project) -> None:
    """The command that prints its SQL names the item class; a local Supabase gets its tables from migrations."""

    def refused(item_class: type | None, table: str, *, is_local: bool, route: TableSpec | Switch | None = None) -> str:
        spec = TableSpec(table)
        backend = PostgrestBackend(project.url, project.key)
        declared = DeclaredItems({item_class: route or spec}, is_local=is_local)
        check = SchemaCheck(
            backend, Schema({spec.name: spec}), {}, policy=OpenPolicy(1, 0, Deadline()), declared=declared
        )
        with pytest.raises(FatalError) as raised:
            check.run()
        backend.close()
        return f"{raised.value.reason}: {raised.value}"

    said("A missing table of an item class", refused(Book, "t_none", is_local=False))
    one, two = TableSpec("t_none", children={"reviews": TableSpec("t_child")}), TableSpec("t_other")
    said("A missing table of children", refused(Book, "t_child", is_local=False, route=one))
    said(
        "One of several tables is missing",
        refused(Book, "t_none", is_local=False, route=Switch("a", {"1": one, "2": two})),
    )
    said("A missing table of an item class, in a local Supabase", refused(Book, "t_none", is_local=True))
    said("A missing table of dicts, in a local Supabase", refused(None, "t_none", is_local=True))
    said("A table's name with its schema in front", refused(None, "public.t", is_local=True))


def test_a_database_that_may_not_be_connected_to(said: Said, project: Project) -> None:
    """The message names the setting and has no password."""
    from psycopg.conninfo import make_conninfo

    backend = PostgresBackend(make_conninfo(project.db_url, password="wr0ng-secret"))
    with pytest.raises(FatalError) as raised:
        backend.describe()
    backend.close()
    assert "wr0ng-secret" not in str(raised.value)
    said("A wrong database password", f"{raised.value.reason}: {without_address(raised.value)}")


@pytest.mark.usefixtures("snapshots")
def test_snapshots(said: Said, alter: Sql, project: Project) -> None:
    """Daily snapshots need columns, key and function; the SQL in the message fixes what is missing."""

    def check() -> list[str]:
        stamps = {"snapshot_date": "snapshot_date", "snapshot_version": "snapshot_version"}
        schema = Schema({"t": TableSpec("t", stamps=stamps, snapshots=True)})
        try:
            SchemaCheck(backend, schema, {}, policy=OpenPolicy(1, 0, Deadline())).run()
        except FatalError as error:
            return [f"{error.reason}: {error}"]
        return []

    backend = PostgrestBackend(project.url, project.key)
    config = Config.from_settings(_settings(project, SUPABASE_DAILY_SNAPSHOTS=True), {})
    alter(f"create table t (id bigint primary key, title text); {ALL}")
    messages = check()
    said("Daily snapshots, and the table lacks their columns", messages)
    alter(messages[0].partition("Run: ")[2])
    assert check() == []
    alter(f"drop table t; create table t (id int primary key, snapshot_date date, snapshot_version int); {ALL}")
    said("Daily snapshots, and the key lacks their columns", check())
    alter(f"drop table t; create table t (id int); {ALL}")
    said("Daily snapshots, and a table with neither key nor columns", check())
    alter("drop function next_snapshot_version")
    with pytest.raises(FatalError) as raised:
        Run("s").begin(backend, config, OpenPolicy(3, 0.01, Deadline()))
    said("Daily snapshots, and their function is missing", f"{raised.value.reason}: {raised.value}")
    backend.close()


def _settings(project: Project, **more: Any) -> Any:
    from scrapy.settings import Settings

    given = {"SUPABASE_URL": project.url, "SUPABASE_KEY": project.key, "SUPABASE_TABLE": "t", "BATCH_RETRY_DELAY": 0.01}
    return Settings({**given, **more})


def test_the_ledger(
    said: Said, sql: Sql, project: Project, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """A ledger that accepts no row ends the crawl at its start, and is a warning at its end."""
    sql("drop function if exists next_snapshot_version")  # of another test
    backend = PostgrestBackend(proxy.url, project.key)
    config = Config.from_settings(_settings(project, SUPABASE_RUNS_TABLE="t_runs"), {})
    with pytest.raises(FatalError) as raised:
        Run("s").begin(backend, config, OpenPolicy(3, 0.01, Deadline()))
    said("A missing ledger", f"{raised.value.reason}: {raised.value}")
    ledger = Ledger(backend, "t_runs", {"run_id": Run("s").id, "spider": "s", "started_at": "2026-11-27T00:00Z"})
    caplog.set_level("DEBUG", "scrapy_supabase.monitoring.ledger")
    ledger.update(Counter())
    ledger.end("finished", Counter(), {})
    said("A ledger that is dropped during the run", of_records(caplog, least=logging.DEBUG))
    caplog.clear()
    sql(f"{ledger_sql('t_runs')}; alter table t_runs drop column last_seen; notify pgrst, 'reload schema'")
    Run("s").begin(backend, config, OpenPolicy(3, 0.01, Deadline()))
    said("A ledger of an older version", of_records(caplog, least=logging.INFO))
    sql("drop table t_runs; notify pgrst, 'reload schema'")
    caplog.clear()
    caplog.set_level("INFO", "scrapy_supabase.backends.open_policy")
    proxy.faults.append(faults.resets_before)
    with pytest.raises(FatalError):
        Run("s").begin(backend, config, OpenPolicy(3, 0.01, Deadline()))
    said("A connection error while the run is recorded", of_records(caplog, least=logging.INFO))
    caplog.clear()
    proxy.faults.append(faults.resets_before)
    config = Config.from_settings(_settings(project, SUPABASE_DAILY_SNAPSHOTS=True), {})
    with pytest.raises(FatalError):
        Run("s").begin(backend, config, OpenPolicy(3, 0.01, Deadline()))
    said("A connection error while a snapshot version is taken", of_records(caplog, least=logging.INFO))
    backend.close()


class Odd:
    """A user's class that is no item class."""

    def __repr__(self) -> str:
        return "<odd>"


ROUTES: dict[type | None, TableSpec] = {dict: TableSpec("t", columns={"name": "title"})}
NESTED: list[Any] = []
NESTED.append(NESTED)


async def _title() -> str:
    return "x"


async def _titles() -> AsyncIterator[str]:
    yield "x"


LATER = _title()
LATER.close()  # or Python says that it was never awaited
LINK = Selector("<a>")
ODD_ITEMS: Sequence[tuple[str, Any]] = (
    ("An item class without a table", Odd()),
    ("A field name that is a number", {"id": 1, 5: "x"}),
    ("Two fields of an item for one column", {"id": 1, "name": "x", "title": "y"}),
    ("A value that cannot be stored", {"id": 1, "title": Odd()}),
    ("A value that contains itself", {"id": 1, "title": NESTED}),
    ("A selector without .get()", {"id": 1, "title": LINK.css("a")}),
    ("A response", {"id": 1, "title": Response("https://shop.example")}),
    ("A generator", {"id": 1, "title": (title for title in "xy")}),
    ("A generator that must be awaited", {"id": 1, "title": _titles()}),
    ("A coroutine that was not awaited", {"id": 1, "title": LATER}),
    ("A numpy number with too many digits", {"id": 1, "title": np.longdouble(1)}),
    ("A duration of months", {"id": 1, "title": np.timedelta64(5, "M")}),
)


@pytest.mark.parametrize(("how", "item"), ODD_ITEMS, ids=[how for how, _ in ODD_ITEMS])
def test_an_item_that_cannot_become_a_row(how: str, item: Any, said: Said, caplog: pytest.LogCaptureFixture) -> None:
    """The message names the class or the field, and the remedy."""
    builder = RowBuilder(ROUTES, Schema({"t": ROUTES[dict]}), {}, lambda _: None)
    with pytest.raises(ItemError) as raised:
        builder.build(item)
    said(how, of_records(caplog), f"rejected {raised.value.code}: {raised.value}")


REFUSALS = (
    ("A pooler that does not know the project", "(ENOTFOUND) tenant/user postgres.abcdefgh not found"),
    ("A connection that is not encrypted", "(ESSLREQUIRED) SSL connection is required for user: postgres"),
    ("An address that is not allowed", "(EADDRNOTALLOWED) address not in tenant allow_list: {127, 0, 0, 1}"),
    ("A project that is blocked", "(EBANNED) tenant is banned: abuse"),
    ("A pooler that is full", "(EMAXCLIENTSESSION) max clients reached in session mode"),
    ("A parameter that PgBouncer does not know", "unsupported startup parameter: options"),
    ("PgBouncer in statement mode", "transaction blocks not allowed in statement pooling mode"),
    ("A database that PgBouncer cannot reach", "server login has been failing, try again later (server_login_retry)"),
)


@pytest.mark.parametrize(("how", "words"), REFUSALS, ids=[how for how, _ in REFUSALS])
def test_a_connection_that_is_refused(how: str, words: str, said: Said) -> None:
    """The errors are those of Supabase's pooler, Supavisor, and of PgBouncer."""
    with RefusingServer(words) as server:
        said(how, at_open(f"postgresql://postgres@127.0.0.1:{server.port}/postgres?sslmode=prefer"))


def test_a_direct_host(said: Said) -> None:
    """It has IPv6 addresses only: the message names the pooler."""
    message = at_open("postgresql://postgres@db.nosuchprojectatall.supabase.co/postgres")
    said("A direct host that cannot be reached", re.sub(r"08001: .* Copy", "08001: <words>. Copy", message))


def at_open(url: str) -> str:
    """Return the messages of a check of the tables over a database connection."""
    backend = PostgresBackend(url)
    schema = Schema({"t": TableSpec("t", Mode.UPSERT)})
    with pytest.raises(FatalError) as raised:
        SchemaCheck(backend, schema, {}, policy=OpenPolicy(1, 0.01, Deadline())).run()
    backend.close()
    return f"{raised.value.reason}: {without_address(raised.value)}"


def without_address(error: FatalError) -> str:
    """Return a message without addresses, so that it is the same on every machine."""
    return re.sub(r'server at "[^"]*"( \([^)]*\))?, port \d+', 'server at "<address>", port <port>', str(error))
