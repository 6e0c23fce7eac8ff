"""The gateway's catalog of the database: keys of views, changes at any time, unsupported representations."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from scrapy_supabase.local.gateway.catalog import Catalog
from tests.fix_golden import TwoSchemas
from tests.fix_local import Connection
from tests.golden_exchanges import Answer, send
from tests.polling import eventually

Ask = Callable[..., Answer]
TABLES = """
drop schema if exists hidden cascade; create schema hidden; create schema if not exists second;
drop view if exists second.titles, second.again, second.pairs; drop table if exists changing, films, slow_writes;
create table hidden.films ("the id" int primary key, title text, n int default 1);
create view second.titles as select title as name, "the id" as "the {key}",
  (select "the id" from hidden.films where false) as "the id" from hidden.films;
create view second.again as select name as title, "the {key}" as id from second.titles;
alter view second.again rename column title to renamed;
create view second.pairs as select a."the id" as one, b."the id" as two from hidden.films a cross join hidden.films b;
grant usage on schema hidden, second to service_role;
grant all on all tables in schema hidden, second to service_role;
create table changing (id int, n int default 1);
create table slow_writes (id int primary key, n int);
create or replace function sleep_a_row() returns trigger language plpgsql as
  $$ begin perform pg_sleep(0.2); return new; end $$;
create trigger sleep_a_row after insert or update on slow_writes for each row execute function sleep_a_row();
create sequence if not exists tries; create table if not exists refusing (code text);
create or replace function refuse() returns trigger language plpgsql as
  $$ begin perform nextval('tries'); raise exception 'always' using errcode = new.code; end $$;
create or replace trigger refuse before insert on refusing for each row execute function refuse();
create or replace function sleeps() returns text language sql volatile set statement_timeout = '50ms' as
  $$ select pg_sleep(5)::text $$;
