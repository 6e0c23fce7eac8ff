"""Tells stats and record what the delivery did, and the crawl when nothing can be uploaded any more."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from scrapy_supabase.errors import FatalError
from scrapy_supabase.messages import pluralize
from scrapy_supabase.models import Chunk, Loaded, Outcome, Rejection, Stored
from scrapy_supabase.monitoring.record import Record
from scrapy_supabase.monitoring.stats import Stats

logger = logging.getLogger(__name__)


class Accounts:
    """The delivery's `observer.RunObserver` in a crawl. `stop` is called with what no upload can survive."""

    def __init__(self, stats: Stats, record: Record, stop: Callable[[FatalError], None]) -> None:
        self._stats = stats
        self._record = record
        self._stop = stop
        self.error: FatalError | None = None  # why nothing is uploaded any more

    def refused(self, rejection: Rejection) -> None:
        """An item was received that could not become a row."""
        self._stats.refused(rejection.table, rejection.code)
        self._record.refused(rejection)

    def outdated(self, rows: Counter[str]) -> None:
        """Rows of earlier runs, by table, stay in the spool because newer ones may be stored."""
        self._stats.outdated(rows)
        self._record.outdated(rows)

    def on_chunk_sealed(self, chunk: Chunk) -> None:
        """See `observer.RunObserver`."""
        self._stats.on_chunk_sealed(chunk)
        self._record.on_chunk_sealed(chunk)

    def on_chunk_done(self, outcome: Outcome) -> None:
        """See `observer.RunObserver`."""
        self._stats.on_chunk_done(outcome)
        self._record.on_chunk_done(outcome)
        if logger.isEnabledFor(logging.DEBUG):  # what it says costs more than asking
            logger.debug(
                "%s: %d uploaded, %d rejected, %d left; %s, %.3f s",
                *(outcome.chunk, outcome.uploaded, len(outcome.rejections), len(outcome.left)),
                *(pluralize(outcome.effort.requests, "request"), outcome.effort.seconds),
            )

    def on_rows_kept(self, kept: Chunk | Stored, rows: int) -> None:
        """See `observer.RunObserver`."""
        self._stats.on_rows_kept(kept, rows)
        self._record.on_rows_kept(kept, rows)

    def on_chunk_loaded(self, loaded: Loaded) -> None:
        """See `observer.RunObserver`."""
        self._stats.on_chunk_loaded(loaded)
        self._record.on_chunk_loaded(loaded)

    def on_waited(self, seconds: float) -> None:
        """See `observer.RunObserver`."""
        self._stats.on_waited(seconds)
        self._record.on_waited(seconds)

    def on_outage_end(self, seconds: float) -> None:
        """See `observer.RunObserver`."""
        self._stats.on_outage_end(seconds)
        self._record.on_outage_end(seconds)

    def on_throttled(self) -> None:
        """See `observer.RunObserver`."""
        self._stats.on_throttled()
        self._record.on_throttled()

    def on_fatal(self, error: FatalError) -> None:
        """Stop the crawl, unless it is being stopped for an earlier error."""
        if self.error is None:
            self.keep_fatal(error)
            self._stop(error)

    def keep_fatal(self, error: FatalError) -> None:
        """Keep and record why nothing can be uploaded."""
        self.error = error
        self._record.on_fatal(error)
