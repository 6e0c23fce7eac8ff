"""PgBouncer in transaction mode, a real one: sessions that pass from client to client, and how it fails.

The contract suite, the reads, the counting statement and unseen rows run over it as well, with the parameter "pooler":
tests/backends/test_contract.py and its neighbours.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from scrapy_supabase.backends.base import Write
from scrapy_supabase.backends.postgres import PostgresBackend
from scrapy_supabase.commands.apply import apply_sql
from scrapy_supabase.errors import FatalError, TransientError
from scrapy_supabase.models import Mode
from tests.fix_bouncer import SIZE, Bouncer, MakeBouncer
from tests.fix_crawl import Crawler
from tests.fix_project import MakeLine, Project
from tests.monitoring.test_snapshots import LEDGER
from tests.monitoring.test_snapshots import TABLE as SNAPSHOTS
from tests.polling import eventually
from tests.tcp_proxy import TcpProxy
from tests.test_messages_commands import Command, command

__all__ = ["command"]  # a fixture
Sql = Callable[..., list[tuple[Any, ...]]]
Site = Callable[[list[list[dict[str, Any]]]], str]

KEYED = "create table t (id bigint primary key, title text); grant all on t to service_role"
KEYLESS = "create table t (title text); grant all on t to service_role"
over_pooler = pytest.mark.parametrize("line", ["pooler"], indirect=True)


def items(first: int, number: int) -> list[dict[str, Any]]:
    """Items with ascending ids."""
    return [{"id": first + n, "title": "x"} for n in range(number)]


@pytest.fixture
def tcp(project: Project) -> Iterator[TcpProxy]:
    """A fault proxy between the pooler and the database."""
    at = conninfo_to_dict(project.db_url)
    with TcpProxy(str(at["host"]), int(str(at["port"])), trigger=b"json_to_recordset") as proxy:
        yield proxy


@pytest.fixture
def connect() -> Iterator[Callable[[str], PostgresBackend]]:
    """Make backends."""
    made: list[PostgresBackend] = []

    def new(url: str) -> PostgresBackend:
        made.append(PostgresBackend(url, timeout=5.0))
        return made[-1]

    yield new
    for backend in made:
        backend.close()


Connect = Callable[[str], PostgresBackend]


# What stays in a session


def sessions(url: str) -> dict[int, list[int]]:
    """Return process → the numbers of prepared statements, advisory locks, settings of ours, and temporary tables."""
    query = """select pg_backend_pid(), array[(select count(*) from pg_prepared_statements),
        (select count(*) from pg_locks where pid = pg_backend_pid() and locktype = 'advisory'),
        (select count(*) from pg_settings where source = 'session'
          and name not in ('application_name', 'client_encoding')),
        (select count(*) from pg_class where relpersistence = 't' and pg_table_is_visible(oid))]"""
    found: dict[int, list[int]] = {}
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
        for _ in range(3 * SIZE):
            process, counts = connection.execute(query.encode()).fetchone() or (0, [])
            found[process] = counts
    return found


@over_pooler
def test_nothing_stays_in_a_session(line: MakeLine, make_bouncer: MakeBouncer, sql: Sql) -> None:
    """Uploads, the check's dry run, and SQL with repeated statements: the next client finds nothing of them."""
    sql(KEYED)
    bouncer = make_bouncer()
    with ExitStack() as at_once:  # so that PgBouncer opens all sessions
        for _ in range(SIZE):
            at_once.enter_context(psycopg.connect(bouncer.url())).execute("select 1")
    made = line(url=bouncer.url())
    for n in range(3 * SIZE):
        assert made.upload(*items(10 * n, 10)).uploaded == 10
    assert isinstance(made.backend, PostgresBackend)
    made.backend.dry_run(Write("t", ("id",), b'[{"id":-1}]', Mode.UPSERT))
    for _ in range(2):
        apply_sql(
            bouncer.url(), "set local lock_timeout = '5s'; " + "insert into t values (7) on conflict do nothing;" * 8
        )
    found = sessions(bouncer.url())
    assert len(found) == SIZE
    assert list(found.values()) == [[0, 0, 0, 0]] * len(found)
    assert sql("select count(*) from t") == [(30 * SIZE,)]