grant all on changing, slow_writes, refusing, tries to service_role;
notify pgrst, 'reload schema';
"""


@pytest.fixture
def ask(two_schemas: TwoSchemas) -> Iterator[Ask]:
    """Send a request with the secret key."""
    stack, db = two_schemas
    db.execute(TABLES.encode())

    def asked(
        method: str, path: str, body: Any = None, prefer: str = "", schema: str = "public", **params: str
    ) -> Answer:
        headers = {"Content-Type": "application/json", "Prefer": prefer}
        headers["Accept-Profile" if method == "GET" else "Content-Profile"] = schema
        text = None if body is None else json.dumps(body)
        request = {"role": "service_role", "method": method, "path": path, "params": params, "headers": headers}
        return send(stack, {**request, "body": text})

    yield asked
    db.execute("drop schema hidden cascade; drop table changing, slow_writes, refusing")


def test_a_view_has_the_key_of_its_table(ask: Ask, two_schemas: TwoSchemas) -> None:
    """Also of one that is not exposed, through other views, by another name; not of what a subquery in it shows."""
    definitions = ask("GET", "/", schema="second")[2]["definitions"]
    keys = {
        name: [column for column, told in table["properties"].items() if "<pk/>" in told.get("description", "")]
        for name, table in definitions.items()
        if name in ("titles", "again", "pairs")
    }
    assert keys == {"titles": ["the {key}"], "again": ["id"], "pairs": ["one"]}


def test_an_upsert_into_a_view_needs_no_conflict_target(ask: Ask, two_schemas: TwoSchemas) -> None:
    """The conflict target is the key of its table."""
    _, db = two_schemas
    merge = "resolution=merge-duplicates"
    assert ask("POST", "/again", [{"id": 1, "renamed": "a"}], merge, "second")[0] == 201
    assert ask("POST", "/again", [{"id": 1, "renamed": "b"}], merge, "second")[0] == 200
    assert db.execute("select * from hidden.films").fetchall() == [(1, "b", 1)]


class Meanwhile:
    """Connection that runs another change after the first query for tables."""

    def __init__(self, connection: Any, happens: Callable[[], object]) -> None:
        self._connection = connection
        self._happens = happens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, sql: str, *parameters: Any) -> Any:
        """Run a query; after the query for tables, run the other change."""
        found = self._connection.execute(sql, *parameters)
        if "pg_relation_is_updatable" in sql:
            self._happens()
        return found


def test_a_view_made_while_the_catalog_is_read_is_known_next_time(ask: Ask, two_schemas: TwoSchemas) -> None:
    """All queries see one moment: the catalog has the view or has not, and reading it does not fail."""
    stack, db = two_schemas

    @contextmanager
    def connect() -> Iterator[Meanwhile]:
        with psycopg.connect(stack.db_url, autocommit=True, cursor_factory=psycopg.RawCursor) as connection:
            yield Meanwhile(
                connection, lambda: db.execute("create or replace view second.late as select * from hidden.films")
            )

    catalog = Catalog(("second",), connect)
    assert ("second", "late") not in catalog.reload().tables
    assert catalog.reload().tables["second", "late"].primary_key == ("the id",)
    db.execute("drop view second.late")


def test_what_changed_while_the_listener_was_away_is_known(ask: Ask, two_schemas: TwoSchemas) -> None:
    """A default that changes while the listener is disconnected is read after it reconnects."""
    _, db = two_schemas

    def default() -> Any:
        prefer = "return=representation,missing=default"
        return ask("POST", "/changing", [{"id": 1}], prefer, columns="id,n", select="n")[2]

    assert eventually(lambda: default() == [{"n": 1}])
    db.execute(
        "do $$ begin alter table changing alter n set default 2; "
        "perform pg_terminate_backend(pid) from pg_stat_activity where query = 'LISTEN pgrst'; end $$"
    )
    assert eventually(lambda: default() == [{"n": 2}])


def test_a_thread_that_fails_ends_the_gateway(tmp_path: Any) -> None:
    """With an exit code and its traceback in the log: a gateway without its listener would store old defaults."""
    orders = {
        "db_url": 5,  # no connection string: nobody expects that, the listener least of all
        "host": "127.0.0.1",
        "port": 0,
        "jwt_secret": "x" * 32,
        "schemas": ["public"],
        "postgrest": None,
    }
    command = [sys.executable, "-m", "scrapy_supabase.local.gateway"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(orders) + "\n")
    process.stdin.flush()
    assert process.wait(30) == 70
    assert process.stderr is not None
    said = process.stderr.read()
    assert "failed: the gateway ends." in said
    assert "Traceback" in said
    process.stdin.close()
    process.stdout.close()  # type: ignore[union-attr]
    process.stderr.close()


def test_a_deadlock_is_not_the_clients(ask: Ask, two_schemas: TwoSchemas) -> None:
    """If two requests lock two rows in opposite order, the one that PostgreSQL ends is retried."""
    merge = "resolution=merge-duplicates"
    ask("POST", "/slow_writes", [{"id": 1, "n": 0}, {"id": 2, "n": 0}], merge)
    with ThreadPoolExecutor(2) as threads:
        bodies = [[{"id": one, "n": one}, {"id": other, "n": one}] for one, other in ((1, 2), (2, 1))]
        answers = list(threads.map(lambda body: ask("POST", "/slow_writes", body, merge), bodies))
    assert [status for status, _, _ in answers] == [200, 200], answers


@pytest.mark.parametrize("code", ["40001", "40P01"])
def test_what_fails_each_time_is_tried_ten_times(ask: Ask, db: Connection, two_schemas: TwoSchemas, code: str) -> None:
    """PostgREST 14 would retry forever."""
    _, db = two_schemas
    db.execute("alter sequence tries restart")
    status, _, body = ask("POST", "/refusing", [{"code": code}])
    assert (status, body["code"], body["message"]) == (500, code, "always")
    assert db.execute("select last_value from tries").fetchone() == (10,)


def test_a_functions_own_statement_timeout_holds(ask: Ask) -> None:
    """`set statement_timeout` of a function is made the transaction's."""
    status, _, body = ask("POST", "/rpc/sleeps", {})
    assert (status, body["code"]) == (500, "57014")


def test_domains_with_representations_are_refused(ask: Ask, two_schemas: TwoSchemas) -> None:
    """PostgREST formats and parses such columns by their casts; the gateway answers 501."""
    _, db = two_schemas
    db.execute(
        "create domain colour as int; "
        "create function json_of(colour) returns json language sql immutable as $$ select to_json('#' || $1) $$; "
        "create cast (colour as json) with function json_of as implicit; "
        "create table paints (c colour); grant all on paints to service_role"
    )
    try:
        assert eventually(lambda: ask("GET", "/paints")[0] == 501)
        assert "domain representations" in ask("GET", "/paints")[2]["message"]
    finally:
        db.execute("drop table paints; drop domain colour cascade")
