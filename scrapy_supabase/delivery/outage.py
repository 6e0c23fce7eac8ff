"""Is the server there? What is known of an outage, when to probe, when to give up."""

from __future__ import annotations

import logging
from pathlib import Path

from scrapy_supabase.errors import TransientError
from scrapy_supabase.messages import pluralize

logger = logging.getLogger(__name__)

_FIRST = 2.0  # seconds until the first probe
_LONGEST = 60.0


class Outage:
    """The outage that goes on, if one does (`is_on`). All times are seconds of one clock that never goes back.

    One that lasts longer than `longest` seconds (None: no limit) ends the uploads of the run.
    """

    def __init__(self, longest: float | None = None) -> None:
        self.is_on = False
        self.table = ""  # whose upload met it, to be probed
        self.error: TransientError | None = None
        self.longest = longest
        self._is_probing = False
        self._since = 0.0
        self._wait = _FIRST
        self._next = 0.0

    def begin(self, now: float, table: str, error: TransientError, folder: Path | None) -> None:
        """Learn that the server is unreachable; rows are kept in `folder`."""
        self.is_on = True
        self.table, self.error = table, error
        self._since = now
        self._wait = _FIRST
        self._next = now + max(_FIRST, error.retry_after or 0.0)
        logger.warning(
            "The server is unreachable: %s %s",
            error,
            f"Rows are kept in {folder} and uploaded when it is reachable again: this is checked every 2 to 60 s."
            if folder
            else "All waits until it is reachable again: there is no spool to keep rows in (SUPABASE_SPOOL_DIR).",
        )

    def end(self, now: float, waiting: int | None = None) -> float:
        """Learn that the server is reachable, or that nobody waits for it; return the seconds the outage lasted.

        `waiting` chunks are uploaded now.
        """
        self.is_on = False
        seconds = now - self._since
        if waiting is not None:
            logger.warning(
                "The server is reachable again after %.0f s. Kept meanwhile and uploaded now: %s.",
                seconds,
                pluralize(waiting, "chunk"),
            )
        return seconds

    def is_too_long(self, now: float) -> bool:
        """Return whether it lasts longer than allowed."""
        return self.is_on and self.longest is not None and now - self._since > self.longest

    def should_probe(self, now: float) -> bool:
        """Return whether to probe the server now; then one `record_failure` or `end` is to follow."""
        if self._is_probing or not self.is_on or now < self._next:
            return False
        self._is_probing = True
        return True

    def record_probe(self, now: float, error: TransientError | None) -> bool:
        """Take in what a probe met; return whether the server is reachable again.

        Else the next wait is twice as long, a minute at most.
        """
        self._is_probing = False
        if not self.is_on:
            return False
        if error is None:
            return True
        self._wait = min(2 * self._wait, _LONGEST)
        self._next = now + max(self._wait, error.retry_after or 0.0)
        logger.debug("The server is still unreachable: %s", error)
        return False

    def probe_soon(self, now: float) -> None:
        """Probe at once, and then every two seconds at first: somebody waits."""
        self._wait = _FIRST / 2
        self._next = now
