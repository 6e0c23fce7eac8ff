"""The retry policy of the requests that open a run: a server that answers, but is busy, is waited for."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from scrapy_supabase.backends.retry import Deadline
from scrapy_supabase.errors import TransientError, fatal
from scrapy_supabase.messages import pluralize

logger = logging.getLogger(__name__)

T = TypeVar("T")

_LONGEST_BACKOFF = 5.0  # seconds; a crawl should begin soon after the server has room for it
_SHORTEST_BACKOFF = 0.1  # of a request to a busy server, also with BATCH_RETRY_DELAY = 0
_LONGEST_RETRY_AFTER = 300.0  # seconds; without a `timeout`
_PROGRESS_EVERY = 10.0  # seconds


def _random(low: float, high: float) -> float:
    return random.uniform(low, high)  # noqa: S311 (jitter)


class OpenPolicy:
    """Makes the requests that open a run, with retries. It retries on `TransientError` only.

    Each request gets `attempts` tries, the waits between them double from `delay` seconds. If the server is busy
    (`TransientError.busy`), further tries are made until `timeout` seconds after the first: of many crawls that start
    at once, each begins when the server has room for it. `clock` returns monotonic seconds.
    """

    def __init__(
        self,
        attempts: int,
        delay: float,
        deadline: Deadline,
        timeout: float = 0.0,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._delay = delay
        self.deadline = deadline
        self._attempts = attempts
        self._timeout = timeout
        self._clock = clock

    def run(self, task: str, request: Callable[..., T], *arguments: Any) -> T:
        """Call `request` with its arguments until it succeeds or the policy ends the tries. Raises `ServerError`.

        `task` says in the log what the request is for.
        """
        started = shown = self._clock()
        failed = silent = 0  # tries in all; those in a row since the last answer of a busy server
        while True:
            try:
                return request(*arguments)
            except TransientError as error:
                failed += 1
                silent = 0 if error.busy else silent + 1
                passed = self._clock() - started
                wait = self._wait(error, failed, silent, passed)
                if wait is None:
                    raise
                if failed < self._attempts:
                    logger.info("%s: try %d failed: %s Next try in %.1f s.", task, failed, error, wait)
                elif failed == self._attempts or self._clock() - shown >= _PROGRESS_EVERY:
                    shown = self._clock()
                    logger.warning(
                        "The server is busy: %s Tried %s in %.0f s, waiting up to %g s (SUPABASE_OPEN_TIMEOUT).",
                        error,
                        pluralize(failed, "time"),
                        passed,
                        self._timeout,
                    )
                self.deadline.sleep(wait)
                if not self.deadline.allows(0):  # the crawl was stopped meanwhile
                    raise

    @contextmanager
    def unavailable_is_fatal(self) -> Iterator[None]:
        """Turn a `TransientError` within the context, after which no further try is made, into a `FatalError`."""
        try:
            yield
        except TransientError as error:
            if not self.deadline.allows(0):
                raise fatal(error, "shutdown", "The crawl was stopped while it waited for the server.") from error
            remedy = error.remedy or "Check that the project is running, and check SUPABASE_URL or SUPABASE_DB_URL."
            raise fatal(error, "supabase_unavailable", remedy) from error

    def wait_for_schema(self) -> None:
        """Wait until the server's schema cache should know a recent change of a table."""
        self.deadline.sleep(2 * self._delay)

    def _wait(self, error: TransientError, failed: int, silent: int, passed: float) -> float | None:
        """Return the seconds to wait before the next try; None if there is none."""
        asked = error.retry_after or 0.0
        if not error.busy:
            backoff = self._backoff(silent) + _random(0, self._delay)
            is_over = silent >= min(self._attempts, error.tries or self._attempts)
            return None if is_over else backoff
        rest = self._timeout - passed
        backoff = max(self._backoff(failed), _SHORTEST_BACKOFF) * _random(0.5, 1.5)
        if asked:  # many crawls may have been given the same time
            backoff = max(backoff, asked + _random(0, self._delay))
        if failed >= self._attempts:
            backoff = max(min(backoff, rest), asked)  # the last try is at the end of the time
        longest = rest if self._timeout else _LONGEST_RETRY_AFTER
        if asked > longest or (failed >= self._attempts and rest <= 0):
            error.remedy = error.remedy or self._remedy()
            return None
        return backoff

    def _remedy(self) -> str:
        if not self._timeout:
            return (
                "The server is busy. Start fewer crawls at the same time, or set SUPABASE_OPEN_TIMEOUT to the number "
                "of seconds to wait for it."
            )
        return (
            f"The server was busy for more than {self._timeout:g} s (SUPABASE_OPEN_TIMEOUT). Raise the setting, or "
            "start fewer crawls at the same time."
        )

    def _backoff(self, tries: int) -> float:
        return min(self._delay * 2.0 ** min(tries - 1, 30), _LONGEST_BACKOFF)
