"""The stats of a run in Scrapy's collector, written and read. No other module contains stat keys.

`Stats` publishes once a second, and not at each change: a call of Scrapy's collector takes 1.6 µs, and a chunk would
need a dozen.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, Protocol

from scrapy_supabase.messages import pluralize
from scrapy_supabase.monitoring.counters import Counters

logger = logging.getLogger(__name__)

PREFIX = "supabase/"
_ROWS = (  # accounts of `Counters`, published as `<name>_count` and `<name>_count/<table>`
    *("received", "uploaded", "superseded", "failed", "spooled"),
    *("recovered", "recovered_ambiguous", "recovered_superseded", "recovered_failed", "recovered_spooled"),
    *("recovered_outdated", "recovered_not_found", "cleaned"),
    *("not_found", "inserted", "updated", "unchanged", "unseen"),
)
_DONE = ("uploaded", "superseded", "failed", "not_found")  # accounts of rows that need no upload any more
_OF_SCRAPY = {
    "pages fetched": "response_received_count",
    "items scraped": "item_scraped_count",
    "items dropped": "item_dropped_count",
    "exceptions in the spider": "spider_exceptions/count",
    "errors in the log": "log_count/ERROR",
}

_ANSWERS = "httperror/response_ignored_status_count"
_ERRORS = "downloader/exception_type_count/"
_NOT_LOST = ("IgnoreRequest", "NotSupported")  # forbidden by robots.txt or off the site, and no URL of a page


def figures_of_scrapy(stats: Mapping[str, Any]) -> dict[str, int]:
    """Return the figures of Scrapy's own stats for the report, by description."""
    return {name: int(stats.get(key) or 0) for name, key in _OF_SCRAPY.items()}


def lost_pages(stats: Mapping[str, Any]) -> list[str]:
    """Return descriptions of what Scrapy's stats say was not fetched or parsed, as in `2 pages not fetched (…)`.

    Pages that answered 404 or 410 are not lost: the site has removed them.
    """

    def of(key: str) -> int:
        return int(stats.get(key) or 0)

    refused = sum(of(key) for key in stats if key.startswith(_ANSWERS) and not key.endswith(("/404", "/410")))
    errors = {key.removeprefix(_ERRORS): of(key) for key in stats if key.startswith(_ERRORS)}
    not_retried = sum(
        number
        for error, number in errors.items()
        if not error.endswith(_NOT_LOST) and f"retry/reason_count/{error}" not in stats
    )
    found = (
        (of("spider_exceptions/count"), "exception", "in the spider (spider_exceptions)"),
        (of("retry/max_reached"), "page", "not fetched (retry/max_reached)"),
        (not_retried, "page", "not fetched (downloader/exception_count)"),
        (refused, "page", "refused by the site (httperror)"),
        (of(f"{PREFIX}skipped_count"), "request", "not sent (SUPABASE_SKIP_STORED)"),
    )
    lost = [f"{pluralize(number, noun)} {what}" for number, noun, what in found if number]
    if of("scheduler/dequeued") > of("scheduler/enqueued"):
        lost.append("it went on with the requests of an earlier crawl (JOBDIR)")
    if of("scheduler/enqueued/redis") or of("scheduler/dequeued/redis"):
        lost.append("it shared its requests with other workers (Redis), which store rows of their own")
    return lost


class Collector(Protocol):
    """The part of Scrapy's stats collector in use."""

    def inc_value(self, key: str, count: int = 1, start: int = 0) -> None:
        """Add `count` to a counter."""

    def set_value(self, key: str, value: Any) -> None:
        """Set a value."""

    def max_value(self, key: str, value: Any) -> None:
        """Set a value if it is greater than the current one."""


def count_skipped(collector: Collector, table: str) -> None:
    """Count a request that is not sent because its URL is stored in `table`."""
    with suppress(Exception):  # of a user's own collector: the crawl goes on without the count
        collector.inc_value(f"{PREFIX}skipped_count")
        collector.inc_value(f"{PREFIX}skipped_count/{table}")


