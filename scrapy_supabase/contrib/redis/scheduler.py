"""The scheduler: scrapy-redis' own, with requests that are leased instead of popped."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Self

from redis import RedisError
from scrapy import Request, Spider, signals
from scrapy.exceptions import DontCloseSpider
from scrapy.utils.asyncio import create_looping_call
from scrapy_redis.dupefilter import RFPDupeFilter
from scrapy_redis.queue import FifoQueue, LifoQueue, PriorityQueue
from scrapy_redis.scheduler import Scheduler

from scrapy_supabase.contrib.redis.leases import LEFT, RIGHT, SORTED, Leases
from scrapy_supabase.contrib.redis.link import limit_waits
from scrapy_supabase.contrib.redis.start_urls import StartUrls, lease_start_urls
from scrapy_supabase.contrib.redis.worker import Worker
from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.eventloop import requests_in_progress
from scrapy_supabase.messages import pluralize
from scrapy_supabase.monitoring.stats import RequestStats
from scrapy_supabase.settings.leases import lease_time
from scrapy_supabase.settings.spool import spool_folder

if TYPE_CHECKING:
    from scrapy.crawler import Crawler

logger = logging.getLogger(__name__)

_KINDS = {PriorityQueue: SORTED, FifoQueue: RIGHT, LifoQueue: LEFT}
_TICKS = 5  # per lease time, at least


class LeaseScheduler(Scheduler):
    """Scheduler of scrapy-redis whose requests are leased, and acknowledged when their items are in the spool.

    Enable it with `SCHEDULER = "scrapy_supabase.contrib.redis.LeaseScheduler"`. It has the settings of scrapy-redis,
    and `SUPABASE_LEASE_TIME`.
    """

    def __init__(self, server: Any, **options: Any) -> None:
        super().__init__(server, **options)
        self.flush_on_start: bool
        self._lease_time = 0.0
        self._worker: Worker | None = None
        self._start_urls: StartUrls | None = None
        self._ticker: Any = None
        self._waits = False
        limit_waits(server)

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Create the scheduler. Raises `ConfigurationError`, also if Redis does not answer."""
        try:
            made: Self = super().from_crawler(crawler)
        except RedisError as error:
            refused = ConfigurationError(
                f"Redis does not answer: {error} Start it, or correct REDIS_URL (or REDIS_HOST and REDIS_PORT)."
            )
            logger.log(logging.ERROR, "%s", refused)  # Scrapy's traceback ends with "Engine slot not assigned"
            raise refused from error
        made._lease_time = lease_time(crawler.settings)
        return made

    def open(self, spider: Spider) -> None:
        """Register this worker, and give back what dead workers had leased. Raises `ConfigurationError`."""
        flush = self.flush_on_start
        self.flush_on_start = False  # done below, if no other worker is there
        super().open(spider)
        kind = _kind_of(self.queue)
        crawler = spider.crawler

        def in_progress() -> Collection[Request]:
            return requests_in_progress(crawler)

        in_progress()  # fail now with a version of Scrapy that does not have it
        limit_waits(getattr(self.df, "server", None))
        if spool_folder(crawler.settings) is None:
            logger.warning(
                "There is no spool (SUPABASE_SPOOL_DIR is None). If this worker is killed, rows that are not uploaded "
                "are lost, and their requests are not in the queue any more."
            )
        leases = Leases(self.server, self.queue.key, kind, self._lease_time)
        worker = Worker(leases, _Codec(self.queue, self.df), in_progress, RequestStats(crawler.stats), self._lease_time)
        if flush:
            self._flush_at_start(leases)
        worker.beat()
        self._start_urls = lease_start_urls(spider, worker)
        crawler.signals.connect(self._idle, signals.spider_idle)
        self._worker = worker
        self._ticker = create_looping_call(worker.tick)
        self._ticker.start(min(1.0, self._lease_time / _TICKS), now=False)

    def close(self, reason: str) -> None:
        """Acknowledge what is done, and give back the rest.

        Queue and dupefilter are kept for the other workers and the next crawl. The dupefilter of a crawl that finished
        is cleared by its last worker, unless SCHEDULER_PERSIST is set.
        """
        worker = self._worker
        if worker is None:
            return
        self._ticker.stop()
        worker.leave()
        others = worker.others()  # after it: of two that end at the same time, one sees no other
        is_last = others == (0, 0) and not worker.link.is_out
        if reason == "finished" and not self.persist and is_last and not len(self.queue):
            self.df.clear()

    def enqueue_request(self, request: Request) -> bool:
        """Put a request into the queue. False: the dupefilter has seen it."""
        if self._opened.enqueue(request):
            return True
        self.df.log(request, self.spider)
        return False

    def next_request(self) -> Request | None:
        """Lease the next request."""
        return self._opened.next_request()

    def has_pending_requests(self) -> bool:
        """Return whether the queue has requests, or may have."""
        worker = self._opened
        if worker.has_unsent or worker.link.is_down:
            return True
        try:
            return bool(worker.link.call(len, self.queue))
        except RedisError:
            return True

    @property
    def _opened(self) -> Worker:
        if self._worker is None:
            raise RuntimeError("The scheduler is not open.")
        return self._worker

    def _idle(self) -> None:
        """Keep the spider open while other workers have requests: a worker that dies gives its requests back."""
        worker = self._opened
        if (self._start_urls is not None and self._start_urls.settle()) or worker.give_back_unknown():
            raise DontCloseSpider
        others = worker.others()
        if others is None:
            raise DontCloseSpider
        _, leased = others
        if leased:
            if not self._waits:
                self._waits = True
                logger.info("The queue is empty. Waiting for %s of other workers.", pluralize(leased, "leased request"))
            raise DontCloseSpider
        self._waits = False

    def _flush_at_start(self, leases: Leases) -> None:
        alive, _ = leases.others()
        if alive:
            logger.warning(
                "Not flushed (SCHEDULER_FLUSH_ON_START): the queue is in use by %s.", pluralize(alive, "other worker")
            )
            return
        self.flush()
        leases.clear()


