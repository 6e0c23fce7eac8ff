"""The takeover of dead runs' chunks by a run that is alive: workers that idle for days leave no rows lying."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence

from scrapy_supabase.delivery.executor import Executor
from scrapy_supabase.delivery.observer import RunObserver
from scrapy_supabase.messages import outdated_rows, pluralize, reason, sentence
from scrapy_supabase.spool.base import Stored
from scrapy_supabase.spool.disk import DiskSpool

logger = logging.getLogger(__name__)

_EVERY = 60.0  # seconds


class Takeover:
    """Looks once a minute for folders of dead runs in the `spool`, in a worker thread of the `executor`.

    `clock` returns monotonic seconds.
    """

    def __init__(
        self,
        spool: DiskSpool,
        executor: Executor,
        observer: RunObserver,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spool = spool
        self._executor = executor
        self._observer = observer
        self._clock = clock
        self._due = clock() + _EVERY
        self._found: list[Stored] = []

    def tick(self) -> Sequence[Stored]:
        """Return the chunks that have been taken over since the last call; look for more if that is due."""
        if self._clock() >= self._due:
            self._due = self._clock() + _EVERY
            self._executor.run(self._look, self._take)
        found = tuple(self._found)
        self._found.clear()
        return found

    def _take(self, looked: tuple[Sequence[Stored], Counter[str]]) -> None:
        found, outdated = looked
        self._found.extend(found)
        if outdated:
            self._observer.on_outdated(outdated)

    # In a worker thread

    def _look(self) -> tuple[Sequence[Stored], Counter[str]]:
        """Return the chunks that were taken over, and the number of rows, by table, that stay in the spool."""
        before = self._spool.outdated.copy()
        try:
            found = self._spool.recover(is_alive=True)
        except Exception as error:  # noqa: BLE001 (of the file system or a bug of ours: the crawl goes on without)
            logger.warning("The spool was not searched for rows of runs that ended: %s", sentence(reason(error)))
            return (), Counter()
        if found:
            logger.info(
                "Another run ended and left %s (%d bytes) in the spool; this run will upload these rows, too.",
                pluralize(len(found), "chunk"),
                sum(stored.size for stored in found),
            )
        if outdated := self._spool.outdated - before:
            logger.warning("Not uploaded: %s. %s", *outdated_rows(outdated, self._spool.folder))
        return found, outdated
