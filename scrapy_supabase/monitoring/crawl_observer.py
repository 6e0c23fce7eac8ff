"""The observer of a crawl: counts and records its events, and stops it after a fatal error."""

from __future__ import annotations

import logging
from collections.abc import Callable

from scrapy_supabase.errors import FatalError
from scrapy_supabase.messages import pluralize
from scrapy_supabase.models import Outcome, Rejection
from scrapy_supabase.monitoring.counters import Counters
from scrapy_supabase.monitoring.record import Record
from scrapy_supabase.monitoring.reject_log import RejectLog
from scrapy_supabase.spool.base import Loaded

logger = logging.getLogger(__name__)


class _StartErrors(logging.Filter):
    """Counts the exceptions that `Spider.start` raised, of all crawls of the process.

    Scrapy 2.14 only logs them: there is no stat, and the crawl ends as `finished`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Count the record, and let it pass."""
        self.number += str(record.msg).startswith("Error while reading start items and requests")
        return True


_START_ERRORS = _StartErrors()  # one for all crawls: a logger keeps its filters for ever


class CrawlObserver:
    """The `delivery.observer.RunObserver` of a crawl. `stop` is called once, with the first fatal error.

    `is_crawl` is False for a command such as `scrapy parse`, which fetches only a few pages.
    """

    def __init__(
        self,
        counters: Counters,
        record: Record,
        stop: Callable[[FatalError], None],
        max_failed: float | None = None,
        is_crawl: bool = True,
    ) -> None:
        self.counters = counters
        self.rejects = RejectLog(counters, max_failed)
        self.record = record
        self.error: FatalError | None = None  # the error that stopped the uploads
        self._stop = stop
        self._is_crawl = is_crawl
        self._items_lost = 0
        logging.getLogger("scrapy.core.engine").addFilter(_START_ERRORS)
        self._start_errors_before = _START_ERRORS.number
        # Events that are only counted.
        self.on_chunk_sealed = counters.on_chunk_sealed
        self.on_rows_kept = counters.on_rows_kept
        self.on_outdated = counters.on_outdated
        self.on_waited = counters.on_waited
        self.on_throttled = counters.on_throttled

    @property
    def lost(self) -> list[str]:
        """Descriptions of what the crawl has lost before this pipeline, without pages."""
        items = [f"{pluralize(self._items_lost, 'item')} lost to an exception in an item pipeline"]
        pages = ["the command fetched single pages"]
        lost = [*(items if self._items_lost else []), *([] if self._is_crawl else pages)]
        return [*lost, "an exception in Spider.start"] if _START_ERRORS.number > self._start_errors_before else lost

    def on_item_error(self) -> None:
        """Count an item that an item pipeline has lost: its exception is in Scrapy's log."""
        self._items_lost += 1

    def on_chunk_done(self, outcome: Outcome) -> None:
        """See `observer.RunObserver`."""
        self.counters.on_chunk_done(outcome)
        self.record.on_chunk_done(outcome)
        if outcome.rejections:
            self._log_rejected(outcome.rejections)
        if logger.isEnabledFor(logging.DEBUG):  # formatting the arguments costs more than this check
            logger.debug(
                "%s: %d uploaded, %d rejected, %d left; %s, %.3f s",
                outcome.chunk,
                outcome.uploaded,
                len(outcome.rejections),
                len(outcome.left),
                pluralize(outcome.effort.requests, "request"),
                outcome.effort.seconds,
            )

    def on_chunk_loaded(self, loaded: Loaded) -> None:
        """See `observer.RunObserver`."""
        self.counters.on_chunk_loaded(loaded)
        self.record.on_chunk_loaded(loaded)
        self._log_rejected(loaded.damaged)

    def on_outage_end(self, seconds: float) -> None:
        """See `observer.RunObserver`."""
        self.counters.on_outage_end(seconds)
        self.record.on_outage_end(seconds)

    def on_fatal(self, error: FatalError) -> None:
        """Stop the crawl, unless an earlier error has stopped it."""
        if self.error is None:
            self.keep_fatal(error)
            self._stop(error)

    def keep_fatal(self, error: FatalError) -> None:
        """Keep and record a fatal error."""
        self.error = error
        self.record.on_fatal(error)

    def refused(self, rejection: Rejection) -> None:
        """Count and record an item that could not become a row."""
        self.counters.refused(rejection)
        self.record.refused(rejection)
        self._log_rejected((rejection,))

    def _log_rejected(self, rejections: tuple[Rejection, ...]) -> None:
        self.rejects.add(rejections)
        if (error := self.rejects.judge()) is not None:
            self.on_fatal(error)
