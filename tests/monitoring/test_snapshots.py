"""Daily snapshots and the ledger of runs, in real crawls."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from tests.fix_crawl import Crawler

Sql = Callable[..., list[tuple[Any, ...]]]

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


def test_a_missing_ledger(crawl: Crawler, sql: Sql) -> None:
    """A table that does not exist ends the crawl before its first page."""
    sql("create table t (id bigint primary key, title text); grant all on t to service_role")
    done = crawl({"items": ITEMS}, SUPABASE_RUNS_TABLE="t_runs")
    assert done.stats["finish_reason"] == "supabase_runs_table", done.log
    assert "run: scrapy supabase ddl --runs " in done.log
    assert sql("select count(*) from t") == [(0,)]