class _Codec:
    """Requests as scrapy-redis' queue has them, and fingerprints as its dupefilter has them."""

    def __init__(self, queue: Any, dupefilter: Any) -> None:
        self._queue = queue
        self._dupefilter = dupefilter
        self._is_stock = (
            isinstance(dupefilter, RFPDupeFilter) and type(dupefilter).request_seen is RFPDupeFilter.request_seen
        )

    def encode(self, request: Request) -> Any:
        """Return the request as it is in Redis."""
        return self._queue._encode_request(request)  # noqa: SLF001 (the only place that has the serializer)

    def decode(self, data: Any) -> Request:
        """Return the request."""
        request: Request = self._queue._decode_request(data)  # noqa: SLF001
        return request

    def is_seen(self, request: Request) -> bool:
        """Ask the dupefilter."""
        return bool(self._dupefilter.request_seen(request))

    def fingerprint(self, request: Request) -> tuple[str, str] | None:
        """Return key and fingerprint of scrapy-redis' own dupefilter; None for another one."""
        if not self._is_stock:
            return None
        return self._dupefilter.key, self._dupefilter.request_fingerprint(request)


def _kind_of(queue: Any) -> str:
    """Return the end from which a queue's requests are taken. Raises `ConfigurationError` for an unknown queue."""
    for known, kind in _KINDS.items():
        if isinstance(queue, known) and type(queue).push is known.push and type(queue).pop is known.pop:
            return kind
    raise ConfigurationError(
        f"LeaseScheduler cannot use {type(queue).__module__}.{type(queue).__qualname__} (SCHEDULER_QUEUE_CLASS): it "
        "takes requests by scripts of its own. Set PriorityQueue, FifoQueue or LifoQueue of scrapy_redis.queue, or a "
        "subclass that keeps their push and pop."
    )
