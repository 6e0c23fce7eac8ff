"""The Scrapy item pipeline: opening of a crawl, its items, its end. The crawl is known here and in `eventloop.py`."""

from __future__ import annotations

import atexit
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Self

from scrapy import signals
from scrapy.exceptions import NotConfigured
from scrapy.utils.asyncio import create_looping_call

from scrapy_supabase.assembly import Destination, OpenRun, new_spool
from scrapy_supabase.errors import ConfigurationError, FatalError, ItemError, SupabaseError
from scrapy_supabase.eventloop import EventLoop, close_crawl, fail_command, is_closing, is_crawl, spider_names, start
from scrapy_supabase.middleware import check_middleware, url_stamp
from scrapy_supabase.models import Rejection
from scrapy_supabase.monitoring.counters import Counters
from scrapy_supabase.monitoring.crawl_log import CrawlLog, recover
from scrapy_supabase.monitoring.crawl_observer import CrawlObserver
from scrapy_supabase.monitoring.last_run import LastRunFile
from scrapy_supabase.monitoring.record import Record
from scrapy_supabase.monitoring.run import Run
from scrapy_supabase.monitoring.stats import Stats, figures_of_scrapy
from scrapy_supabase.report import page_of
from scrapy_supabase.rows.children import item_steps
from scrapy_supabase.settings.config import Config, is_enabled
from scrapy_supabase.settings.display import effective_settings

if TYPE_CHECKING:
    from scrapy.crawler import Crawler

logger = logging.getLogger(__name__)


