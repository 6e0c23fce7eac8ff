"""The only place that spells a stat key. Told what happened in the crawl's thread, after the fact.

What is told is kept here until `publish`: Scrapy's collector takes 1.6 µs a call, and a chunk is a dozen.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from scrapy_supabase.models import Chunk, Loaded, Outcome, Stored

logger = logging.getLogger(__name__)

PREFIX = "supabase/"
_SETTLED = ("uploaded", "superseded", "failed")  # what becomes of a row that does not wait any more
_OF_SCRAPY = {
    "pages fetched": "response_received_count",
    "items scraped": "item_scraped_count",
    "items dropped": "item_dropped_count",
    "exceptions in the spider": "spider_exceptions/count",
    "errors in the log": "log_count/ERROR",
}


def figures_of_scrapy(stats: Mapping[str, Any]) -> dict[str, int]:
    """What Scrapy itself counted, as far as it tells how a crawl went."""
    return {name: int(stats.get(key) or 0) for name, key in _OF_SCRAPY.items()}


class Collector(Protocol):
    """What is used of Scrapy's stats collector."""

    def inc_value(self, key: str, count: int = 1, start: int = 0) -> None:
        """Add to a counter."""

    def set_value(self, key: str, value: Any) -> None:
        """Set a value."""

    def max_value(self, key: str, value: Any) -> None:
        """Keep the greater value."""


class Stats:
    """Counts rows and effort; a `RunObserver` of the delivery.

    `totals` are those of the moment; the collector has them after the next `publish`. At every close
    `received = uploaded + superseded + failed + spooled`, in all and for each table. Rows of earlier runs are counted
    apart: recovered, recovered_superseded, recovered_failed, recovered_spooled, recovered_outdated.
    """

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self.totals: Counter[str] = Counter()
        self.rejected_by_code: Counter[tuple[str, str]] = Counter()  # (table, code)
        self.settled_chunks = 0
        self._failed_chunks: set[int] = set()
        self._times: dict[str, datetime] = {}  # since the last `publish`
        self._longest = 0.0  # seconds of a chunk, since then
        self._new: Counter[str] = Counter()  # what the collector has not been told yet
        self._refused: dict[str, Exception] = {}  # key → what the collector raised, since the last `publish`
        self._said_refused: set[str] = set()
        for name in ("received", "uploaded", "failed", "spooled"):  # a zero says more than a missing line
            self._offer(collector.inc_value, f"{PREFIX}{name}_count", 0)

    def on_chunk_sealed(self, chunk: Chunk) -> None:
        """A chunk is complete: its rows have been received."""
        if not self._waiting():
            self._times["waiting_since"] = datetime.now(UTC)
        self._count("received", len(chunk.rows) + chunk.superseded, chunk.table)
        self._count("chunk")

    def on_chunk_done(self, outcome: Outcome) -> None:
        """Rows of a chunk are where the outcome says."""
        chunk, effort = outcome.chunk, outcome.effort
        table, origin = chunk.table, chunk.origin
        self.settled_chunks += 1
        self._count("recovered" if origin else "uploaded", outcome.uploaded, table)
        self._count("recovered_superseded" if origin else "superseded", outcome.superseded, table)
        if outcome.uploaded:
            self._times["last_upload_time"] = datetime.now(UTC)
        self._count("recovered_ambiguous", min(outcome.uploaded, chunk.possibly_duplicated), table)
        for rejection in outcome.rejections:
            self.rejected(table, rejection.code, recovered=origin is not None)
        if outcome.rejections:
            self._fail(chunk.number)
        self._count("request", effort.requests)
        self._count("retry", effort.retries)
        self._count("ambiguous_retry", effort.ambiguous_retries)
        self._count("split", effort.splits)
        self._count("insert_fallback", effort.fallbacks)
        for code, number in effort.errors.items():
            self._count(f"error_count/{code}", number, suffix="")
        self._count("request_bytes", effort.request_bytes, suffix="")
        if effort.requests:
            self._count("upload_seconds", effort.seconds, suffix="")
            self._longest = max(self._longest, effort.seconds)

    def on_rows_kept(self, kept: Chunk | Stored, rows: int) -> None:
        """Rows stay in the spool for the next run."""
        recovered = kept.recovered if isinstance(kept, Stored) else kept.origin is not None
        self._count("recovered_spooled" if recovered else "spooled", rows, kept.table)
        self._fail(kept.number)

    def on_chunk_loaded(self, loaded: Loaded) -> None:
        """A chunk was read from its file."""
        self._count("torn", loaded.torn)
        for rejection in loaded.damaged:
            self.rejected(rejection.table, rejection.code, recovered=loaded.chunk is None or bool(loaded.chunk.origin))

    def outdated(self, rows: Counter[str]) -> None:
        """Rows of earlier runs, by table, stay in the spool because newer ones may be stored."""
        for table, number in rows.items():
            self._count("recovered_outdated", number, table)

    def refused(self, table: str, code: str) -> None:
        """An item was received that could not become a row."""
        self._count("received", 1, table)
        self.rejected(table, code)

    def rejected(self, table: str, code: str, *, recovered: bool = False) -> None:
        """A row is in the reject file."""
        self._count("recovered_failed" if recovered else "failed", 1, table)
        self.rejected_by_code[table, code] += 1

    def cleaned(self, table: str) -> None:
        """Characters that cannot be stored were removed from a row."""
        self._count("cleaned", 1, table)

    def on_waited(self, seconds: float) -> None:
        """Items waited because too much was on its way."""
        self._count("backpressure_seconds", seconds, suffix="")

    def on_outage_end(self, seconds: float) -> None:
        """The server was gone for so long."""
        self._count("outage")
        self._count("outage_seconds", seconds, suffix="")

    def on_throttled(self) -> None:
        """The server was busy: fewer uploads at once."""
        self._count("slowdown")

    def publish(self, *, chunk_size: int, concurrency: int) -> None:
        """Bring the collector up to date: with the rows a chunk and uploads at once that are in force now, too.

        To be called about once a second.

        A collector may be of the user's own, and refuse a value, or all: that is said once for each key, the value is
        not offered again, and the other keys arrive.
        """
        collector = self._collector
        while self._new:
            self._offer(collector.inc_value, *self._new.popitem())
        while self._times:
            name, value = self._times.popitem()
            self._offer(collector.set_value, PREFIX + name, value)
        self._offer(collector.set_value, PREFIX + "chunk_size", chunk_size)
        self._offer(collector.set_value, PREFIX + "concurrency", concurrency)
        if self._longest:
            self._offer(collector.max_value, PREFIX + "upload_seconds_max", self._longest)
            self._longest = 0.0
        self._say_what_was_refused()

    def _offer(self, tell: Callable[[str, Any], None], key: str, value: Any) -> None:
        try:
            tell(key, value)
        except Exception as error:  # noqa: BLE001 (of somebody else's; it is logged)
            self._refused.setdefault(key, error)

    def _say_what_was_refused(self) -> None:
        if new := {key: error for key, error in self._refused.items() if key not in self._said_refused}:
            keys, first = ", ".join(sorted(new)), next(iter(new.values()))
            logger.error(
                "The stats collector refused %s. The values are missing in its stats. Other stats and uploads go on.",
                keys,
                exc_info=None if self._said_refused else first,
            )
            self._said_refused.update(new)
        self._refused.clear()

    def _waiting(self) -> int:
        """Received rows of which nobody knows yet what becomes of them."""
        totals = self.totals
        return totals["received"] - sum(totals[name] for name in _SETTLED)

    def _fail(self, number: int) -> None:
        if number not in self._failed_chunks:
            self._failed_chunks.add(number)
            self._count("chunk_failed")

    def _count(self, name: str, number: float = 1, table: str = "", *, suffix: str = "_count") -> None:
        if not number:
            return
        self.totals[name] += number  # type: ignore[assignment]
        key = f"{PREFIX}{name}{suffix}"
        self._new[key] += number  # type: ignore[assignment]
        if table:
            self._new[f"{key}/{table}"] += number  # type: ignore[assignment]


