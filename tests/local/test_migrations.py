"""The migrations of the example project, and every SQL query of README and docs, in a database of their own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from scrapy_supabase.local import LocalSupabase
from tests.docs_pages import blocks_of
from tests.fix_local import Connection
from tests.polling import eventually

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "migrations").glob("*.sql"))
TABLES = ("modules", "symbols", "quotes", "scrapy_runs", "snapshot_versions")

FILL = """
insert into modules (name, summary, symbol_count, programming_language, snapshot_date, snapshot_version)
  select 'm' || m, repeat('summary ', 20), m, 'python', current_date - d, v
  from generate_series(1, 300) m, generate_series(0, 2) d, generate_series(1, 2) v;
insert into symbols (module, name, kind, signature, summary, doc, snapshot_date, snapshot_version)
  select 'm' || m, 's' || s, (array['class', 'function', 'data'])[1 + s % 3], repeat('x', 60), repeat('y', 60),
         repeat(md5(s::text), 20), current_date - d, v
  from generate_series(1, 300) m, generate_series(1, 20) s, generate_series(0, 2) d, generate_series(1, 2) v;
insert into quotes (author, text, collected_at, collected_at_hour)
  select 'a' || n % 50, repeat(md5(n::text), 10), h, h
  from generate_series(1, 200) n, (select date_trunc('hour', now()) - i * interval '1 hour' as h
  from generate_series(0, 199) i) hours;
"""


def queries() -> list[str]:
    """Those of the README that read, each to be explained."""
    text = "".join(block.text for block in blocks_of(ROOT / "README.md") if block.language == "sql")
    statements = [part.strip() for part in re.sub(r"--.*", "", text).split(";")]
    return [one for one in statements if one.startswith("select")]


@pytest.fixture(scope="module")
def migrated(local_stack: LocalSupabase) -> Iterator[Connection]:
    """A database with all migrations."""
    with psycopg.connect(local_stack.db_url, autocommit=True) as admin:
        admin.execute("drop database if exists example")
        admin.execute("create database example")
        with psycopg.connect(local_stack.db_url.removesuffix("/postgres") + "/example", autocommit=True) as connection:
            migrate(connection)
            yield connection
        admin.execute("drop database example")


def migrate(connection: Connection) -> None:
    """Run all files as one would in Supabase's SQL editor: each as a whole."""
    for path in FILES:
        with connection.transaction():
            connection.execute(path.read_bytes())


def test_they_may_run_twice(migrated: Connection) -> None:
    """The second time changes nothing: not a column, index, grant, policy or row."""
    migrated.execute("insert into modules (name) values ('kept')")
    before = described(migrated)
    migrate(migrated)
    assert described(migrated) == before
    assert migrated.execute("delete from modules where name = 'kept' returning name").fetchall() == [("kept",)]


def described(connection: Connection) -> list[tuple[object, ...]]:
    """The tables as the catalog has them."""
    return connection.execute(
        "select c.relname, c.relacl::text, c.relrowsecurity, c.reloptions::text,"
        " (select array_agg((attname, format_type(atttypid, atttypmod), attnotnull)::text order by attnum)"
        "  from pg_attribute where attrelid = c.oid and attnum > 0 and not attisdropped),"
        " (select array_agg(pg_get_constraintdef(oid) order by conname) from pg_constraint where conrelid = c.oid),"
        " (select array_agg(polname::text order by polname) from pg_policy where polrelid = c.oid)"
        " from pg_class c where relnamespace = 'public'::regnamespace order by relname"
    ).fetchall()


@pytest.mark.parametrize("table", TABLES)
def test_row_level_security_is_on_everywhere(migrated: Connection, table: str) -> None:
    """Nobody but the service role writes."""
    found = migrated.execute("select relrowsecurity from pg_class where oid = %s::regclass", (table,)).fetchall()
    assert found == [(True,)]
    for role in ("anon", "authenticated"):
        for right in ("insert", "update", "delete"):
            row = migrated.execute("select has_table_privilege(%s, %s, %s)", (role, table, right)).fetchone()
            assert row == (False,), (role, right)
    if table != "snapshot_versions":
        row = migrated.execute("select has_table_privilege('service_role', %s, 'insert')", (table,)).fetchone()
        assert row == (True,)


@pytest.fixture(scope="module")
def filled(migrated: Connection) -> Connection:
    """36,000 symbols in six snapshots, vacuumed."""
    migrated.execute(FILL.encode())

    def all_visible() -> bool:  # a snapshot of autovacuum's own may keep a VACUUM from seeing to all pages
        migrated.execute("vacuum (analyze)")
        query = (
            "select bool_and(relallvisible = relpages) from pg_class where relname in ('modules','symbols','quotes')"
        )
        return migrated.execute(query).fetchone() == (True,)

    eventually(all_visible)
    return migrated


@pytest.mark.parametrize(
    ("query", "index"),
    list(
        zip(
            queries(),
            ["symbols_by_kind", "symbols_history", "modules_by_size", "quotes_by_hour"],
            strict=True,
        )
    ),
)
def test_the_queries_of_the_readme_are_answered_by_an_index_alone(filled: Connection, query: str, index: str) -> None:
    """EXPLAIN shows an index-only scan of the index made for the query, and no look at the table."""
    plan = "\n".join(line for (line,) in filled.execute(f"explain {query}".encode()))
    assert re.search(rf"Index Only Scan (Backward )?using {index} ", plan), plan
    assert not re.search(r"Seq Scan|Index Scan|Heap Scan", plan), plan


def test_the_sql_of_make_demo_shows_rows(filled: Connection) -> None:
    """All queries of the Makefile."""
    text = (ROOT / "Makefile").read_text().replace("\\\n", "")
    found = re.findall(r'supabase sql "(select[^"]+)"', text)
    assert len(found) >= 3
    for query in found:
        assert filled.execute(query.encode()).fetchall(), query


def test_the_schedule_is_made_where_there_is_pg_cron(migrated: Connection) -> None:
    """One VACUUM a table, each a statement of its own, which may run outside of a transaction."""
    with migrated.transaction(force_rollback=True):
        migrated.execute(
            "create schema cron; create table cron.job (name text primary key, schedule text, command text);"
            " create function cron.schedule(name text, schedule text, command text) returns bigint language sql as"
            " 'insert into cron.job values ($1, $2, $3) on conflict (name) do update set command = excluded.command;"
            "  select 1::bigint'"
        )
        (maintenance,) = (path for path in FILES if path.name.startswith("008"))
        for _ in range(2):
            migrated.execute(maintenance.read_bytes())
        commands = [command for (command,) in migrated.execute("select command from cron.job order by name")]
    assert commands == [f"VACUUM (ANALYZE) public.{name}" for name in ("modules", "quotes", "symbols")]
    for command in commands:
        migrated.execute(command.encode())  # in autocommit mode, as pg_cron does
    migrated.execute("set role service_role")
    migrated.execute("select analyze_scraped_tables()")
    migrated.execute("reset role")