class SupabasePipeline:
    """Item pipeline that uploads every item to Supabase and returns it unchanged.

    Enable it with `ITEM_PIPELINES = {"scrapy_supabase.SupabasePipeline": 300}`. Its settings are documented in
    docs/reference/settings.md.
    """

    def __init__(self, crawler: Crawler, config: Config) -> None:
        self._crawler = crawler
        self._config = config
        self._counters = Counters()
        self._stats = Stats(crawler.stats, self._counters)
        self._take: Callable[[Any], bool] = _takes_none
        self._loop: EventLoop | None = None  # created when the pipeline opens
        self._opening: Future[None] = Future()
        self._destination: Destination | None = None
        self._crawl: _OpenCrawl | None = None

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Create the pipeline from the crawler's settings.

        Raises `ConfigurationError` for wrong settings, and `NotConfigured` if the pipeline is disabled. Outside a
        crawl, wrong settings raise `NotConfigured`, too: Scrapy logs the reason, and `scrapy shell` works.
        """
        if not is_enabled(crawler.settings):
            raise NotConfigured("SUPABASE_ENABLED is False")
        try:
            return cls(crawler, Config.from_settings(crawler.settings, spiders=spider_names(crawler)))
        except ConfigurationError as error:
            if not is_crawl(crawler):
                raise NotConfigured(str(error)) from error
            fail_command()
            logger.error("%s", error)  # noqa: TRY400 (Scrapy adds a long traceback to what is raised)
            raise

    async def open_spider(self) -> None:
        """Check the tables. A problem that makes every upload fail closes the crawl before its first page.

        Outside a crawl, do nothing before the first item: `scrapy shell` needs no server.
        """
        if is_crawl(self._crawler):
            await self._wait_until_open()

    async def _wait_until_open(self) -> None:
        """Open the pipeline on the first call. Later calls wait for it, and continue in their order."""
        if self._loop is None:
            self._loop = EventLoop()
            start(self._open(self._loop))
        await self._loop.wait(self._opening)
        self._opening.result()

    async def _open(self, loop: EventLoop) -> None:
        try:
            self._crawl = await self._open_crawl(loop)
        except BaseException as error:  # noqa: BLE001 (raised in `_wait_until_open`)
            fail_command()
            if isinstance(error, SupabaseError):
                logger.error("%s", error)  # noqa: TRY400 (as above)
            self._opening.set_exception(error)
        else:
            self._opening.set_result(None)

    async def _open_crawl(self, loop: EventLoop) -> _OpenCrawl:
        crawler, config = self._crawler, self._config
        check_middleware(crawler)
        run = Run(crawler.spider.name if crawler.spider else "")
        settings = effective_settings(config)
        record = Record(run.id, run.spider, run.started, config.server.host, settings, self._counters)

        def stop(error: FatalError) -> None:
            logger.error("Closing the crawl (%s): %s", error.reason, error)
            start(close_crawl(crawler, error.reason))

        observer = CrawlObserver(self._counters, record, stop, config.monitors.max_failed, is_crawl(crawler))
        for warning in config.warnings:
            logger.warning("%s", warning)
        destination = self._destination = await loop.run_in_thread(partial(Destination.find, config))
        try:
            with loop.on_early_stop(crawler, destination.deadline.end):
                await loop.run_in_thread(partial(destination.begin, config, run, is_crawl=True))
        except FatalError as error:
            observer.keep_fatal(error)
            logger.error("Closing the crawl before its first page (%s): %s", error.reason, error)  # noqa: TRY400
        spool = await loop.run_in_thread(partial(new_spool, config, destination.schema, run))
        recovered = await loop.run_in_thread(partial(recover, spool, self._counters)) if observer.error is None else ()

        def wake() -> None:
            loop.call_soon_threadsafe(opened.delivery.collect)

        opened = OpenRun(config, run, destination, spool, observer, wake, recovered)
        crawl = _OpenCrawl(crawler, loop, opened, self._stats, observer)
        await crawl.start()
        return crawl

    def process_item(self, item: Any) -> Any:
        """Build and deliver the item's row, and return the item, after a wait under back-pressure.

        Most items take the fast path (`_take`).
        """
        if self._take(item):
            return item
        crawl = self._crawl
        if crawl is None or crawl.is_closed:
            return self._open_first(item)
        try:
            waiting = crawl.add(crawl.build(item))
            self._take = crawl.fast_path(item)
        except ItemError as error:
            crawl.reject((crawl.builder.rejection(item, error),))
            return item
        return item if waiting is None else crawl.return_later(item, waiting)

    async def _open_first(self, item: Any) -> Any:
        await self._wait_until_open()
        if self._crawl is None or self._crawl.is_closed:
            raise RuntimeError("This item came after the spider was closed.")
        start(self._crawl.close_if_stopped())
        taken = self.process_item(item)
        return await taken if isawaitable(taken) else taken

    async def close_spider(self) -> None:
        """Upload the remaining rows within `SUPABASE_CLOSE_TIMEOUT`. Rows not uploaded by then stay in the spool."""
        if self._loop is None:  # never opened: outside a crawl, without an item
            return
        await self._loop.wait(self._opening)  # `scrapy parse` does not wait for its items
        if self._crawl is not None:
            await self._crawl.close()
        elif self._destination is not None:  # opening failed, which has been logged
            await self._loop.run_in_thread(self._destination.close)


class _OpenCrawl:
    """The open pipeline of one crawl: items, periodic work, close."""

    def __init__(self, crawler: Crawler, loop: EventLoop, run: OpenRun, stats: Stats, observer: CrawlObserver) -> None:
        self.builder = run.row_builder(url_stamp(crawler), observer.counters.cleaned)
        self.build, self.add = item_steps(self.builder, run.delivery.add, self.reject)
        self.is_closed = False
        self._crawler = crawler
        self._loop = loop
        self._run = run
        self._stats = stats
        self._observer = observer
        self._delivery = run.delivery
        self._spool = run.spool
        self._file = LastRunFile(run.spool.folder, run.config.monitors.report, run.run.id, page_of)
        self._log = CrawlLog(logger, observer, run.spool.folder, run.config)
        self._process = os.getpid()
        self._close_by = 0.0
        self._ticker = create_looping_call(self._tick)

    async def start(self) -> None:
        """Write the run record, log the destination of rows, and connect to the crawl's signals."""
        await self._loop.run_in_thread(partial(self._file.write, self._recorded()))
        if self._observer.error is None:
            self._log.opened(self._run.destination.described(self._run.config.tables.specs))
        listen = self._crawler.signals.connect
        listen(self.close_if_stopped, signals.spider_opened)
        listen(self._flush, signals.spider_idle)
        listen(self._end_run, signals.spider_closed)
        listen(self._observer.on_item_error, signals.item_error)
        atexit.register(self._end_unclosed)
        self._ticker.start(1.0, now=False)

    def fast_path(self, item: Any) -> Callable[[Any], bool]:
        """Return a function that takes items like this one, whose row has just been added."""
        chunk = self._delivery.open_chunk()
        return (chunk and self.builder.fast_path(item, chunk)) or _takes_none

    def reject(self, rejections: tuple[Rejection, ...]) -> None:
        """Write items that cannot become rows to the reject file."""
        self._spool.reject(rejections)
        for rejection in rejections:
            self._observer.refused(rejection)

    async def return_later(self, item: Any, waiting: Future[None]) -> Any:
        """Return the item when back-pressure ends."""
        await self._loop.wait(waiting)
        return item

    async def close_if_stopped(self) -> None:
        """Close the crawl if a fatal error has stopped the uploads."""
        if self._observer.error is not None:
            await close_crawl(self._crawler, self._observer.error.reason)

    async def close(self) -> None:
        """Upload the remaining rows within `SUPABASE_CLOSE_TIMEOUT`. Rows not uploaded by then stay in the spool."""
        timeout, delivery = self._run.config.upload.close_timeout, self._delivery
        self._close_by = time.monotonic() + timeout
        done = self._run.finish(timeout)
        if delivery.is_offline:
            self._log.unreachable_at_close()
        if not await self._loop.wait(done, timeout):
            self._log.not_uploaded(in_flight=delivery.in_flight, backlog=delivery.backlog)
        self._ticker.stop()
        self._run.stop()
        self._publish()
        self._log.summary()
        self.is_closed = True
        atexit.unregister(self._end_unclosed)

    async def _end_run(self, reason: str) -> None:
        """Do what follows the uploads, now that Scrapy has the finish reason, and disconnect from the server."""
        steps = self._run.last_steps(self._observer, reason, self._crawl_stats)
        try:
            for step in steps:
                seconds = max(self._close_by - time.monotonic(), step.least)
                try:
                    await self._loop.run_in_thread(partial(step.run, seconds, dict(self._crawl_stats)), seconds)
                except TimeoutError:
                    step.timed_out(seconds)
                self._publish()
            if self._log.counts_as_failed(any(step.failed for step in steps)):
                fail_command()
            await self._loop.run_in_thread(partial(self._file.end, self._recorded(reason)))
        finally:
            await self._loop.run_in_thread(self._run.destination.close)

    def _end_unclosed(self) -> None:
        """Keep all rows when the process ends before the crawl is closed, as after a second Ctrl-C."""
        if os.getpid() != self._process:  # a fork of the crawl's process must not touch its files
            return
        self._delivery.abandon()  # rows that are in no file go to the log
        if not self.is_closed:  # `abandon` may just have completed a close that waited for it
            self._spool.close()
            self._log.summary()

    def _tick(self) -> None:
        delivery = self._delivery
        delivery.tick()
        if is_closing(self._crawler) and delivery.release():
            self._log.released()
        if self._file.is_wanted and self._observer.record.is_due():
            start(self._loop.run_in_thread(partial(self._file.write, self._recorded())))
        if (ledger := self._run.run.ledger) is not None and ledger.is_due():
            start(self._loop.run_in_thread(partial(ledger.update, self._observer.counters.totals.copy())))
        self._log.progress(in_flight=delivery.in_flight, backlog=delivery.backlog, is_offline=delivery.is_offline)
        self._publish()

    def _flush(self) -> None:
        self._delivery.flush()
        self._publish()

    def _publish(self) -> None:
        limits = self._delivery.limits
        self._stats.publish(chunk_size=limits.chunk_size, concurrency=limits.concurrency)

    @property
    def _crawl_stats(self) -> dict[str, Any]:
        return self._crawler.stats.get_stats() if self._crawler.stats else {}

    def _recorded(self, reason: str | None = None) -> bytes:
        crawl, offline = figures_of_scrapy(self._crawl_stats), self._delivery.is_offline
        return self._observer.record.encoded(self._spool.folder, offline=offline, reason=reason, crawl=crawl)


def _takes_none(_: Any) -> bool:
    return False