class Readings:
    """Reads what `Stats` wrote, out of a crawl's stats or a copy of them. False where it wrote nothing."""

    def __init__(self, stats: Mapping[str, Any]) -> None:
        self._stats = stats

    def __bool__(self) -> bool:
        return any(key.startswith(PREFIX) for key in self._stats)

    def count(self, *names: str) -> int:
        """The sum of some counters: `count("failed", "recovered_failed")`."""
        return sum(self._stats.get(f"{PREFIX}{name}_count", 0) for name in names)

    def tables(self, *names: str) -> Counter[str]:
        """The same for each table."""
        found: Counter[str] = Counter()
        for name in names:
            prefix = f"{PREFIX}{name}_count/"
            for key, number in self._stats.items():
                if key.startswith(prefix):
                    found[key.removeprefix(prefix)] += number
        return found

    def waiting(self) -> Counter[str]:
        """Rows that were received and are neither in the database nor in the reject file, for each table."""
        found = self.tables("received")
        found.subtract(self.tables(*_SETTLED))
        return +found

    def seconds_waited(self, now: datetime) -> float:
        """For how long rows have waited and the server has not said yes to any; 0 where it never was asked to."""
        times = [self._stats.get(PREFIX + name) for name in ("last_upload_time", "waiting_since")]
        last = max((time for time in times if time is not None), default=now)
        return (now - last).total_seconds()