# How it fails


def test_what_it_cannot_do_is_fatal(bouncer: Bouncer, connect: Connect, sql: Sql) -> None:
    """A parameter that it does not pass on, a database that it does not know, and statement mode."""
    sql(KEYED)
    for change, code, remedy in (
        ({"options": "-c statement_timeout=5s"}, "0A000", "ignore_startup_parameters"),
        ({"dbname": "nowhere"}, "3D000", "Check user, password and database"),
        ({"password": "wr0ng-secret"}, "28000", "Check user, password and database"),
    ):
        with pytest.raises(FatalError) as raised:
            connect(make_conninfo(bouncer.url(), **change)).describe()
        assert raised.value.code == code, raised.value
        assert remedy in raised.value.remedy
    backend = connect(bouncer.url("statement"))
    backend.describe()
    with pytest.raises(FatalError, match="pool_mode = transaction"):
        backend.dry_run(Write("t", ("id",), b'[{"id":-1}]', Mode.UPSERT))


@over_pooler
def test_a_pooler_that_is_full_is_busy(line: MakeLine, make_bouncer: MakeBouncer, connect: Connect, sql: Sql) -> None:
    """`max_client_conn`, for a new connection; `query_wait_timeout`, for a statement. No row is stored twice."""
    sql(KEYLESS)
    bouncer = make_bouncer(max_client_conn=3, default_pool_size=1, query_wait_timeout=1)
    made = line(url=bouncer.url(), mode=Mode.INSERT, attempts=5)
    made.upload({"title": "first"})
    with psycopg.connect(bouncer.url()) as holder:
        holder.execute("select 1")  # the only session is in its transaction
        with psycopg.connect(bouncer.url("anon")), pytest.raises(TransientError) as raised:
            connect(bouncer.url()).describe()
        threading.Timer(2.0, holder.rollback).start()
        outcome = made.upload({"title": "a"})
    assert (raised.value.code, raised.value.busy, raised.value.overload) == ("53300", True, True)
    assert "max_client_conn" in raised.value.message
    assert (outcome.uploaded, outcome.effort.errors["53300"]) == (1, outcome.effort.retries)
    assert outcome.effort.retries > 0
    assert outcome.effort.ambiguous_retries == 0
    assert sql("select count(*) from t") == [(2,)]


@over_pooler
def test_the_database_is_lost_behind_it(
    line: MakeLine, make_bouncer: MakeBouncer, tcp: TcpProxy, sql: Sql, project: Project
) -> None:
    """`server conn crashed?`: the rows may be stored. A session that the database ends has stored none."""
    sql(KEYLESS)
    made = line(url=make_bouncer(upstream=("127.0.0.1", tcp.port)).url(), mode=Mode.INSERT)
    made.upload({"title": "first"})
    tcp.faults.append("cut after")
    effort = made.upload({"title": "twice"}).effort
    assert (effort.errors, effort.retries, effort.ambiguous_retries) == ({"08P01": 1}, 1, 1)
    with psycopg.connect(project.db_url) as locker:
        locker.execute("lock table t")

        def end_the_session() -> None:
            waiting = "pg_stat_activity where wait_event_type = 'Lock' and query like '%json_to_recordset%'"
            assert eventually(lambda: sql(f"select pid from {waiting}") != [])
            sql(f"select pg_terminate_backend(pid) from {waiting}")
            locker.rollback()

        ending = threading.Thread(target=end_the_session)
        ending.start()
        effort = made.upload({"title": "once"}).effort
        ending.join()
    assert (effort.errors, effort.retries, effort.ambiguous_retries) == ({"57P01": 1}, 1, 0)
    assert sql("select title, count(*) from t group by 1 order by 1") == [("first", 1), ("once", 1), ("twice", 2)]


