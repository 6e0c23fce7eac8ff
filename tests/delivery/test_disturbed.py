"""Crawls through a proxy that fails 30 % of the requests: all rows are stored, and requests stay large."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests import fault_proxy as faults
from tests.fault_proxy import Fault, FaultProxy
from tests.fix_crawl import Crawl, Crawler
from tests.messages import of_log

Sql = Callable[..., list[tuple[Any, ...]]]

SHARE = 0.3
# Times that an undisturbed crawl takes, at most; with the default settings, which wait a second before each second try.
MOST_TIME = 8


def all_kinds(stall: float) -> dict[Fault, float]:
    """What networks, gateways and PostgREST do, each as often as the others."""
    kinds = [
        faults.resets_before,
        faults.resets_after,
        faults.truncates,
        faults.stalls(stall),
        faults.answers(429, {"message": "slow down"}),
        faults.answers(502, "<h1>Bad gateway</h1>"),
        faults.answers(503, "<h1>Service unavailable</h1>"),
        faults.answers(503, {"code": "PGRST002", "message": "Could not query the database for the schema cache."}),
        faults.answers(504, "<h1>Gateway time-out</h1>", stored=True),
        faults.answers(504, {"code": "PGRST003", "message": "Timed out acquiring connection from connection pool."}),
        faults.answers(520, "<h1>Unknown error</h1>"),
    ]
    return dict.fromkeys(kinds, 1.0)


@pytest.fixture
def table(sql: Sql) -> Sql:
    """The table `t`."""
    sql("create table t (id bigint primary key, title text, n int); grant all on t to service_role")
    return sql


def disturb(proxy: FaultProxy, stall: float) -> None:
    """Fail 30 % of the requests after those of the opening."""
    proxy.faults.extend([faults.passes] * 3)
    proxy.always = faults.at_random(SHARE, all_kinds(stall), seed=21)


def rows_a_request(proxy: FaultProxy) -> float:
    """The mean over the last quarter of the requests."""
    sizes = [body.count(b'"id"') for _, path, body in proxy.seen if "/t?" in path and body != b"[]"]
    last = sizes[-len(sizes) // 4 :]
    return sum(last) / len(last)


def check_rows(done: Crawl, table: Sql, rows: int) -> None:
    """All are stored, each once."""
    assert done.counts("uploaded", "failed", "spooled") == (rows, 0, 0), done.log
    assert table("select count(*), count(distinct id), max(id) from t") == [(rows, rows, rows - 1)]


@pytest.mark.parametrize("size", [20, "auto"])
def test_requests_stay_large(crawl: Crawler, table: Sql, proxy: FaultProxy, size: int | str) -> None:
    """Before, each 504 halved them for good: one row per request after ten."""
    disturb(proxy, stall=0.2)
    done = crawl({"count": 4000, "n": 1}, SUPABASE_URL=proxy.url, BATCH_CHUNK_SIZE=size, LOG_LEVEL="INFO")
    check_rows(done, table, 4000)
    assert done.counts("retry")[0] > 10
    assert len(of_log(done.log, least="WARNING")) == 2 * done.counts("outage")[0]
    assert rows_a_request(proxy) >= 8  # 12 to 18 in twelve runs; the faults fall otherwise each time


@pytest.mark.parametrize("fault", all_kinds(0.1), ids=lambda fault: fault.__qualname__)
def test_a_single_failure_logs_no_warning(crawl: Crawler, table: Sql, proxy: FaultProxy, fault: Fault) -> None:
    """The stats count it, and the log has it at DEBUG."""
    proxy.faults.extend([faults.passes] * 3)
    proxy.faults.append(fault)
    done = crawl({"count": 300, "n": 1}, SUPABASE_URL=proxy.url)
    check_rows(done, table, 300)
    assert of_log(done.log, least="WARNING") == []


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_disturbed_crawl_takes_at_most_eight_times_as_long(crawl: Crawler, table: Sql, proxy: FaultProxy) -> None:
    """25,000 rows, stalls of 3 s, default settings: at least 60 rows per request in the end, each row stored once."""
    plan, settings = {"count": 25_000, "n": 1}, {"SUPABASE_URL": proxy.url, "BATCH_RETRY_DELAY": None}
    undisturbed = crawl(plan, **settings).stats["elapsed_time_seconds"]
    table("truncate t")
    proxy.seen.clear()
    disturb(proxy, stall=3.0)
    done = crawl(plan, **settings)
    check_rows(done, table, 25_000)
    seconds, requests = done.stats["elapsed_time_seconds"], done.stats["supabase/request_count"]
    print(
        f"undisturbed {undisturbed:.1f} s, with {SHARE:.0%} of requests failed {seconds:.1f} s in {requests} requests, "
        f"{rows_a_request(proxy):.0f} rows a request in the last quarter"
    )
    assert rows_a_request(proxy) >= 60
    assert seconds <= MOST_TIME * undisturbed
