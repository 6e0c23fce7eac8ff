"""The retry policy of an upload's request: number of tries, and waits between them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from scrapy_supabase.errors import TransientError

if TYPE_CHECKING:
    from tenacity import RetryCallState

T = TypeVar("T")

_LONGEST_BACKOFF = 60.0  # seconds
# A longer wait is not made: the rows are safe in the spool, and a worker thread would be blocked.
_LONGEST_RETRY_AFTER = 300.0


class Deadline:
    """The time until which threads may wait: unlimited at first, limited when the crawl closes, over at the end.

    All upload threads share one; the owner's thread sets it. `clock` returns monotonic seconds. `waiting` is the number
    of threads that wait now; `on_wait` is called when one starts to wait.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.waiting = 0
        self.on_wait: Callable[[], None] = lambda: None
        self._clock = clock
        self._ends_at: float | None = None
        self._over = threading.Event()
        self._changed = threading.Condition()

    def limit(self, seconds: float) -> None:
        """Set the deadline to `seconds` from now. Waits that would end later are given up at once."""
        with self._changed:
            self._ends_at = self._clock() + seconds
            self._changed.notify_all()

    def end(self) -> None:
        """Give up all present and future waits."""
        self.limit(-1)

    def allows(self, seconds: float) -> bool:
        """Return whether a wait of `seconds` would end before the deadline."""
        return self._ends_at is None or self._clock() + seconds < self._ends_at

    def sleep(self, seconds: float) -> None:
        """Wait `seconds`; return early once the deadline does not allow it."""
        if not self.allows(seconds):
            return
        until = self._clock() + seconds
        with self._changed:
            self.waiting += 1
        self.on_wait()
        with self._changed:
            while (rest := until - self._clock()) > 0 and self.allows(rest):
                self._changed.wait(rest)
            self.waiting -= 1


class Retrying:
    """The policy of one request: `attempts` tries in all, on `TransientError` only, the last error re-raised.

    The wait doubles from `delay` seconds up to 60 s, plus up to `delay` seconds of jitter; it is never shorter than the
    server's `Retry-After`. Some errors allow fewer tries (`TransientError.tries`).
    """

    def __init__(
        self, attempts: int, delay: float, deadline: Deadline, before_sleep: Callable[[RetryCallState], None]
    ) -> None:
        self._attempts = attempts
        self._delay = delay
        self._deadline = deadline
        self._before_sleep = before_sleep

    def __call__(self, request: Callable[..., T], *arguments: Any) -> T:
        """Call `request` with its arguments until it succeeds or the policy ends the tries. Raises `ServerError`."""
        try:
            return request(*arguments)
        except TransientError as error:
            first = [error]

        def again() -> T:
            if first:
                raise first.pop()
            return request(*arguments)

        return self._retry(again)

    def _retry(self, request: Callable[[], T]) -> T:
        import tenacity  # most crawls need no retry

        doubling = tenacity.wait_exponential(multiplier=self._delay, max=_LONGEST_BACKOFF)
        backoff = doubling + tenacity.wait_random(0, self._delay)

        def wait(state: RetryCallState) -> float:
            return max(backoff(state), _error(state).retry_after or 0.0)

        policy = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TransientError),
            wait=wait,
            stop=self._is_over,
            sleep=self._deadline.sleep,
            before_sleep=self._before_sleep,
            reraise=True,
        )
        return policy(request)

    def _is_over(self, state: RetryCallState) -> bool:
        error = _error(state)
        if state.attempt_number >= min(self._attempts, error.tries or self._attempts):
            return True
        return (error.retry_after or 0.0) > _LONGEST_RETRY_AFTER or not self._deadline.allows(state.upcoming_sleep)


def _error(state: RetryCallState) -> TransientError:
    error = state.outcome.exception() if state.outcome else None
    if not isinstance(error, TransientError):
        raise TypeError("a retry is asked for on TransientError only")
    return error