@over_pooler
def test_the_database_is_gone_behind_it(line: MakeLine, make_bouncer: MakeBouncer, tcp: TcpProxy, sql: Sql) -> None:
    """It answers that no session can be had: a server that is there, but cannot work now."""
    sql(KEYED)
    made = line(url=make_bouncer(upstream=("127.0.0.1", tcp.port)).url(), timeout=1.0)
    made.upload(*items(1, 1))
    tcp.__exit__()
    outcome = made.upload(*items(2, 2))
    assert (outcome.uploaded, len(outcome.left)) == (0, 2)
    assert outcome.transient is not None
    assert (outcome.transient.code, outcome.transient.busy) == ("57P03", True), outcome.effort.errors


@over_pooler
def test_a_query_timeout_of_its_own(line: MakeLine, make_bouncer: MakeBouncer, sql: Sql) -> None:
    """The database may finish what PgBouncer gave up: half of the rows are sent next."""
    sql(KEYED)
    made = line(url=make_bouncer(query_timeout=1).url(), attempts=5)
    made.upload(*items(1, 1))
    with psycopg.connect(make_bouncer().url()) as locker:
        locker.execute("lock table t")
        threading.Timer(2.0, locker.rollback).start()
        outcome = made.upload(*items(2, 2))
    assert (outcome.uploaded, set(outcome.effort.errors)) == (2, {"08P01"})
    assert sql("select count(*) from t") == [(3,)]


@over_pooler
def test_pause_and_restart(line: MakeLine, make_bouncer: MakeBouncer, sql: Sql) -> None:
    """PAUSE makes statements wait; without RESUME they are given up. A restart closes idle connections."""
    sql(KEYED)
    bouncer = make_bouncer()
    made = line(url=bouncer.url(), timeout=0.3)
    made.upload(*items(1, 1))
    bouncer.admin("PAUSE")
    threading.Timer(0.4, bouncer.admin, ["RESUME"]).start()
    outcome = made.upload(*items(2, 2))
    assert (outcome.uploaded, outcome.effort.errors["TimeoutError"]) == (2, outcome.effort.retries)
    bouncer.stop()
    left = made.upload(*items(4, 2))
    assert (left.uploaded, len(left.left)) == (0, 2)
    bouncer.start()
    assert made.upload(*items(4, 2)).uploaded == 2
    bouncer.stop(signal.SIGKILL)
    bouncer.start()
    assert made.upload(*items(6, 2)).uploaded == 2
    assert sql("select count(*) from t") == [(7,)]


# Whole crawls, commands

TABLES = {
    "*": {
        "table": "t_books",
        "on_conflict": "id",
        "references": {"brand_id": {"table": "t_brands", "match": {"name": "brand"}, "create": True}},
        "unseen": {"delete": True, "at_most": 1.0},
        "children": {
            "reviews": {
                "table": "t_reviews",
                "parent": {"book": "id"},
                "position": "n",
                "on_conflict": ["book", "n"],
                "replace": True,
            }
        },
    }
}


def books(numbers: range, reviews: int) -> dict[str, Any]:
    """Return the plan of a crawl."""
    rows = [{"id": n, "brand": f"b{n % 3}", "reviews": [{"stars": 5} for _ in range(reviews)]} for n in numbers]
    return {"items": rows}


