"""Whether Redis answers: calls that fail are not repeated at once, so that an outage does not block the crawl."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from redis import RedisError
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as NoConnectionError
from redis.retry import Retry

logger = logging.getLogger(__name__)

_PAUSE = 1.0  # seconds until the next call after one that failed, at least
_LONGEST_CALL = 2.0  # seconds: the crawl waits meanwhile
_PAUSE_PER_CALL = 3  # the least pause, in times of what the call took: the crawl goes on for most of an outage

T = TypeVar("T")


class Link:
    """Calls Redis and keeps whether it is reachable."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next_call = 0.0
        self._is_out = False
        self.outage_end = -math.inf  # when the last outage ended, by the clock

    @property
    def is_down(self) -> bool:
        """Whether the last call failed, and it is too early for the next one."""
        return self._clock() < self._next_call

    @property
    def is_out(self) -> bool:
        """Whether the last call failed."""
        return self._is_out

    def call(self, func: Callable[..., T], *arguments: Any) -> T:
        """Return `func(*arguments)`. Raises `redis.RedisError`, after which `is_down` is true for a while."""
        started = self._clock()
        try:
            result = func(*arguments)
        except RedisError as error:
            now = self._clock()
            self._next_call = now + max(_PAUSE, _PAUSE_PER_CALL * (now - started))
            if not self._is_out:
                self._is_out = True
                logger.warning(
                    "Redis does not answer (%s: %s). The crawl takes no new requests until it does. Pages in progress "
                    "go on, and their new requests are kept.",
                    type(error).__name__,
                    error,
                )
            raise
        if self._is_out:
            self._is_out = False
            self.outage_end = self._clock()
            logger.info("Redis answers again.")
        return result


def limit_waits(client: Any) -> None:
    """Let the calls of a Redis client fail within seconds.

    By default, scrapy-redis waits 30 s for an answer, and redis-py repeats a failed call for up to ten seconds more,
    in the crawl's thread. One repetition is left, for a connection that the server closed while it was idle.
    """
    with suppress(AttributeError):  # a client class of the user's (REDIS_PARAMS["redis_cls"]) may have neither
        options = client.connection_pool.connection_kwargs
        for name in ("socket_timeout", "socket_connect_timeout"):
            options[name] = min(options.get(name) or _LONGEST_CALL, _LONGEST_CALL)
        for name in ("retry_on_timeout", "retry_on_error"):
            options.pop(name, None)
        client.set_retry(Retry(NoBackoff(), 1, supported_errors=(NoConnectionError,)))
        client.connection_pool.disconnect()
        client.connection_pool.reset()  # forget connections with the old options
