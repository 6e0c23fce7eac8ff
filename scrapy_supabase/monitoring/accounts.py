"""Tells stats and record what the delivery did, and the crawl when nothing can be uploaded any more."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from scrapy_supabase.errors import FatalError
from scrapy_supabase.messages import counted
from scrapy_supabase.models import Chunk, Loaded, Outcome, Rejection, Stored
from scrapy_supabase.monitoring.record import Record
from scrapy_supabase.monitoring.stats import Stats

logger = logging.getLogger(__name__)


class Accounts:
    """The delivery's `observer.Observer` in a crawl. `stop` is called with what no upload can survive."""

    def __init__(self, stats: Stats, record: Record, stop: Callable[[FatalError], None]) -> None:
        self._stats = stats
        self._record = record
        self._stop = stop

    def refused(self, rejection: Rejection) -> None:
        """An item was received that could not become a row."""
        self._stats.refused(rejection.table, rejection.code)
        self._record.refused(rejection)

    def outdated(self, rows: Counter[str]) -> None:
        """Rows of earlier runs, by table, stay in the spool because newer ones may be stored."""
        self._stats.outdated(rows)
        self._record.outdated(rows)

    def sealed(self, chunk: Chunk) -> None:
        """See `observer.Observer`."""
        self._stats.sealed(chunk)
        self._record.sealed(chunk)

    def settled(self, outcome: Outcome) -> None:
        """See `observer.Observer`."""
        self._stats.settled(outcome)
        self._record.settled(outcome)
        if logger.isEnabledFor(logging.DEBUG):  # what it says costs more than asking
            logger.debug(
                "%s: %d uploaded, %d rejected, %d left; %s, %.3f s",
                *(outcome.chunk, outcome.uploaded, len(outcome.rejections), len(outcome.left)),
                *(counted(outcome.effort.requests, "request"), outcome.effort.seconds),
            )

    def left(self, kept: Chunk | Stored, rows: int) -> None:
        """See `observer.Observer`."""
        self._stats.left(kept, rows)
        self._record.left(kept, rows)

    def read_back(self, loaded: Loaded) -> None:
        """See `observer.Observer`."""
        self._stats.read_back(loaded)
        self._record.read_back(loaded)

    def waited(self, seconds: float) -> None:
        """See `observer.Observer`."""
        self._stats.waited(seconds)
        self._record.waited(seconds)

    def was_gone(self, seconds: float) -> None:
        """See `observer.Observer`."""
        self._stats.was_gone(seconds)
        self._record.was_gone(seconds)

    def slowed(self) -> None:
        """See `observer.Observer`."""
        self._stats.slowed()
        self._record.slowed()

    def failed(self, error: FatalError) -> None:
        """See `observer.Observer`."""
        self._stop(error)