class Stats:
    """Publishes `counters` to Scrapy's stats collector, whose values are those of the last `publish`."""

    def __init__(self, collector: Collector, counters: Counters) -> None:
        self._collector = collector
        self._counters = counters
        self._offered: dict[str, Any] = {}  # key → the value of the last `publish`
        self._refused: dict[str, Exception] = {}  # key → what the collector raised, since the last `publish`
        self._logged_refused: set[str] = set()
        for name in ("received", "uploaded", "failed", "spooled"):  # publish these even if they stay 0
            self._offer(collector.inc_value, f"{name}_count", 0)

    def publish(self, *, chunk_size: int, concurrency: int) -> None:
        """Update the collector, with the current limits as well. Call it about once a second.

        A user's own collector (`STATS_CLASS`) may refuse values. This is logged once per key; a refused value is not
        offered again, and other keys are published.
        """
        collector, counters = self._collector, self._counters
        self._publish_rows(counters.totals)
        for table, rows in counters.tables.items():
            if table:
                self._publish_rows(rows, f"/{table}")
        for key, value in _sums(counters).items():
            self._increase(key, value)
        for code, number in counters.effort.errors.items():
            self._increase(f"error_count/{code}", number)
        self._change(collector.max_value, "upload_seconds_max", counters.longest_upload or None)
        self._change(collector.set_value, "last_upload_time", counters.last_upload_time)
        self._change(collector.set_value, "waiting_since", counters.waiting_since)
        self._offer(collector.set_value, "chunk_size", chunk_size)
        self._offer(collector.set_value, "concurrency", concurrency)
        self._log_refused()

    def _publish_rows(self, rows: Counter[str], suffix: str = "") -> None:
        for name in _ROWS:
            self._increase(f"{name}_count{suffix}", rows[name])

    def _increase(self, key: str, value: float) -> None:
        """Offer the increase of a sum."""
        before = self._offered.get(key, 0)
        if value != before:
            self._offered[key] = value
            self._offer(self._collector.inc_value, key, value - before)

    def _change(self, tell: Callable[[str, Any], None], key: str, value: Any) -> None:
        """Offer a value that has changed."""
        if value != self._offered.get(key):
            self._offered[key] = value
            self._offer(tell, key, value)

    def _offer(self, tell: Callable[[str, Any], None], key: str, value: Any) -> None:
        try:
            tell(PREFIX + key, value)
        except Exception as error:  # noqa: BLE001 (raised by a user's collector; logged below)
            self._refused.setdefault(PREFIX + key, error)

    def _log_refused(self) -> None:
        if new := {key: error for key, error in self._refused.items() if key not in self._logged_refused}:
            keys, first = ", ".join(sorted(new)), next(iter(new.values()))
            logger.error(
                "The stats collector (STATS_CLASS) refused %s: missing in its stats. Other stats and the uploads are "
                "not affected.",
                keys,
                exc_info=None if self._logged_refused else first,
            )
            self._logged_refused.update(new)
        self._refused.clear()


def _sums(counters: Counters) -> dict[str, float]:
    """Return the sums that are not counted per table, by name of the stat."""
    effort = counters.effort
    return {
        "torn_count": counters.torn_lines,
        "chunk_count": counters.chunks,
        "chunk_failed_count": len(counters.failed_chunks),
        "split_count": effort.splits,
        "request_count": effort.requests,
        "request_bytes": effort.request_bytes,
        "retry_count": effort.retries,
        "ambiguous_retry_count": effort.ambiguous_retries,
        "insert_fallback_count": effort.fallbacks,
        "upload_seconds": effort.seconds,
        "backpressure_seconds": counters.waited_seconds,
        "slowdown_count": counters.slowdowns,
        "outage_count": counters.outages,
        "outage_seconds": counters.outage_seconds,
    }


class RequestStats:
    """The stats of `contrib.redis.LeaseScheduler`. The first two are named as those of scrapy-redis."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def enqueued(self) -> None:
        """Count a request put into the queue."""
        self._collector.inc_value("scheduler/enqueued/redis")

    def leased(self, count: int = 1) -> None:
        """Count requests and start URLs taken from Redis."""
        self._add("scheduler/dequeued/redis", count)

    def acknowledged(self, count: int) -> None:
        """Count leases that ended because all that came of the request is in files and queues."""
        self._add("scheduler/acknowledged/redis", count)

    def given_back(self, count: int) -> None:
        """Count leases, of this worker or of dead ones, put back where they came from."""
        self._add("scheduler/given_back/redis", count)

    def _add(self, key: str, count: int) -> None:
        if count:
            self._collector.inc_value(key, count)


class Readings:
    """A reader of the stats written by `Stats`, from a crawl's stats or a copy. It is false if there are none."""

    def __init__(self, stats: Mapping[str, Any]) -> None:
        self._stats = stats

    def __bool__(self) -> bool:
        return any(key.startswith(PREFIX) for key in self._stats)

    def count(self, *names: str) -> int:
        """Return the sum of some counters, as in `count("failed", "recovered_failed")`."""
        return sum(self._stats.get(f"{PREFIX}{name}_count", 0) for name in names)

    def tables(self, *names: str) -> Counter[str]:
        """Return the sum of some counters for each table."""
        found: Counter[str] = Counter()
        for name in names:
            prefix = f"{PREFIX}{name}_count/"
            for key, number in self._stats.items():
                if key.startswith(prefix):
                    found[key.removeprefix(prefix)] += number
        return found

    def waiting(self) -> Counter[str]:
        """Return the number of received rows that are neither uploaded nor rejected, for each table."""
        found = self.tables("received")
        found.subtract(self.tables(*_DONE))
        return +found

    def seconds_waited(self, now: datetime) -> float:
        """Return the seconds since the server last stored a row while rows wait; 0 if none ever waited."""
        times = [self._stats.get(PREFIX + name) for name in ("last_upload_time", "waiting_since")]
        last = max((time for time in times if time is not None), default=now)
        return (now - last).total_seconds()
