"""The counters: every received row is in one account, and whatever is published adds up the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from scrapy_supabase.errors import FatalError
from scrapy_supabase.models import Chunk, Effort, Mode, Origin, Outcome, Rejection, Row, RowCounts
from scrapy_supabase.monitoring.counters import ACCOUNTS, Counters
from scrapy_supabase.monitoring.crawl_observer import CrawlObserver
from scrapy_supabase.monitoring.last_run import LastRun
from scrapy_supabase.monitoring.record import Record
from scrapy_supabase.monitoring.stats import Stats
from scrapy_supabase.monitoring.upload_result import UploadResult
from scrapy_supabase.spool.base import Loaded, Stored


class Collector:
    """A stats collector that keeps numbers."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = defaultdict(float)

    def inc_value(self, key: str, count: int = 1, start: int = 0) -> None:
        """Add."""
        self.values[key] += count + start

    def set_value(self, key: str, value: Any) -> None:
        """Set."""
        self.values[key] = value

    def max_value(self, key: str, value: Any) -> None:
        """Keep the greater."""
        self.values[key] = max(self.values[key], value)


def ignore(_: FatalError) -> None:
    """Nothing is stopped."""


class Monitors:
    """What counts, and all that reads from it."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.collector = Collector()
        self.stats = Stats(self.collector, self.counters)
        self.record = Record("run", "spider", datetime.now(UTC), "host", {}, self.counters)
        self.observer = CrawlObserver(self.counters, self.record, ignore)

    def published(self) -> dict[str, float]:
        """The stats, without their prefix."""
        self.stats.publish(chunk_size=100, concurrency=4)
        return {key.removeprefix("supabase/"): value for key, value in self.collector.values.items()}

    def recorded(self) -> LastRun:
        """The run record."""
        return msgspec.json.decode(self.record.encoded(None), type=LastRun)


TABLES = st.sampled_from(["a", "b", "c"])
FEW = st.integers(0, 4)
ORIGINS = st.sampled_from([None, Origin("earlier", "spider", Mode.UPSERT, ())])


@st.composite
def chunks(draw: Callable[..., Any]) -> Chunk:
    """Of this run or an earlier one."""
    row = Row(draw(TABLES), ("x",), None, b'{"x":1}')
    rows = (row,) * draw(st.integers(1, 5))
    return Chunk(draw(st.integers(1, 9)), rows, "1.jsonl", draw(FEW), origin=draw(ORIGINS))


def rejections(table: str, number: int) -> tuple[Rejection, ...]:
    """As many rejected rows."""
    return (Rejection(table, b"{}", "23514", "no"),) * number


@st.composite
def outcomes(draw: Callable[..., Any]) -> Outcome:
    """Some rows of a chunk are uploaded, some rejected, left or not found, the others deferred."""
    chunk = draw(chunks())
    ends = sorted(draw(st.lists(st.integers(0, len(chunk.rows)), min_size=4, max_size=4)))
    uploaded, refused, left = ends[0], ends[1] - ends[0], ends[2] - ends[1]
    counts = RowCounts(inserted=uploaded, not_found=ends[3] - ends[2])
    effort = Effort(requests=draw(FEW), retries=draw(FEW), seconds=0.5)
    effort.errors["23514"] += refused
    deferred = chunk.rows[ends[3] :]
    ended = rejections(chunk.table, refused)
    return Outcome(chunk, uploaded, ended, deferred, chunk.rows[:left], effort=effort, counts=counts)


EVENTS = st.one_of(
    st.tuples(st.just("on_chunk_sealed"), chunks()),
    st.tuples(st.just("on_chunk_done"), outcomes()),
    st.tuples(st.just("on_rows_kept"), chunks(), FEW),
    st.tuples(st.just("on_rows_kept"), st.builds(Stored, FEW, st.just("f"), FEW, TABLES, recovered=st.booleans()), FEW),
    st.tuples(
        st.just("on_chunk_loaded"),
        st.builds(Loaded, st.none() | chunks(), FEW, st.builds(rejections, TABLES, FEW), st.booleans()),
    ),
    st.tuples(st.just("refused"), st.builds(Rejection, TABLES, st.just(b"{}"), st.just("no_column"), st.just("no"))),
    st.tuples(st.just("on_waited"), FEW),
    st.tuples(st.just("on_outage_end"), FEW),
    st.tuples(st.just("on_throttled")),
)


@given(st.lists(EVENTS, max_size=30))
def test_received_is_the_sum_of_the_accounts(events: list[tuple[Any, ...]]) -> None:
    """After any events in any order, in all and for each table; stats and record have the same sums."""
    monitors = Monitors()
    counters = monitors.counters
    for name, *arguments in events:
        getattr(monitors.observer, name)(*arguments)
        for rows in (counters.totals, *counters.tables.values()):
            assert rows["received"] == sum(rows[account] for account in ACCOUNTS)
        monitors.published()
    for account, number in counters.totals.items():
        assert number == sum(rows[account] for rows in counters.tables.values())
    published, recorded = monitors.published(), monitors.recorded()
    for table, rows in (("", counters.totals), *((f"/{table}", rows) for table, rows in counters.tables.items())):
        for account in ("received", *ACCOUNTS[1:], "recovered", "recovered_failed", "recovered_spooled"):
            assert published.get(f"{account}_count{table}", 0) == rows[account]
    total = recorded.total
    ended = (total.uploaded, total.superseded, total.rejected, total.not_found, total.left)
    assert (total.received, *ended) == tuple(counters.totals[account] for account in ("received", *ACCOUNTS[1:]))
    assert published.get("request_count", 0) == recorded.figures["requests"] == counters.effort.requests


@given(st.lists(outcomes(), max_size=12))
def test_nothing_waits_once_every_row_has_come_to_an_end(ends: list[Outcome]) -> None:
    """Of chunks that are sealed, uploaded, tried once more where rows were deferred, and else left in the spool."""
    monitors = Monitors()
    observer, rows = monitors.observer, monitors.counters.totals
    for outcome in ends:
        chunk = outcome.chunk
        if chunk.origin is None:
            observer.on_chunk_sealed(chunk)
        observer.on_chunk_done(outcome)
        if outcome.deferred:
            again = chunk.subset(outcome.deferred, last_try=True)
            observer.on_chunk_done(Outcome(again, 0, rejections(chunk.table, len(again.rows))))
        if outcome.left:
            rest = chunk.subset(outcome.left)
            observer.on_rows_kept(rest, len(rest.rows) + rest.superseded)
    assert rows["waiting"] == 0
    assert rows["received"] == sum(rows[account] for account in ACCOUNTS)
    result = UploadResult.of(monitors.counters, None, 0.0)
    taken = sum(len(outcome.chunk.rows) + outcome.chunk.superseded for outcome in ends)
    assert result.uploaded + result.superseded + result.failed + result.not_found + result.left == taken
    assert result.reasons.total() == result.failed
    assert (bool(result), result.failed_chunks <= result.chunks) == (not result.failed and not result.left, True)


def test_a_chunk_that_fails_twice_is_one_failed_chunk() -> None:
    """A row of it is rejected, later the others are left in the spool."""
    counters = Counters()
    chunk = Chunk(1, (Row("t", ("x",), None, b"{}"),) * 3, "1.jsonl")
    counters.on_chunk_sealed(chunk)
    counters.on_chunk_done(Outcome(chunk, 0, rejections("t", 1), left=chunk.rows[1:]))
    counters.on_rows_kept(chunk.subset(chunk.rows[1:]), 2)
    assert len(counters.failed_chunks) == 1


@given(st.booleans())
def test_rows_of_a_damaged_file_are_rejected_in_the_accounts_of_their_run(recovered: bool) -> None:
    """Of a chunk of this run that waited on disk no row waits any longer; one of an earlier run never waited here."""
    counters = Counters()
    row = Row("a", ("x",), None, b'{"x":1}')
    if not recovered:
        counters.on_chunk_sealed(Chunk(1, (row, row), "1.jsonl"))
    counters.on_chunk_loaded(Loaded(None, damaged=rejections("a", 2), recovered=recovered))
    assert counters.totals["waiting"] == 0
    assert (counters.totals["failed"], counters.totals["recovered_failed"]) == ((0, 2) if recovered else (2, 0))
