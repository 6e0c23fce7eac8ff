"""The counters of a run. Stats, run record, log and the results of scripts all read from them.

A received row is waiting until its upload has an outcome:

    received ──▶ waiting ──▶ uploaded, superseded, failed, not_found or spooled
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime

from scrapy_supabase.models import Chunk, Effort, Outcome, Rejection, RowCounts
from scrapy_supabase.spool.base import Loaded, Stored

ACCOUNTS = ("waiting", "uploaded", "superseded", "failed", "not_found", "spooled")
"""The accounts of this run's rows. Each row is in exactly one."""

_OF_EARLIER_RUNS = {
    "uploaded": "recovered",
    "superseded": "recovered_superseded",
    "failed": "recovered_failed",
    "not_found": "recovered_not_found",
    "spooled": "recovered_spooled",
}


class Counters:
    """Counts rows by table and account, and the cost of their uploads. Not thread-safe: for the owner's thread.

    `received` is always the sum of `ACCOUNTS`, in total and per table: only `_receive` and `_move` change them. Rows of
    earlier runs are never received in this run, and have separate accounts (`recovered…`). The parts `inserted`,
    `updated` and `unchanged` of uploaded rows are counted where the way of writing tells them.

    The `on_…` methods implement those of `delivery.observer.RunObserver`.
    """

    def __init__(self) -> None:
        self.totals: Counter[str] = Counter()  # account → rows
        self.tables: defaultdict[str, Counter[str]] = defaultdict(Counter)  # table → account → rows
        self.rejected_by_code: Counter[tuple[str, str]] = Counter()  # (table, code) → rows
        self.waiting_since: datetime | None = None  # when rows last began to wait after a time without any
        self.last_upload_time: datetime | None = None
        self.chunks = 0  # sealed
        self.recovered_chunks: set[int] = set()  # numbers of chunks of earlier runs that were taken up
        self.outcomes = 0  # uploads of chunks that have ended, retried chunks included
        self.failed_chunks: set[int] = set()  # numbers of chunks with rejected or spooled rows
        self.deferred_chunks = 0  # chunks with rows that waited for the rows that they refer to
        self.effort = Effort()  # sum over all uploads
        self.longest_upload = 0.0  # seconds
        self.torn_lines = 0
        self.waited_seconds = 0.0  # of items, under back-pressure
        self.slowdowns = 0
        self.outages = 0
        self.outage_seconds = 0.0

    def on_chunk_sealed(self, chunk: Chunk) -> None:
        """Count the rows of a chunk as received."""
        if not self.totals["waiting"] + self.totals["spooled"]:
            self.waiting_since = datetime.now(UTC)
        self._receive(chunk.table, len(chunk.rows) + chunk.superseded)
        self.chunks += 1

    def on_chunk_done(self, outcome: Outcome) -> None:
        """Move the rows of a chunk to the accounts of its outcome, and add the cost of the upload."""
        chunk = outcome.chunk
        recovered = chunk.origin is not None
        self.outcomes += 1
        if recovered:
            self.recovered_chunks.add(chunk.number)
        if outcome.uploaded:
            self.last_upload_time = datetime.now(UTC)
            self._move(chunk.table, "uploaded", outcome.uploaded, recovered=recovered)
            if recovered:
                self._add(chunk.table, "recovered_ambiguous", min(outcome.uploaded, chunk.possibly_duplicated))
            else:
                self._add_parts(chunk.table, outcome.counts)
        self._move(chunk.table, "not_found", outcome.counts.not_found, recovered=recovered)
        self._move(chunk.table, "superseded", outcome.superseded, recovered=recovered)
        if outcome.rejections:
            self._reject(outcome.rejections, recovered=recovered)
            self.failed_chunks.add(chunk.number)
        if outcome.deferred:
            self.deferred_chunks += 1
        self._add_effort(outcome.effort)

    def on_rows_kept(self, kept: Chunk | Stored, rows: int) -> None:
        """Count rows as spooled: they stay in the spool for the next run."""
        recovered = kept.recovered if isinstance(kept, Stored) else kept.origin is not None
        if recovered:
            self.recovered_chunks.add(kept.number)
        self._move(kept.table, "spooled", rows, recovered=recovered)
        self.failed_chunks.add(kept.number)

    def on_outdated(self, rows: Counter[str]) -> None:
        """Count rows of earlier runs, by table, that stay in the spool because newer ones may be stored."""
        for table, number in rows.items():
            self._add(table, "recovered_outdated", number)

    def on_chunk_loaded(self, loaded: Loaded) -> None:
        """Count the lines of a chunk's file that could not be read."""
        self.torn_lines += loaded.torn
        self._reject(loaded.damaged, recovered=loaded.recovered)

    def on_waited(self, seconds: float) -> None:
        """Add the seconds for which items waited."""
        self.waited_seconds += seconds

    def on_outage_end(self, seconds: float) -> None:
        """Count an outage."""
        self.outages += 1
        self.outage_seconds += seconds

    def on_throttled(self) -> None:
        """Count a decrease of concurrency because the server was busy."""
        self.slowdowns += 1

    def refused(self, rejection: Rejection) -> None:
        """Count an item that could not become a row, as received and failed."""
        self._receive(rejection.table, 1)
        self._reject((rejection,), recovered=False)

    def cleaned(self, table: str) -> None:
        """Count a row that lost characters that PostgreSQL cannot store."""
        self._add(table, "cleaned", 1)

    def on_unseen(self, table: str, rows: int) -> None:
        """Count stored rows that were marked or deleted, since this run did not store them."""
        self._add(table, "unseen", rows)

    def _receive(self, table: str, rows: int) -> None:
        self._add(table, "received", rows)
        self._add(table, "waiting", rows)

    def _move(self, table: str, account: str, rows: int, *, recovered: bool) -> None:
        """Move waiting rows to another account. `recovered` rows, of earlier runs, are only added to theirs."""
        if not rows:
            return
        if recovered:
            self._add(table, _OF_EARLIER_RUNS[account], rows)
        else:
            self._add(table, "waiting", -rows)
            self._add(table, account, rows)

    def _add_parts(self, table: str, counts: RowCounts) -> None:
        for name, rows in (("inserted", counts.inserted), ("updated", counts.updated), ("unchanged", counts.unchanged)):
            if rows:
                self._add(table, name, rows)

    def _reject(self, rejections: Iterable[Rejection], *, recovered: bool) -> None:
        for rejection in rejections:
            self._move(rejection.table, "failed", 1, recovered=recovered)
            self.rejected_by_code[rejection.table, rejection.code] += 1

    def _add(self, table: str, account: str, rows: int) -> None:
        self.totals[account] += rows
        self.tables[table][account] += rows

    def _add_effort(self, effort: Effort) -> None:
        total = self.effort
        total.requests += effort.requests
        total.request_bytes += effort.request_bytes
        total.retries += effort.retries
        total.ambiguous_retries += effort.ambiguous_retries
        total.splits += effort.splits
        total.fallbacks += effort.fallbacks
        if effort.errors:
            total.errors.update(effort.errors)
        if effort.requests:  # otherwise the chunk was given up without a request
            total.seconds += effort.seconds
            self.longest_upload = max(self.longest_upload, effort.seconds)
