"""Adaptive limits of concurrent uploads and rows per chunk."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from scrapy_supabase.backends.answers import classify, classify_sql
from scrapy_supabase.delivery.limits import Limits
from scrapy_supabase.models import Chunk, Effort, Outcome, Row
from tests import fault_proxy as faults
from tests.fault_proxy import FaultProxy
from tests.fix_crawl import Crawler

Sql = Callable[..., list[tuple[Any, ...]]]


def chunk_of(number: int) -> Chunk:
    """Return a chunk of one row."""
    return Chunk(number, (Row("t", ("id",), None, b"{}"),), f"{number}.jsonl")


class World:
    """Limits with a clock of its own, and outcomes to feed them."""

    def __init__(self, **options: int) -> None:
        self.now = 100.0
        self.waiting = 0
        given = {"concurrency": 8, "chunk_size": 100, "max_rows": 1000, **options}
        self.limits = Limits(**given, waiting=lambda: self.waiting, clock=lambda: self.now)

    def start_all(self, first: int = 1) -> int:
        """Start uploads while there is room, and return how many."""
        number = first
        while self.limits.has_room:
            self.limits.started(chunk_of(number))
            number += 1
        return number - first

    def end_upload(
        self,
        rows: int = 100,
        seconds: float = 0.1,
        requests: int = 1,
        overloads: int = 0,
        too_large: int = 0,
        timeouts: int = 0,
    ) -> bool:
        """End an upload that started `seconds` ago. Return whether concurrency was lowered."""
        chunk = Chunk(1, (Row("t", ("id",), None, b"{}"),) * rows, "1.jsonl")
        effort = Effort(requests=requests, overloads=overloads, too_large=too_large, timeouts=timeouts, seconds=seconds)
        return self.limits.update(Outcome(chunk, rows, effort=effort))


def test_an_overload_halves_concurrency() -> None:
    """Once for all uploads in flight, then again; never below one."""
    world = World()
    found = []
    for _ in range(5):
        world.now += 1
        found.append(
            (world.end_upload(overloads=1), world.end_upload(overloads=2, seconds=0.9), world.limits.concurrency)
        )
    assert found == [(True, False, 4), (True, False, 2), (True, False, 1), (True, False, 1), (True, False, 1)]


def test_concurrency_grows_back_by_one() -> None:
    """By one after as many successes as are in flight; never above the setting."""
    world = World(concurrency=4)
    world.end_upload(overloads=1)
    found = []
    for _ in range(12):
        world.now += 1
        world.end_upload()
        found.append(world.limits.concurrency)
    assert found == [2, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4]


def test_slow_answers_do_not_count_while_concurrency_is_lowered() -> None:
    """After a second, as many other uploads may start; never more than the setting in total."""
    world = World(concurrency=8)
    for _ in range(2):
        world.now += 1
        world.end_upload(overloads=1)
    assert world.limits.concurrency == 2
    started: list[int] = []
    for _ in range(6):
        started.append(world.start_all(100 + sum(started)))
        world.now += 0.51
    assert started == [2, 0, 2, 0, 2, 0]
    world.now += 10
    assert world.start_all(200) == 2
    world.now += 10
    assert world.start_all(300) == 0
    world.end_upload(requests=2)


def test_chunks_that_wait_for_a_retry_do_not_count() -> None:
    """Up to eight of them for each concurrent upload."""
    world = World(concurrency=2)
    assert world.start_all() == 2
    world.waiting = 2
    assert world.start_all(10) == 2
    world.waiting = 1000
    assert world.start_all(20) == 14
    world.waiting = 0
    world.now += 10
    assert world.start_all(30) == 0


def test_chunks_with_bad_rows_make_room_for_others() -> None:
    """While bad rows are searched for, as many other uploads may be in flight, but not while the server is busy."""
    world = World(concurrency=2, max_isolating=2)
    assert world.start_all() == 2
    for number in (1, 2):
        world.limits.isolating(chunk_of(number))
    assert world.start_all(10) == 2
    world.limits.isolating(chunk_of(10))
    assert world.start_all(20) == 0
    world.now += 1
    world.end_upload(overloads=1)
    assert world.start_all(30) == 0
    world.end_upload()
    world.end_upload()
    assert world.limits.concurrency == 2
    assert world.start_all(40) == 1  # three are in flight, two of which do not count


def test_chunks_with_bad_rows_make_no_room_on_scarce_connections() -> None:
    """Over a database connection, nothing is added."""
    world = World(concurrency=2)
    assert world.start_all() == 2
    world.limits.isolating(chunk_of(1))
    assert world.start_all(10) == 0


def test_chunks_grow_while_they_are_quick() -> None:
    """Each full chunk that is stored within a second doubles the size, up to a thousand."""
    world = World()
    found = []
    for _ in range(6):
        world.end_upload(rows=world.limits.chunk_size)
        found.append(world.limits.chunk_size)
    assert found == [200, 400, 800, 1000, 1000, 1000]


@pytest.mark.parametrize(
    "chunk", [{"rows": 99}, {"seconds": 1.1}, {"requests": 2}], ids=["not full", "not quick", "tried again"]
)
def test_other_chunks_do_not_grow_the_size(chunk: dict[str, Any]) -> None:
    """A small chunk is always quick."""
    world = World()
    world.end_upload(**chunk)
    assert world.limits.chunk_size == 100


@pytest.mark.parametrize(
    ("failure", "chunks"), [({"timeouts": 1}, 4), ({"too_large": 1}, 64)], ids=["timed out", "refused"]
)
def test_the_chunk_size_is_halved_after_a_failure_and_grows_again(failure: dict[str, int], chunks: int) -> None:
    """Halved once for all in flight; a seventh more after one success, or after sixteen if the server refused it."""
    world = World()
    for _ in range(3):
        world.end_upload(rows=world.limits.chunk_size)
    assert world.limits.chunk_size == 800
    world.now += 1
    for _ in range(3):
        world.end_upload(rows=800, requests=3, seconds=0.5, **failure)
    found = [world.limits.chunk_size]
    while world.limits.chunk_size < 800:
        world.end_upload(rows=world.limits.chunk_size)
        found.append(world.limits.chunk_size)
    assert sorted(set(found)) == [400, 514, 628, 742, 856]
    assert len(found) - 1 == chunks


def test_the_chunk_size_never_doubles_after_a_failure() -> None:
    """When the size that failed is stored, larger ones are tried in small steps."""
    world = World()
    for _ in range(2):
        world.end_upload(rows=world.limits.chunk_size)
    world.now += 1
    world.end_upload(rows=400, timeouts=1)
    found = []
    while world.limits.chunk_size < 1000:
        world.end_upload(rows=world.limits.chunk_size)
        found.append(world.limits.chunk_size)
    assert found == [257, 314, 371, 428, 489, 558, 637, 728, 832, 950, 1000]


def test_a_size_that_always_fails_is_tried_less_and_less_often() -> None:
    """A 504 above 300 rows: a handful of a thousand chunks fails."""
    world = World()
    failures = 0
    for _ in range(1000):
        world.now += 1
        failed = world.limits.chunk_size > 300
        failures += failed
        world.end_upload(rows=world.limits.chunk_size, timeouts=int(failed))
    assert failures <= 11
    assert 250 <= world.limits.chunk_size <= 350


def test_a_fixed_chunk_size_never_changes() -> None:
    """It neither grows nor shrinks."""
    world = World(chunk_size=100, max_rows=100)
    world.end_upload()
    world.end_upload(too_large=1)
    assert world.limits.chunk_size == 100


@pytest.mark.parametrize(
    ("error", "overloads", "too_large", "timeouts"),
    [
        (classify(429, b"<h1>slow down</h1>"), 1, 0, 0),
        (classify(503, b'{"code": "PGRST001", "message": "no database"}'), 0, 0, 0),
        (classify(504, b'{"code": "PGRST003", "message": "timed out acquiring connection"}'), 1, 0, 0),
        (classify_sql("53300", "too many connections"), 1, 0, 0),
        (classify(504, b"<h1>Gateway time-out</h1>"), 0, 0, 1),
        (classify(413, b""), 0, 1, 0),
        (classify_sql("57014", "canceling statement due to statement timeout"), 0, 1, 0),
        (classify_sql("40P01", "deadlock detected"), 0, 0, 0),
        (classify_sql("23505", "duplicate key"), 0, 0, 0),
    ],
)
def test_which_answers_mean_overload(error: Any, overloads: int, too_large: int, timeouts: int) -> None:
    """By status and code."""
    effort = Effort()
    effort.count(error, 100)
    assert (effort.overloads, effort.too_large, effort.timeouts) == (overloads, too_large, timeouts)


@pytest.fixture
def table(sql: Sql) -> Sql:
    """Create the table `t`."""
    sql("create table t (id bigint primary key, title text, n int); grant all on t to service_role")
    return sql


def sizes(proxy: FaultProxy) -> list[int]:
    """Return the number of rows in each request, in order."""
    return [len(json.loads(body)) for method, path, body in proxy.seen if "/t?" in path and body != b"[]"]


def test_a_crawl_with_an_adaptive_chunk_size(crawl: Crawler, table: Sql, proxy: FaultProxy) -> None:
    """It grows from 100 to 1000 in a few chunks, and the stats have the last value."""
    done = crawl({"count": 8000, "n": 1}, SUPABASE_URL=proxy.url, BATCH_CHUNK_SIZE="auto")
    assert done.counts("uploaded") == (8000,), done.log
    assert (sizes(proxy)[0], max(sizes(proxy))) == (100, 1000)
    assert done.stats["supabase/chunk_size"] == 1000
    assert "100 rows per chunk at first" in done.log


def test_a_crawl_whose_server_refuses_large_chunks(crawl: Crawler, table: Sql, proxy: FaultProxy) -> None:
    """A 413 above 300 rows: after the first refusals no request is too large."""

    def at_most_300(exchange: faults.Exchange) -> None:
        too_many = exchange.body.count(b'"id"') > 300
        (faults.answers(413, "<h1>too large</h1>") if too_many else faults.passes)(exchange)

    proxy.always = at_most_300
    done = crawl({"count": 8000, "n": 1}, SUPABASE_URL=proxy.url, BATCH_CHUNK_SIZE="auto")
    assert done.counts("uploaded", "failed") == (8000, 0), done.log
    assert done.stats["supabase/chunk_size"] <= 400
    assert max(sizes(proxy)[-10:]) <= 300


@pytest.mark.parametrize(("bad", "most"), [(False, 2), (True, 4)])
def test_a_crawl_with_bad_rows_and_high_latency(
    crawl: Crawler, table: Sql, proxy: FaultProxy, bad: bool, most: int
) -> None:
    """At most twice as many concurrent requests while chunks have bad rows; each bad row costs one more request."""
    lock, flying, seen = threading.Lock(), [0], [0]

    def slow(exchange: faults.Exchange) -> None:
        with lock:
            flying[0] += exchange.handler.command == "POST"
            seen[0] = max(seen[0], flying[0])
        exchange.handler.server.released.wait(0.1)
        answer = exchange.forward()
        with lock:
            flying[0] -= exchange.handler.command == "POST"
        exchange.reply(*answer)

    proxy.always = slow
    rows = [{"id": n, "n": "bad" if bad and n % 10 == 5 else n} for n in range(400)]
    done = crawl({"items": rows}, SUPABASE_URL=proxy.url, BATCH_CHUNK_SIZE=10, SUPABASE_CONCURRENT_UPLOADS=2)
    assert done.counts("uploaded", "failed") == ((360, 40) if bad else (400, 0)), done.log
    assert seen == [most]
    assert len(sizes(proxy)) == (80 if bad else 40)


def test_a_crawl_with_a_busy_server(crawl: Crawler, table: Sql, proxy: FaultProxy) -> None:
    """A 429 for some time lowers concurrency, which then grows back."""
    proxy.faults.extend([faults.passes] * 4 + [faults.answers(429, {"message": "slow down"})] * 6)
    done = crawl({"count": 6000, "n": 1}, SUPABASE_URL=proxy.url)
    assert done.counts("uploaded", "failed", "spooled") == (6000, 0, 0), done.log
    assert done.counts("slowdown")[0] >= 1
    assert "The server is busy: concurrent uploads lowered from 4 to 2." in done.log
    assert done.stats["supabase/concurrency"] == 4
