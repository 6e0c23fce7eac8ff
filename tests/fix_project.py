"""A Supabase project to upload to (local, or named by the environment), and the stages of the line without a crawl."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from scrapy_supabase.backends.base import Backend
from scrapy_supabase.backends.open_policy import OpenPolicy
from scrapy_supabase.backends.postgres import PostgresBackend
from scrapy_supabase.backends.postgrest import PostgrestBackend
from scrapy_supabase.backends.retry import Deadline
from scrapy_supabase.delivery.attempts import Sender
from scrapy_supabase.delivery.schema_check import SchemaCheck
from scrapy_supabase.delivery.uploader import Uploader
from scrapy_supabase.models import Chunk, Mode, Outcome, Row, WriteOptions
from scrapy_supabase.rows.builder import RowBuilder
from scrapy_supabase.schema.schema import Schema, UnknownColumns
from scrapy_supabase.schema.table_spec import ParentFields, TableSpec
from scrapy_supabase.settings.server import role_of
from tests.fault_proxy import FaultProxy
from tests.fix_local import Connection

if TYPE_CHECKING:
    from tests.fix_bouncer import Bouncer


@dataclass(frozen=True)
class Project:
    """Where to upload to. `anon_key` is empty where the environment names none."""

    url: str
    key: str
    anon_key: str
    db_url: str


@pytest.fixture(scope="session")
def project(request: pytest.FixtureRequest) -> Project:
    """The project of `SUPABASE_TEST_URL`, `SUPABASE_TEST_KEY` and `SUPABASE_TEST_DB_URL`, else the local stack."""
    url = os.environ.get("SUPABASE_TEST_URL")
    if url:
        environment = os.environ
        anon = environment.get("SUPABASE_TEST_ANON_KEY", "")
        return Project(url, environment["SUPABASE_TEST_KEY"], anon, environment["SUPABASE_TEST_DB_URL"])
    stack = request.getfixturevalue("local_stack")
    return Project(stack.url, stack.service_role_key, stack.anon_key, stack.db_url)


@pytest.fixture
def sql(project: Project) -> Iterator[Callable[..., list[tuple[Any, ...]]]]:
    """Run SQL as `postgres`; returns the rows. Tables named t or t_… are dropped afterwards."""
    with psycopg.connect(project.db_url, autocommit=True) as connection:
        _drop(connection)

        def run(query: str, *parameters: Any) -> list[tuple[Any, ...]]:
            cursor = connection.execute(query.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

        yield run
        _drop(connection)


@pytest.fixture
def snapshots(sql: Callable[..., list[tuple[Any, ...]]]) -> Callable[..., list[tuple[Any, ...]]]:
    """`sql`, with the function that gives out snapshot versions; none was given out today."""
    path = Path(__file__).parents[1] / "migrations" / "006_add_daily_snapshots.sql"
    _, start, rest = path.read_text().partition("create table if not exists public.snapshot_versions")
    function, _, _ = rest.partition("create or replace view")
    sql(f"{start}{function}\n; delete from snapshot_versions; notify pgrst, 'reload schema'")
    return sql


def _drop(connection: Connection) -> None:
    found = connection.execute("select tablename from pg_tables where schemaname = 'public' and tablename ~ '^t(_|$)'")
    for (name,) in found.fetchall():
        connection.execute(f'drop table if exists public."{name}" cascade'.encode())


@pytest.fixture
def proxy(project: Project) -> Iterator[FaultProxy]:
    """A fault proxy in front of the project."""
    with FaultProxy(project.url) as server:
        yield server


@dataclass
class Line:
    """The stages from item to outcome, for one or more tables, with no crawl around them."""

    schema: Schema
    backend: Backend
    uploader: Uploader
    deadline: Deadline
    cleaned: list[str] = field(default_factory=list)
    number: int = 0

    def rows(self, items: Sequence[Mapping[str, Any]], table: str = "t") -> tuple[Row, ...]:
        """Build the rows of `items`."""
        builder = RowBuilder({None: self.schema.specs[table]}, self.schema, {}, self.cleaned.append)
        return tuple(builder.build(dict(item)) for item in items)

    def chunk(self, items: Sequence[Mapping[str, Any]], table: str = "t") -> Chunk:
        """A chunk of the rows of `items`, in their order."""
        self.number += 1
        return Chunk(self.number, self.rows(items, table), f"{self.number}.jsonl")

    def upload(self, *items: Mapping[str, Any], table: str = "t") -> Outcome:
        """Upload `items` as one chunk."""
        return self.uploader.upload(self.chunk(items, table))


MakeLine = Callable[..., Line]


def as_role(db_url: str, role: str) -> str:
    """A connection string for what PostgREST would be for `role`, with the local stack's timeout for it."""
    options = f"-c role={role}" + (" -c statement_timeout=3s" if role == "anon" else "")
    return make_conninfo(db_url, options=options)


@pytest.fixture
def line(project: Project, request: pytest.FixtureRequest) -> Iterator[MakeLine]:
    """Make a `Line`: `line(mode=…, on_conflict=…, check=True, …)`. Waits are of 10 ms.

    It ends in the REST API; with the parameter "database" in a database connection as the role of `key`, with "pooler"
    in one that PgBouncer gives.
    """
    made: list[Backend] = []
    over = getattr(request, "param", "rest")
    bouncer: Bouncer | None = request.getfixturevalue("bouncer") if over == "pooler" else None

    def make(
        *tables: str,
        url: str = "",
        key: str = "",
        mode: Mode = Mode.UPSERT,
        on_conflict: tuple[str, ...] = (),
        unknown: UnknownColumns | None = None,
        fallback: bool = True,
        writing: WriteOptions | None = None,
        attempts: int = 3,
        delay: float = 0.01,
        timeout: float = 5.0,
        check: bool = True,
        open_timeout: float = 0.0,
        fields: Mapping[str, Sequence[str]] | None = None,
        parents: Mapping[str, ParentFields] | None = None,
    ) -> Line:
        key = key or project.key
        writing = writing or WriteOptions()
        parents = parents or {}
        specs = {
            name: TableSpec(name, mode, on_conflict, references=parents, writing=writing) for name in tables or ("t",)
        }
        schema = Schema(specs, unknown=unknown, insert_fallback=fallback, role=role_of(key))
        backend: Backend
        if over == "rest":
            backend = PostgrestBackend(url or project.url, key, timeout=timeout)
        elif bouncer is not None:
            backend = PostgresBackend(url or bouncer.url(role_of(key)), timeout=timeout)
        else:
            backend = PostgresBackend(as_role(url or project.db_url, role_of(key)), timeout=timeout)
        made.append(backend)
        deadline = Deadline()
        if check:
            SchemaCheck(backend, schema, fields or {}, policy=OpenPolicy(attempts, delay, deadline, open_timeout)).run()
        uploader = Uploader(Sender(backend, schema, attempts=attempts, delay=delay, deadline=deadline))
        return Line(schema, backend, uploader, deadline)

    yield make
    for backend in made:
        backend.close()
