"""Start URLs that a `RedisSpider` takes from Redis: leased until their requests are in the queue."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from redis import RedisError
from scrapy import Spider
from scrapy_redis.spiders import RedisMixin

from scrapy_supabase.contrib.redis.link import limit_waits
from scrapy_supabase.contrib.redis.worker import Worker

_POPS = ("pop_list_queue", "pop_priority_queue")


class _Batch(list[Any]):
    """Entries of start URLs. Iterate once: an entry is acknowledged when the next one is asked for.

    By then, `RedisMixin.next_requests` has made requests of it, and Scrapy has given them to the scheduler.
    """

    def __init__(self, entries: Sequence[Any], leases: Sequence[str], worker: Worker) -> None:
        super().__init__(entries)
        self._leases = list(leases)  # of the entries that are not acknowledged
        self._worker = worker
        self._has_begun = False

    def __iter__(self) -> Iterator[Any]:
        """Yield the entries."""
        self._has_begun = True
        for entry in super().__iter__():
            yield entry
            if self._leases:
                self._worker.done(self._leases.pop(0))

    def settle(self) -> bool:
        """Acknowledge the entry whose request failed, and give back those behind it. Return False if none are left."""
        if not self._leases:
            return False
        if self._has_begun:  # Scrapy has logged the exception
            self._worker.done(self._leases.pop(0))
        self._worker.release(self._leases)
        self._leases.clear()
        return True


class StartUrls:
    """What a spider takes its start URLs by: in place of its `fetch_data` and `count_size`."""

    def __init__(self, spider: Any, worker: Worker) -> None:
        self._worker = worker
        self._count = spider.count_size
        self._batch = _Batch((), (), worker)

    def fetch(self, key: str, count: int) -> list[Any]:
        """Take up to `count` entries."""
        self._batch.settle()
        leases, entries = self._worker.take_start_urls(key, count)
        self._batch = _Batch(entries, leases, self._worker)
        return self._batch

    def count(self, key: str) -> int:
        """Return the number of entries; 0 if Redis is unreachable."""
        if self._worker.link.is_down:
            return 0
        try:
            return int(self._worker.link.call(self._count, key))
        except RedisError:
            return 0

    def settle(self) -> bool:
        """Give back entries that the spider failed to make requests of. Call it when the spider is idle."""
        return self._batch.settle()


def lease_start_urls(spider: Spider, worker: Worker) -> StartUrls | None:
    """Let a `RedisSpider` lease its start URLs. Return None for other spiders, and for one with its own way."""
    if not isinstance(spider, RedisMixin) or spider.server is None:
        return None
    limit_waits(spider.server)
    stock = (spider.server.spop, spider.pop_list_queue, spider.pop_priority_queue)
    if spider.fetch_data not in stock or any(getattr(type(spider), n) is not getattr(RedisMixin, n) for n in _POPS):
        return None
    found = StartUrls(spider, worker)
    spider.fetch_data, spider.count_size = found.fetch, found.count
    return found
