"""The database between two tests of a user: what the migrations made, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from scrapy_supabase.local import LocalSupabaseError
from scrapy_supabase.testing.stack import SessionStack
from tests.polling import eventually

BOOKS = """
create type kind as enum ('paper', 'audio');
create sequence numbers start 5;
create table books (id int generated always as identity primary key, kind kind, number int default nextval('numbers'));
create schema private;
create table private.notes (book int references public.books);
create function refuse() returns trigger language plpgsql as $$ begin raise 'no'; end $$;
create trigger no_truncate before truncate on books execute function refuse();
grant all on books to service_role;
"""
SEED = "create table languages (name text primary key); insert into languages values ('en'), ('de');"
STATE = """
select string_agg(distinct n.nspname || '.' || c.relname || ' ' || coalesce(c.relacl::text, ''), ', ')
from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname in ('public', 'private', 'mine')
union all select string_agg(distinct attname, ', ') from pg_attribute where attrelid = 'books'::regclass
union all select string_agg(distinct typname, ', ') from pg_type where typnamespace = 'public'::regnamespace
union all select string_agg(distinct proname, ', ') from pg_proc where pronamespace = 'public'::regnamespace
union all select string_agg(distinct polname, ', ') from pg_policy
"""


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Callable[..., SessionStack]]:
    """Start stacks: `stack(a="create …", b="…")` with these migrations."""
    started: list[SessionStack] = []

    def start(**migrations: str) -> SessionStack:
        for number, (name, sql) in enumerate(migrations.items()):
            (tmp_path / f"{number}_{name}.sql").write_text(sql)
        started.append(SessionStack(tmp_path if migrations else None))
        return started[-1]

    yield start
    for one in started:
        one.stop()
        assert not one._folder.exists()


def run(stack: SessionStack, sql: str) -> list[tuple[Any, ...]]:
    """What a test does."""
    with stack.connect() as connection:
        cursor = connection.execute(sql.encode())
        return cursor.fetchall() if cursor.description else []


def test_tables_are_emptied(stack: Callable[..., SessionStack]) -> None:
    """In every schema, past triggers; ids begin anew. The tables are the same ones: nothing was made again."""
    one = stack(books=BOOKS)
    one.restore()
    before = run(one, "select 'books'::regclass::oid")
    add = "insert into books default values; insert into private.notes select id from books; table books"
    for _ in range(3):
        run(one, add)
        assert run(one, "select id, number from books") == [(1, 5)]
        one.restore()
        assert run(one, "select count(*) from books, private.notes") == [(0,)]
    assert run(one, "select 'books'::regclass::oid") == before


@pytest.mark.parametrize(
    "change",
    [
        "create table t (a int); create view v as table t; create type mood as enum ('a'); create schema mine",
        "create function f() returns int language sql as 'select 1'; create sequence s",
        "alter table books add column more int; alter table books enable row level security",
        "create policy p on books using (true)",
        "drop table books cascade",
        "revoke all on books from service_role",
        "drop schema private cascade",
        "drop schema public cascade",
    ],
)
def test_what_a_test_changed_is_undone(shared: SessionStack, change: str) -> None:
    """Whatever it made, altered or dropped."""
    shared.restore()
    before = run(shared, STATE)
    run(shared, change)
    shared.restore()
    assert run(shared, STATE) == before
    assert run(shared, "table languages order by 1") == [("de",), ("en",)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SessionStack]:
    """One stack whose migrations store rows."""
    folder = tmp_path_factory.mktemp("migrations")
    (folder / "001_books.sql").write_text(BOOKS)
    (folder / "002_languages.sql").write_text(SEED)
    one = SessionStack(folder)
    yield one
    one.stop()


def test_rows_of_the_migrations_are_there_again(shared: SessionStack) -> None:
    """Also those that a test deleted or changed."""
    shared.restore()
    run(shared, "delete from languages where name = 'de'; update languages set name = 'fr'")
    shared.restore()
    assert run(shared, "table languages order by 1") == [("de",), ("en",)]


def test_a_transaction_that_a_test_forgot_is_ended(shared: SessionStack) -> None:
    """It would hold the next test up."""
    shared.restore()
    with shared.connect() as forgotten:
        forgotten.execute("begin; lock table books")
        shared.restore()
        with pytest.raises(psycopg.OperationalError):
            forgotten.execute("select 1")


def test_a_statement_that_still_runs_is_said(shared: SessionStack) -> None:
    """Rather than waited for, for ever."""
    shared.restore()
    shared._connection.execute("set lock_timeout = '100ms'")
    with shared.connect() as busy:
        thread = threading.Thread(target=_hold, args=(busy,))
        thread.start()
        assert eventually(lambda: run(shared, "select 1 from pg_locks where relation = 'books'::regclass") == [(1,)])
        with pytest.raises(LocalSupabaseError, match="a statement of an earlier test is still running"):
            shared.restore()
        busy.cancel()
        thread.join()
    shared._connection.execute("set lock_timeout = '10s'")


def _hold(connection: psycopg.Connection[Any]) -> None:
    with pytest.raises(psycopg.errors.QueryCanceled):
        connection.execute("do $$ begin lock table books; perform pg_sleep(60); end $$")


def test_a_migration_that_cannot_be_repeated_is_said(stack: Callable[..., SessionStack]) -> None:
    """Only where it has to be: as long as no test changes the schema, once is enough."""
    one = stack(roles="create role readers; create table t (a int)")
    one.restore()
    run(one, "insert into t values (1)")
    one.restore()
    run(one, "create table mine ()")
    with pytest.raises(LocalSupabaseError, match=r"0_roles\.sql.*already exists.*only if they do not exist"):
        one.restore()
