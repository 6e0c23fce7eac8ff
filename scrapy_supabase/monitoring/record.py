"""What happens in one run, in constant memory, for its report: told once a chunk, in the crawl's thread."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version

import msgspec
import scrapy

from scrapy_supabase.errors import FatalError
from scrapy_supabase.models import Loaded, Outcome, Rejection
from scrapy_supabase.monitoring.counters import Counters
from scrapy_supabase.monitoring.last_run import Fatal, LastRun, Outage, Rejects, Rows, Sample

_MOST_OUTAGES = 100
_MOST_KINDS = 100  # of rejects, and of errors
_SAMPLES = 3  # of each kind of rejects
_MOST_OF_A_SAMPLE = 64 * 1024  # bytes: the crawl waits while a row is searched for secrets
_LONGEST_WAIT = 60.0  # seconds between two writings


class Record:
    """Keeps when things happened and examples of them; the sums are those of `counters`.

    It grows with the number of tables only. `is_due` says when it should be written down: after 1, 2, 4 … seconds, then
    every minute, so that what is known of a run that is killed is never much older than half of it.
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
        """Record when rows of a chunk were uploaded or rejected, and what the server answered."""
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
        """Record what could not be read of a chunk's file."""
        for rejection in loaded.damaged:
            self._reject(rejection)

    def refused(self, rejection: Rejection) -> None:
        """Record an item that could not become a row."""
        self._reject(rejection)
        self._known.timeline.add(self._clock() - self._begin, rejected=1)

    def on_outage_end(self, seconds: float) -> None:
        """Record when the server was unreachable."""
        if len(self._known.outages) < _MOST_OUTAGES:
            self._known.outages.append(Outage(max(0.0, self._clock() - self._begin - seconds), seconds))

    def on_fatal(self, error: FatalError) -> None:
        """Record why nothing is uploaded from now on."""
        if self._known.fatal is None:
            from scrapy_supabase.monitoring.redaction import scrubbed  # patterns that most crawls never need

            words = str(error).removesuffix(error.remedy).rstrip()
            self._known.fatal = Fatal(error.reason, scrubbed(words), error.remedy)

    def is_due(self) -> bool:
        """Whether it should be written down now."""
        passed = self._clock() - self._begin
        if passed < self._next:
            return False
        self._next = passed + min(passed, _LONGEST_WAIT)
        return True

    def encoded(
        self,
        spool: str | None,
        *,
        cut_off: bool = False,
        reason: str | None = None,
        crawl: Mapping[str, int] | None = None,
    ) -> bytes:
        """What is known now, as the JSON of a `LastRun`. A `reason` says that the run is over."""
        known = self._known
        known.spool, known.cut_off, known.reason = spool, cut_off, reason
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
            if len(self._kinds) == _MOST_KINDS:
                self._known.other_rejects += 1
                return
            kind = Rejects(rejection.table, rejection.code)
            self._kinds[rejection.table, rejection.code] = kind
            self._known.rejects.append(kind)
        kind.rows += 1
        if len(kind.samples) < _SAMPLES:
            kind.samples.append(_sample(rejection))

    def _count_error(self, code: str, number: int) -> None:
        errors = self._known.errors
        if code in errors or len(errors) < _MOST_KINDS:
            errors[code] = errors.get(code, 0) + number


def _tables(counters: Counters) -> dict[str, Rows]:
    found = {
        table: Rows(
            received=rows["received"],
            uploaded=rows["uploaded"],
            superseded=rows["superseded"],
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
    return {table: rows for table, rows in found.items() if rows != Rows()}  # not those of which rows are built only


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


def _sample(rejection: Rejection) -> Sample:
    from scrapy_supabase.monitoring.redaction import (  # patterns that most crawls never need
        shown_row,
        shown_words,
        without_quotes,
    )

    data = rejection.data
    if len(data) > _MOST_OF_A_SAMPLE:
        return Sample(without_quotes(rejection.message), None, None, {"…": f"a row of {len(data)} bytes, not shown"})
    words = (shown_words(each, data) for each in (rejection.message, rejection.details, rejection.hint))
    message, details, hint = words
    return Sample(message or "", details, hint, shown_row(data))


def _versions() -> dict[str, str]:
    ours = version("scrapy-supabase")
    return {"scrapy-supabase": ours, "Scrapy": scrapy.__version__, "Python": platform.python_version()}
