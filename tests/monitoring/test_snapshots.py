"""Daily snapshots and the ledger of runs, in real crawls."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from scrapy_supabase.backends.base import Backend
from scrapy_supabase.backends.open_policy import OpenPolicy
from scrapy_supabase.backends.postgres import PostgresBackend
from scrapy_supabase.backends.postgrest import PostgrestBackend
from scrapy_supabase.backends.retry import Deadline
from scrapy_supabase.monitoring.ledger import Ledger
from scrapy_supabase.monitoring.run import Run
from scrapy_supabase.schema.ddl import ledger_sql
from tests.fix_crawl import ROOT, Crawler
from tests.fix_project import Project
from tests.polling import eventually

Sql = Callable[..., list[tuple[Any, ...]]]
Site = Callable[[list[list[dict[str, Any]]]], str]

TABLE = (
    "create table t (id bigint, title text, snapshot_date date, snapshot_version int,"
    " primary key (id, snapshot_date, snapshot_version)); grant all on t to service_role"
)
LEDGER = (
    "create table t_runs (run_id uuid primary key, spider text not null, started_at timestamptz not null,"
    " finished_at timestamptz, finish_reason text, received_count bigint default 0, uploaded_count bigint default 0,"
    " failed_count bigint default 0, spooled_count bigint default 0, stats jsonb not null default '{}');"
    " grant select, insert, update on t_runs to service_role"
)
ITEMS = [{"id": number, "title": f"t{number}"} for number in range(30)]


def test_two_crawls_at_once_keep_their_rows_apart(crawl: Crawler, snapshots: Sql) -> None:
    """Each stamps the UTC date and its own version."""
    snapshots(TABLE)
    both = [crawl.start({"items": ITEMS}, SUPABASE_DAILY_SNAPSHOTS=True) for _ in range(2)]
    for process in both:
        crawl.finish(process, balanced=False)
    found = snapshots(
        "select snapshot_date = (now() at time zone 'UTC')::date, snapshot_version, count(*) from t group by 1, 2"
        " order by 2"
    )
    assert found == [(True, 1, 30), (True, 2, 30)]


def test_a_missing_function_for_versions(crawl: Crawler, snapshots: Sql) -> None:
    """The crawl ends before its first page, and the message has the command that prints the SQL."""
    snapshots(f"{TABLE}; drop function next_snapshot_version; notify pgrst, 'reload schema'")
    done = crawl({"items": ITEMS}, SUPABASE_DAILY_SNAPSHOTS=True)
    assert done.stats["finish_reason"] == "supabase_snapshot", done.log
    assert "run: scrapy supabase ddl --snapshots" in done.log
    assert snapshots("select count(*) from t") == [(0,)]


def test_the_printed_sql_adds_missing_columns(crawl: Crawler, snapshots: Sql) -> None:
    """Nothing is crawled before; afterwards an upsert on the whole key works."""
    snapshots("create table t (id bigint not null, title text); grant all on t to service_role")
    settings = {"SUPABASE_DAILY_SNAPSHOTS": True, "SUPABASE_ON_CONFLICT": ["id"]}
    done = crawl({"items": ITEMS}, **settings)
    assert done.stats["finish_reason"] == "supabase_schema", done.log
    printed = re.search(r"Run: (ALTER TABLE .*?; CREATE UNIQUE INDEX .*?;)", done.log)
    assert printed, done.log
    snapshots(f"{printed[1]} notify pgrst, 'reload schema'")
    for version in (1, 2):
        done = crawl({"items": ITEMS}, **settings)
        assert done.counts("uploaded", "failed") == (30, 0), done.log
        assert snapshots("select count(*) from t where snapshot_version = %s", version) == [(30,)]


def test_the_ledger_has_one_row_per_run(crawl: Crawler, sql: Sql) -> None:
    """Written at the start, completed at the end, with the counts and all stats."""
    sql(f"create table t (id bigint primary key, title text); grant all on t to service_role; {LEDGER}")
    done = crawl({"items": [*ITEMS, {"id": "bad"}]}, SUPABASE_RUNS_TABLE="t_runs")
    assert done.counts("uploaded", "failed") == (30, 1), done.log
    found = sql(
        "select spider, finish_reason, received_count, uploaded_count, failed_count, spooled_count,"
        " finished_at >= started_at, stats->>'item_scraped_count' from t_runs"
    )
    assert found == [("test0", "finished", 31, 30, 1, 0, True, "31")]


def test_the_ledger_shows_a_fleet(crawl: Crawler, sql: Sql, site: Site) -> None:
    """The row is updated while the crawl runs; the query of the docs tells a killed crawl from one that runs."""
    page = (ROOT / "docs" / "how-to" / "daily-snapshots.md").read_text()
    query = page.partition("One query shows a fleet")[2].partition("```sql")[2].partition("```")[0]
    state = f"select uploaded_count, state from ({query.replace('scrapy_runs', 't_runs').strip().rstrip(';')}) as runs"
    sql(f"create table t (id bigint primary key); grant all on t to service_role; {ledger_sql('t_runs')}")
    pages = [[{"id": number}] for number in range(200)]
    process = crawl.start(
        {"pages": 200, "site": site(pages), "ledger_every": 0},
        SUPABASE_RUNS_TABLE="t_runs",
        BATCH_FLUSH_INTERVAL=0.1,
        DOWNLOAD_DELAY=0.5,
    )
    try:
        assert eventually(lambda: sql("select uploaded_count > 1 from t_runs") == [(True,)], 60), crawl.log_of(process)
        ((uploaded, running),) = sql(state)
        assert (uploaded > 1, running) == (True, "running")
    finally:
        process.kill()
        crawl.finish(process, balanced=False)
    sql("update t_runs set last_seen = last_seen - interval '1 hour'")
    assert sql(state)[0][1].startswith("killed, or without connection, since 2")


@pytest.mark.parametrize("over", ["rest", "database"])
def test_a_ledger_of_an_older_version_works(sql: Sql, project: Project, over: str) -> None:
    """Without `last_seen`: start, update and end are written. No update follows the end."""
    sql(f"{LEDGER}; notify pgrst, 'reload schema'")
    backend: Backend = PostgresBackend(project.db_url)
    if over == "rest":
        backend = PostgrestBackend(project.url, project.key)
    now = 0.0
    run = Run("s")
    identity = {"run_id": run.id, "spider": "s", "started_at": run.started}
    ledger = Ledger(backend, "t_runs", identity, clock=lambda: now)
    ledger.begin(OpenPolicy(1, 0.01, Deadline()))
    assert not ledger.is_due()
    now = 61.0
    assert (ledger.is_due(), ledger.is_due()) == (True, False)
    ledger.update(Counter(received=3, uploaded=2))
    found = "select received_count, uploaded_count, finish_reason from t_runs"
    assert sql(found) == [(3, 2, None)]
    ledger.end("finished", Counter(received=4, uploaded=4), {"a": 1})
    ledger.update(Counter(received=3, uploaded=2))
    assert sql(found) == [(4, 4, "finished")]
    backend.close()


def test_a_missing_ledger(crawl: Crawler, sql: Sql) -> None:
    """A table that does not exist ends the crawl before its first page."""
    sql("create table t (id bigint primary key, title text); grant all on t to service_role")
    done = crawl({"items": ITEMS}, SUPABASE_RUNS_TABLE="t_runs")
    assert done.stats["finish_reason"] == "supabase_runs_table", done.log
    assert "run: scrapy supabase ddl --runs " in done.log
    assert sql("select count(*) from t") == [(0,)]
