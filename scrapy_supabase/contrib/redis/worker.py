"""One worker of a fleet: which requests it has leased, which of them are done, and what Redis does not know yet.

A request is done when Scrapy's engine no longer has it in progress: then its items have been through all pipelines, and
the requests of its callback, errback, retry or redirect have been given to the scheduler. This holds for every end of a
request, a failed download, an ignored response and an exception in the spider included.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from redis import RedisError
from scrapy import Request

from scrapy_supabase.contrib.redis.leases import MOST, Leases
from scrapy_supabase.contrib.redis.link import Link
from scrapy_supabase.messages import pluralize
from scrapy_supabase.monitoring.stats import RequestStats

logger = logging.getLogger(__name__)

_BEATS = 5  # heartbeats per lease time


class Codec(Protocol):
    """Requests as bytes, and what is pushed with them."""

    def encode(self, request: Request) -> Any:
        """Return the request as it is in Redis. Raises what the serializer raises."""

    def decode(self, data: Any) -> Request:
        """Return the request. Raises what the serializer raises."""

    def is_seen(self, request: Request) -> bool:
        """Return whether the dupefilter has seen the request. Raises `RedisError`."""

    def fingerprint(self, request: Request) -> tuple[str, str] | None:
        """Return key and fingerprint for a dupefilter that is asked in the same call as the queue; else None."""


@dataclass(slots=True)
class _Unsent:
    """A request that is to be put into the queue, also as it is there."""

    request: Request
    data: Any
    is_new: bool = False  # the dupefilter was asked: it takes each request once, so it must not be asked again


class Worker:
    """Leases requests, and acknowledges those that are done. It raises no `RedisError`."""

    def __init__(
        self,
        leases: Leases,
        codec: Codec,
        in_progress: Callable[[], Collection[Request]],
        stats: RequestStats,
        lease_time: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.link = Link(clock)
        self._leases = leases
        self._codec = codec
        self._in_progress = in_progress
        self._stats = stats
        self._lease_time = lease_time
        self._clock = clock
        self._held: dict[str, Request] = {}  # lease → its request, in progress
        self._done: list[str] = []  # leases to acknowledge
        self._released: list[str] = []  # leases to give back
        self._unsent: deque[_Unsent] = deque()  # requests that Redis does not have yet
        self._next_lease = 0
        self._next_start = 0
        self._last_beat = clock()
        self._quiet_since = -math.inf

    @property
    def has_unsent(self) -> bool:
        """Whether there are requests that Redis does not have yet."""
        return bool(self._unsent)

    def next_request(self) -> Request | None:
        """Lease the next request; acknowledge those that are done. None: the queue is empty, or Redis unreachable."""
        while self._settle():
            done = self._finished()[:MOST]
            try:
                found, data = self.link.call(self._leases.take, self._next_lease, done)
            except RedisError:
                return None  # the next call has the same number of the lease
            self._acknowledged(done, found)
            if data is None:
                return None
            lease = str(self._next_lease)
            self._next_lease += 1
            self._stats.leased()
            if (request := self._decoded(data, lease)) is not None:
                self._held[lease] = request
                return request
        return None

    def enqueue(self, request: Request) -> bool:
        """Put a request into the queue. False: it was seen before. While Redis is unreachable, keep it here."""
        one = _Unsent(request, self._codec.encode(request))
        if self._settle():
            try:
                return self._push(one)
            except RedisError:
                pass
        self._unsent.append(one)
        return True

    def take_start_urls(self, key: str, count: int) -> tuple[list[str], list[Any]]:
        """Take up to `count` entries, and return their leases and them."""
        leases = [f"start-{number}" for number in range(self._next_start, self._next_start + min(count, MOST))]
        if not self._settle():
            return [], []
        try:
            entries = self.link.call(self._leases.take_start_urls, key, leases)
        except RedisError:
            return [], []
        self._next_start += len(leases)
        self._stats.leased(len(entries))
        return leases[: len(entries)], entries

    def done(self, lease: str) -> None:
        """Acknowledge a lease with the next call."""
        self._done.append(lease)

    def release(self, leases: Sequence[str]) -> None:
        """Give leases back with the next heartbeat."""
        self._released.extend(leases)

    def tick(self) -> None:
        """Send what waits, and the heartbeat if it is due. Call it at least `_BEATS` times per lease time."""
        try:
            self._send()
            now = self._clock()
            if now - self._last_beat >= self._lease_time / _BEATS and not self.link.is_down:
                self.beat()
        except RedisError:
            return

    def beat(self) -> None:
        """Send the heartbeat, and give back the leases of dead workers. Raises `RedisError`."""
        now = self._clock()
        silent = now - self._last_beat
        if silent > self._lease_time:
            self._quiet_since = now
            logger.warning(
                "This worker sent no heartbeat for %.0f s, longer than its lease time of %g s (SUPABASE_LEASE_TIME). "
                "Other workers may have taken its requests: those pages are fetched twice.",
                silent,
                self._lease_time,
            )
        # The other workers may not have sent their heartbeats since an outage of Redis or a stop of this machine.
        quiet_since = max(self._quiet_since, self.link.outage_end)
        given_back = self.link.call(lambda: self._leases.beat(give_back=now - quiet_since > self._lease_time))
        self._last_beat = now
        if given_back:
            self._stats.given_back(given_back)
            logger.warning(
                "Back in the queue: %s of workers that sent no heartbeat for %g s (SUPABASE_LEASE_TIME).",
                pluralize(given_back, "request"),
                self._lease_time,
            )

    def others(self) -> tuple[int, int] | None:
        """Return how many other workers are alive, and how many leases they have. None: Redis is unreachable."""
        if self.link.is_down:
            return None
        try:
            return self.link.call(self._leases.others)
        except RedisError:
            return None

    def give_back_unknown(self) -> bool:
        """Give back leases that this worker does not know of, when the spider is idle. Return whether there were any.

        One comes about if Redis carries out a call after this worker has given up waiting and has repeated it.
        """
        try:
            self._send()
            if self.link.is_out or self._held or self._done or self._unsent:
                return False
            given_back = self.link.call(self._leases.give_back)
        except RedisError:
            return False
        self._stats.given_back(given_back)
        return given_back > 0

    def leave(self) -> None:
        """Acknowledge what is done, and give back the rest."""
        try:
            self._send()
            if not self.link.is_out and (given_back := self.link.call(self._leases.leave)):
                self._stats.given_back(given_back)
                logger.info("Back in the queue: %s of this worker.", pluralize(given_back, "request"))
        except RedisError:
            pass
        if self.link.is_out:
            logger.warning(
                "Redis does not answer at the end of the crawl. Requests that were not acknowledged stay leased. "
                "Another worker puts them back into the queue, %g s (SUPABASE_LEASE_TIME) after the last heartbeat of "
                "this one.",
                self._lease_time,
            )

    def _send(self) -> None:
        if not self._settle():
            return
        while done := self._finished()[:MOST]:
            self._acknowledged(done, self.link.call(self._leases.acknowledge, done))
        if self._released:
            self._stats.given_back(self.link.call(self._leases.give_back, self._released))
            self._released.clear()

    def _settle(self) -> bool:
        """Send the requests that Redis does not have yet, before anything else. Return whether Redis answers."""
        if self.link.is_down:
            return False
        while self._unsent:
            try:
                self._push(self._unsent[0])
            except RedisError:
                return False
            self._unsent.popleft()
        return True

    def _push(self, one: _Unsent) -> bool:
        """Put a request into the queue. Return False if it was seen before."""
        seen = None
        if not one.request.dont_filter and not one.is_new:
            seen = self._codec.fingerprint(one.request)
            if seen is None:
                if self.link.call(self._codec.is_seen, one.request):
                    return False
                one.is_new = True
        if not self.link.call(self._leases.push, one.data, -one.request.priority, seen):
            return False
        self._stats.enqueued()
        return True

    def _finished(self) -> list[str]:
        """Return the leases to acknowledge: those whose requests the engine no longer has in progress."""
        running = self._in_progress()
        ended = [lease for lease, request in self._held.items() if request not in running]
        for lease in ended:
            del self._held[lease]
        self._done += ended
        return self._done

    def _acknowledged(self, done: Sequence[str], found: int) -> None:
        del self._done[: len(done)]
        self._stats.acknowledged(found)

    def _decoded(self, data: Any, lease: str) -> Request | None:
        try:
            return self._codec.decode(data)
        except Exception:
            logger.exception(
                "A request in Redis cannot be decoded by this spider. It is kept in the list %s.",
                self._leases.unreadable,
            )
        try:
            self.link.call(self._leases.set_aside, data)
        except RedisError:
            return None  # it stays leased, and goes back to the queue at the end
        self.done(lease)
        return None