def test_crawls_with_every_option(crawl: Crawler, bouncer: Bouncer, snapshots: Sql) -> None:
    """Tables, parents and children are made; what is gone is deleted; versions and the ledger."""
    snapshots(f"{LEDGER}; {SNAPSHOTS}")
    server: dict[str, Any] = {"SUPABASE_URL": None, "SUPABASE_KEY": None, "SUPABASE_DB_URL": bouncer.url()}
    settings: dict[str, Any] = {
        **server,
        "SUPABASE_TABLE": None,
        "SUPABASE_TABLES": TABLES,
        "SUPABASE_STAMPS": {"run_id": "run_id"},
        "SUPABASE_CREATE_TABLES": True,
        "SUPABASE_RUNS_TABLE": "t_runs",
        "BATCH_CHUNK_SIZE": 20,
    }
    first = crawl(books(range(100), 2), **settings)
    assert first.counts("uploaded", "failed", "spooled", "unseen") == (300, 0, 0, 0), first.log
    second = crawl(books(range(10, 100), 1), **settings)
    assert second.counts("uploaded", "failed", "unseen") == (180, 0, 10 + 90), second.log
    # The reviews of the ten books that were not met stay: their parents were not stored by this crawl.
    assert snapshots("select count(*), count(distinct name) from t_books join t_brands b on b.id = brand_id") == [
        (90, 3)
    ]
    assert snapshots("select count(*) from t_reviews") == [(110,)]
    done = crawl({"items": items(1, 30)}, **server, SUPABASE_DAILY_SNAPSHOTS=True, SUPABASE_RUNS_TABLE="t_runs")
    assert snapshots("select count(*), max(snapshot_version) from t") == [(30, 1)], done.log
    assert snapshots("select count(*), sum(uploaded_count) from t_runs where finish_reason = 'finished'") == [(3, 510)]


def test_an_outage_and_a_kill(crawl: Crawler, make_bouncer: MakeBouncer, sql: Sql, site: Site, tmp_path: Path) -> None:
    """PgBouncer ends in the middle of a crawl, and the crawl is killed: the next one stores all of its rows."""
    sql(KEYED)
    bouncer = make_bouncer()
    pages = [items(10 * page, 10) for page in range(600)]
    settings: dict[str, Any] = {"SUPABASE_URL": None, "SUPABASE_KEY": None, "SUPABASE_DB_URL": bouncer.url()}
    seen: dict[str, Any] = {
        "WITNESS": str(tmp_path / "witness"),
        "ITEM_PIPELINES": {"scrapy_supabase.SupabasePipeline": 300, "tests.crawl.Witness": 350},
    }
    process = crawl.start({"pages": len(pages), "site": site(pages)}, **settings, **seen)
    assert eventually(lambda: sql("select count(*) from t") != [(0,)], 30), crawl.log_of(process)
    bouncer.stop()
    assert eventually(lambda: "The server is unreachable" in crawl.log_of(process), 30)
    bouncer.start()
    assert eventually(lambda: "The server is reachable again" in crawl.log_of(process), 30)
    process.send_signal(signal.SIGKILL)
    crawl.finish(process, balanced=False)
    done = crawl({"items": items(-5, 5)}, **settings)
    assert done.counts("uploaded", "failed", "spooled") == (5, 0, 0), done.log
    given = {int(line.partition(" ")[0]) for line in (tmp_path / "witness").read_text().splitlines()}
    assert given <= {number for (number,) in sql("select id from t")}
    assert done.spooled == []


def test_commands(command: Command, bouncer: Bouncer, sql: Sql) -> None:
    """`ddl --apply`, `load`, `check`, `sql` and `replay`."""
    settings: dict[str, Any] = {"SUPABASE_URL": None, "SUPABASE_KEY": None, "SUPABASE_DB_URL": bouncer.url()}
    rows = b"".join(json.dumps(row).encode() + b"\n" for row in items(1, 250))
    for arguments, text in (
        (["ddl", "--from", "-", "--key", "id", "--apply"], rows),
        (["load", "-"], rows),
        (["check"], b""),
        (["replay"], b""),
    ):
        said = command(*arguments, text=text, **settings)
        assert command.code == 0, said
    assert "stdout: (1 row)" in command("sql", "select count(*) from t", **settings)
    assert sql("select count(*) from t") == [(250,)]
