"""What happens in one run, in constant memory: told once a chunk, in the crawl's thread, after the fact."""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version

import msgspec
import scrapy

from scrapy_supabase.errors import FatalError
from scrapy_supabase.models import Chunk, Loaded, Outcome, Rejection, Stored
from scrapy_supabase.monitoring.last_run import Fatal, LastRun, Outage, Rejects, Rows, Sample

_MOST_OUTAGES = 100
_MOST_KINDS = 100  # of rejects, and of errors
_SAMPLES = 3  # of each kind of rejects
_MOST_OF_A_SAMPLE = 64 * 1024  # bytes: the crawl waits while a row is searched for secrets
_LONGEST_WAIT = 60.0  # seconds between two writings


class Record:
    """Counts what the delivery tells, next to `stats.Stats`, and keeps when it was.

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
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._begin = clock()
        self._next = 1.0
        self._kinds: dict[tuple[str, str], Rejects] = {}
        self._figures: Counter[str] = Counter()
        self._known = LastRun(
            run=run,
            spider=spider,
            project=project,
            spool=None,
            started=started.isoformat(timespec="seconds"),
            written="",
            settings=dict(settings),
        )

    def on_chunk_sealed(self, chunk: Chunk) -> None:
        """A chunk is complete: its rows have been received."""
        rows = self._rows(chunk.table)
        rows.received += len(chunk.rows) + chunk.superseded
        self._figures["chunks"] += 1

    def on_chunk_done(self, outcome: Outcome) -> None:
        """Rows of a chunk are where the outcome says."""
        effort, rows = outcome.effort, self._rows(outcome.chunk.table)
        if outcome.chunk.origin is None:
            rows.uploaded += outcome.uploaded
            rows.superseded += outcome.superseded
        else:
            rows.recovered += outcome.uploaded
            rows.recovered_superseded += outcome.superseded
        for rejection in outcome.rejections:
            self._reject(rejection, recovered=outcome.chunk.origin is not None)
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
        figures = self._figures
        figures["requests"] += effort.requests
        figures["bytes"] += effort.request_bytes
        figures["retries"] += effort.retries
        figures["splits"] += effort.splits
        figures["fallbacks"] += effort.fallbacks

    def on_rows_kept(self, kept: Chunk | Stored, number: int) -> None:
        """Rows stay in the spool for the next run."""
        rows = self._rows(kept.table)
        if kept.recovered if isinstance(kept, Stored) else kept.origin is not None:
            rows.recovered_left += number
        else:
            rows.left += number

    def on_chunk_loaded(self, loaded: Loaded) -> None:
        """A chunk was read from its file."""
        recovered = loaded.chunk is None or loaded.chunk.origin is not None
        for rejection in loaded.damaged:
            self._reject(rejection, recovered=recovered)

    def outdated(self, rows: Counter[str]) -> None:
        """Rows of earlier runs, by table, stay in the spool because newer ones may be stored."""
        for table, number in rows.items():
            self._rows(table).recovered_outdated += number

    def refused(self, rejection: Rejection) -> None:
        """An item was received that could not become a row."""
        self._rows(rejection.table).received += 1
        self._reject(rejection, recovered=False)
        self._known.timeline.add(self._clock() - self._begin, rejected=1)

    def on_waited(self, seconds: float) -> None:
        """Items waited because too much was on its way."""
        self._figures["waited"] += seconds  # type: ignore[assignment]

    def on_throttled(self) -> None:
        """The server was busy: fewer uploads at once."""
        self._figures["slowdowns"] += 1

    def on_outage_end(self, seconds: float) -> None:
        """The server was gone for so long."""
        known = self._known
        known.outage_count += 1
        known.outage_seconds += seconds
        if len(known.outages) < _MOST_OUTAGES:
            known.outages.append(Outage(max(0.0, self._clock() - self._begin - seconds), seconds))

    def on_fatal(self, error: FatalError) -> None:
        """Nothing is uploaded from now on."""
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
        known.figures = dict(self._figures)
        return msgspec.json.encode(known)

    def _rows(self, table: str) -> Rows:
        tables = self._known.tables
        found = tables.get(table)
        if found is None:
            found = tables[table] = Rows()
        return found

    def _reject(self, rejection: Rejection, *, recovered: bool) -> None:
        rows = self._rows(rejection.table)
        if recovered:
            rows.recovered_rejected += 1
        else:
            rows.rejected += 1
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
