"""The collection of a run's record, for its report: once per chunk, in the crawl's thread, in constant memory."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec
import scrapy

from scrapy_supabase.errors import FatalError
from scrapy_supabase.models import Outcome, Rejection
from scrapy_supabase.monitoring.counters import Counters
from scrapy_supabase.monitoring.last_run import Fatal, LastRun, Outage, Rejects, Rows, Sample
from scrapy_supabase.spool.base import Loaded

_MAX_OUTAGES = 100
_MAX_KINDS = 100  # tables and codes of rejects; also codes of errors
_MAX_SAMPLES = 3  # rows per table and code
_MAX_SAMPLE_BYTES = 64 * 1024  # the crawl waits while a row is searched for secrets
_MAX_INTERVAL = 60.0  # seconds between two writes


class Record:
    """The record of a run: times and samples of events, and the sums of `counters`.

    Its size depends only on the number of tables. It is due for writing after 1, 2, 4 … seconds, then every minute, so
    that the record of a killed run covers at least half of it.
    """

    def __init__(
        self,
        run: str,
        spider: str,
        started: datetime,
        project: str,
        settings: Mapping[str, str],
        counters: Counters,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._counters = counters
        self._clock = clock
        self._begin = clock()
        self._next = 1.0
        self._kinds: dict[tuple[str, str], Rejects] = {}
        self._known = LastRun(
            run=run,
            spider=spider,
            project=project,
            spool=None,
            started=started.isoformat(timespec="seconds"),
            written="",
            settings=dict(settings),
        )

    def on_chunk_done(self, outcome: Outcome) -> None:
        """Record the time of an outcome, its rejected rows, and the server's errors."""
        effort = outcome.effort
        for rejection in outcome.rejections:
            self._reject(rejection)
        for code, number in effort.errors.items():
            self._count_error(code, number)
        if effort.requests:
            self._known.latency.add(effort.seconds)
        self._known.timeline.add(
            self._clock() - self._begin,
            uploaded=outcome.uploaded,
            rejected=len(outcome.rejections),
            requests=effort.requests,
            retries=effort.retries,
            errors=effort.errors.total(),
        )

    def on_chunk_loaded(self, loaded: Loaded) -> None:
        """Record the damaged lines of a chunk's file."""
        for rejection in loaded.damaged:
            self._reject(rejection)

    def refused(self, rejection: Rejection) -> None:
        """Record an item that could not become a row."""
        self._reject(rejection)
        self._known.timeline.add(self._clock() - self._begin, rejected=1)

    def on_outage_end(self, seconds: float) -> None:
        """Record an outage of `seconds` that has just ended."""
        if len(self._known.outages) < _MAX_OUTAGES:
            self._known.outages.append(Outage(max(0.0, self._clock() - self._begin - seconds), seconds))

    def on_fatal(self, error: FatalError) -> None:
        """Record the error that stops the uploads."""
        if self._known.fatal is None:
            from scrapy_supabase.monitoring.redaction import scrubbed  # most crawls never need its patterns

            words = str(error).removesuffix(error.remedy).rstrip()
            self._known.fatal = Fatal(error.reason, scrubbed(words), error.remedy)

    def is_due(self) -> bool:
        """Return whether to write the record now. After True, the next one is due later."""
        passed = self._clock() - self._begin
        if passed < self._next:
            return False
        self._next = passed + min(passed, _MAX_INTERVAL)
        return True

    def encoded(
        self,
        spool: Path | str | None,
        *,
        offline: bool = False,
        reason: str | None = None,
        crawl: Mapping[str, int] | None = None,
    ) -> bytes:
        """Return the record as the JSON of a `LastRun`. `reason` is the finish reason if the run has ended."""
        known = self._known
        known.spool, known.offline, known.reason = str(spool) if spool else None, offline, reason
        known.versions = known.versions or _versions()
        known.seconds = self._clock() - self._begin
        known.written = datetime.now(UTC).isoformat(timespec="seconds")
        known.ended = known.written if reason is not None else None
        known.crawl = dict(crawl or {})
        known.tables = _tables(self._counters)
        known.figures = _figures(self._counters)
        known.outage_count, known.outage_seconds = self._counters.outages, self._counters.outage_seconds
        return msgspec.json.encode(known)

    def _reject(self, rejection: Rejection) -> None:
        kind = self._kinds.get((rejection.table, rejection.code))
        if kind is None:
            if len(self._kinds) == _MAX_KINDS:
                self._known.other_rejects += 1
                return
            kind = Rejects(rejection.table, rejection.code)
            self._kinds[rejection.table, rejection.code] = kind
            self._known.rejects.append(kind)
        kind.rows += 1
        if len(kind.samples) < _MAX_SAMPLES:
            kind.samples.append(sample_of(rejection))

    def _count_error(self, code: str, number: int) -> None:
        errors = self._known.errors
        if code in errors or len(errors) < _MAX_KINDS:
            errors[code] = errors.get(code, 0) + number


def _tables(counters: Counters) -> dict[str, Rows]:
    found = {
        table: Rows(
            received=rows["received"],
            uploaded=rows["uploaded"],
            superseded=rows["superseded"],
            not_found=rows["not_found"],
            inserted=rows["inserted"],
            updated=rows["updated"],
            unchanged=rows["unchanged"],
            rejected=rows["failed"],
            left=rows["spooled"],
            recovered=rows["recovered"],
            recovered_rejected=rows["recovered_failed"],
            recovered_left=rows["recovered_spooled"],
            recovered_superseded=rows["recovered_superseded"],
            recovered_outdated=rows["recovered_outdated"],
        )
        for table, rows in counters.tables.items()
    }
    return {table: rows for table, rows in found.items() if rows != Rows()}  # tables whose first chunk is still open


def _figures(counters: Counters) -> dict[str, float]:
    effort = counters.effort
    return {
        "chunks": counters.chunks,
        "requests": effort.requests,
        "bytes": effort.request_bytes,
        "retries": effort.retries,
        "splits": effort.splits,
        "fallbacks": effort.fallbacks,
        "waited": counters.waited_seconds,
        "slowdowns": counters.slowdowns,
    }


def sample_of(rejection: Rejection) -> Sample:
    """Return a rejected row and the server's words about it, without secrets."""
    from scrapy_supabase.monitoring.redaction import (  # most crawls never need its patterns
        redacted_message,
        redacted_row,
        without_quotes,
    )

    data = rejection.data
    if len(data) > _MAX_SAMPLE_BYTES:
        return Sample(without_quotes(rejection.message), None, None, {"…": f"a row of {len(data)} bytes, not shown"})
    words = (redacted_message(each, data) for each in (rejection.message, rejection.details, rejection.hint))
    message, details, hint = words
    return Sample(message or "", details, hint, redacted_row(data))


def _versions() -> dict[str, str]:
    ours = version("scrapy-supabase")
    return {"scrapy-supabase": ours, "Scrapy": scrapy.__version__, "Python": platform.python_version()}
