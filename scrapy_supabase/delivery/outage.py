"""Outages of the server: since when, when to probe next, when to give up."""

from __future__ import annotations

import logging
from pathlib import Path

from scrapy_supabase.errors import TransientError
from scrapy_supabase.messages import pluralize

logger = logging.getLogger(__name__)

_FIRST_WAIT = 2.0  # seconds before the first probe
_MAX_WAIT = 60.0  # seconds between two probes


class Outage:
    """The current outage, if there is one (`is_on`). All times are seconds of one monotonic clock.

    An outage longer than `max_seconds` (None: no limit) ends the uploads of the run.
    """

    def __init__(self, max_seconds: float | None = None) -> None:
        self.is_on = False
        self.table = ""  # the table to probe: the one whose upload failed
        self.error: TransientError | None = None
        self.max_seconds = max_seconds
        self._is_probing = False
        self._since = 0.0
        self._wait = _FIRST_WAIT
        self._next = 0.0

    def begin(self, now: float, table: str, error: TransientError, folder: Path | None) -> None:
        """Start an outage and log it. Rows are kept in `folder`, or in memory if that is None."""
        self.is_on = True
        self.table, self.error = table, error
        self._since = now
        self._wait = _FIRST_WAIT
        self._next = now + max(_FIRST_WAIT, error.retry_after or 0.0)
        logger.warning(
            "The server is unreachable: %s %s",
            error,
            f"Rows are kept in {folder} and uploaded when it is reachable again (checked every 2 to 60 s)."
            if folder
            else "The crawl waits until it is reachable again, as there is no spool to keep rows in: set "
            "SUPABASE_SPOOL_DIR.",
        )

    def end(self, now: float, waiting: int | None = None) -> float:
        """End the outage and return its length in seconds.

        `waiting` is the number of chunks to upload now; None if the run ends before the server is reachable again.
        """
        self.is_on = False
        seconds = now - self._since
        if waiting is not None:
            logger.warning(
                "The server is reachable again after %.0f s. Uploading the rows kept meanwhile: %s.",
                seconds,
                pluralize(waiting, "chunk"),
            )
        return seconds

    def is_too_long(self, now: float) -> bool:
        """Return whether the outage lasts longer than `max_seconds`."""
        return self.is_on and self.max_seconds is not None and now - self._since > self.max_seconds

    def should_probe(self, now: float) -> bool:
        """Return whether to probe the server now. After True, the caller probes and calls `record_probe`."""
        if self._is_probing or not self.is_on or now < self._next:
            return False
        self._is_probing = True
        return True

    def record_probe(self, now: float, error: TransientError | None) -> bool:
        """Record the result of a probe. Return whether the server is reachable again.

        After each failed probe, the wait before the next one doubles, up to a minute.
        """
        self._is_probing = False
        if not self.is_on:
            return False
        if error is None:
            return True
        self._wait = min(2 * self._wait, _MAX_WAIT)
        self._next = now + max(self._wait, error.retry_after or 0.0)
        logger.debug("The server is still unreachable: %s", error)
        return False

    def probe_soon(self, now: float) -> None:
        """Probe at once and start the waits at two seconds again: the end of the run waits for the server."""
        self._wait = _FIRST_WAIT / 2
        self._next = now
