"""The Scrapy seam and composition root: nothing else knows a crawler."""

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

from scrapy_supabase.assembly import assemble, begin, find_server, new_backend, new_schema, new_spool
from scrapy_supabase.backends.retry import Patience
from scrapy_supabase.errors import ConfigurationError, FatalError, ItemError, SupabaseError
from scrapy_supabase.eventloop import EventLoop, is_closing, is_crawl, start
from scrapy_supabase.messages import counted, kept_rows, outdated_rows, rejected_rows
from scrapy_supabase.middleware import UrlStampMiddleware
from scrapy_supabase.monitoring.accounts import Accounts
from scrapy_supabase.monitoring.last_run import LastRun, LastRunFile
from scrapy_supabase.monitoring.record import Record
from scrapy_supabase.monitoring.run import Run, log_no_end
from scrapy_supabase.monitoring.stats import Stats, figures_of_scrapy
from scrapy_supabase.rows.builder import RowBuilder
from scrapy_supabase.rows.stamps import Stamp, stamps_of
from scrapy_supabase.settings.config import Config
from scrapy_supabase.settings.shown import in_force
from scrapy_supabase.settings.tables import uses_url_stamp
from scrapy_supabase.spool.base import Spool
from scrapy_supabase.spool.disk import DiskSpool
from scrapy_supabase.spool.reject_file import REJECTED

if TYPE_CHECKING:
    from scrapy.crawler import Crawler

    from scrapy_supabase.local import LocalSupabase

logger = logging.getLogger(__name__)

_PROGRESS_EVERY = 60.0  # seconds
_LEDGER_TAKES = 2.0  # seconds, which it is given after `SUPABASE_CLOSE_TIMEOUT`


class SupabasePipeline:
    """Uploads every item to Supabase and hands it on unchanged.

    `ITEM_PIPELINES = {"scrapy_supabase.SupabasePipeline": 300}`; the settings are in docs/reference/settings.md.
    """

    def __init__(self, crawler: Crawler, config: Config) -> None:
        self._crawler = crawler
        self._config = config
        self._stats = Stats(crawler.stats)
        self._take: Callable[[Any], bool] = _takes_none
        self._local: LocalSupabase | None = None
        self._fatal: FatalError | None = None
        self._opened = False
        self._opening: Future[None] | None = None
        self._loop: EventLoop

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Read the settings. Raises `ConfigurationError`, or `NotConfigured` where the pipeline is switched off.

        `NotConfigured` also for wrong settings where this is no crawl: Scrapy says why, and `scrapy shell` goes on.
        """
        if not crawler.settings.getbool("SUPABASE_ENABLED", True):
            raise NotConfigured("SUPABASE_ENABLED is False")
        try:
            return cls(crawler, Config.from_settings(crawler.settings))
        except ConfigurationError as error:
            if not is_crawl(crawler):
                raise NotConfigured(str(error)) from error
            logger.error("%s", error)  # noqa: TRY400 (plainly: Scrapy prints what is raised below a long traceback)
            raise

    async def open_spider(self) -> None:
        """Check the tables. What no upload can survive closes the crawl before a page is fetched.

        Where this is no crawl, nothing is done before there is an item: `scrapy shell` needs no server.
        """
        if is_crawl(self._crawler):
            await self._wait_until_open()

    async def _wait_until_open(self) -> None:
        """Open, for the first who asks; the others wait, and go on in the order in which they came."""
        if self._opening is None:
            self._opening, self._loop = Future(), EventLoop()
            start(self._open(self._opening))
        await self._loop.wait(self._opening)
        self._opening.result()

    async def _open(self, opening: Future[None]) -> None:
        try:
            await self._open_all()
        except BaseException as error:  # noqa: BLE001 (raised where it is waited for)
            if isinstance(error, SupabaseError):
                logger.error("%s", error)  # noqa: TRY400 (as above)
            opening.set_exception(error)
        else:
            opening.set_result(None)

    async def _open_all(self) -> None:
        self._run = Run(self._crawler.spider.name if self._crawler.spider else "")
        self._patience = Patience()
        run, config = self._run, self._config
        self._record = Record(run.id, run.spider, run.started, config.server.host, in_force(config))
        self._accounts = Accounts(self._stats, self._record, self._fail)
        for warning in self._config.warnings:
            logger.warning("%s", warning)
        try:
            await self._loop.run_in_thread(self._connect)
        except FatalError as error:
            self._fatal = error
            self._record.on_fatal(error)
            logger.error(  # noqa: TRY400 (what the server says is enough)
                "Closing the crawl before its first page (%s): %s", error.reason, error
            )
        await self._loop.run_in_thread(self._open_spool)
        self._leave_outdated()
        self._compose()
        await self._loop.run_in_thread(partial(self._kept.write, self._recorded()))
        if not self._fatal:
            server, upload = self._config.server, self._config.upload
            logger.info(
                "Uploading to %s%s: %s; %s a chunk%s, %d at once; spool: %s",
                server.host,
                " over a database connection" if server.db_url else "",
                self._described(),
                counted(upload.chunk_rows, "row"),
                " at first" if upload.grows else "",
                upload.concurrency,
                self._spool.folder or "none",
            )
        listen = self._crawler.signals.connect
        listen(self._close_if_fatal, signals.spider_opened)
        listen(self._flush, signals.spider_idle)
        listen(self._end_run, signals.spider_closed)
        self._build, self._add = self._rows.build, self._delivery.add
        self._opened = True
        self._process = os.getpid()
        atexit.register(self._end_unclosed)
        self._last_progress = time.monotonic()
        self._ticker = create_looping_call(self._tick)
        self._ticker.start(1.0, now=False)

    def process_item(self, item: Any) -> Any:
        """Build the row, deliver it, wait only if told to, return the item. Most items go a shorter way."""
        try:
            if self._take(item):
                return item
            if not self._opened:
                return self._open_first(item)
            waiting = self._add(self._build(item))
            self._take = self._short_way(item)
        except ItemError as error:
            self._refuse(item, error)
            return item
        return item if waiting is None else self._return_later(item, waiting)

    async def _open_first(self, item: Any) -> Any:
        await self._wait_until_open()
        if not self._opened:
            raise RuntimeError("The spider was closed before this item came.")
        start(self._close_if_fatal())
        taken = self.process_item(item)
        return await taken if isawaitable(taken) else taken

    async def close_spider(self) -> None:
        """Upload the rest within `SUPABASE_CLOSE_TIMEOUT`; what is not uploaded by then stays in the spool."""
        if self._opening is not None:  # `scrapy parse` does not wait for its items
            await self._loop.wait(self._opening)
        if not self._opened:  # there was no item; or it failed while it opened, and that was said
            if self._local is not None:
                await self._loop.run_in_thread(self._local.stop)
            return
        self._close_by = time.monotonic() + self._config.upload.close_timeout
        self._patience.limit(self._config.upload.close_timeout)
        done = self._delivery.finish()
        if self._delivery.is_offline:
            logger.info(
                "The server is unreachable: waiting up to %g s for it (SUPABASE_CLOSE_TIMEOUT).%s",
                self._config.upload.close_timeout,
                " What is not uploaded by then is left to the next run." if self._spool.folder else "",
            )
        if not await self._loop.wait(done, self._config.upload.close_timeout):
            logger.warning(
                "Not uploaded after %g s (SUPABASE_CLOSE_TIMEOUT): %s in flight, %d waiting.%s",
                self._config.upload.close_timeout,
                counted(self._delivery.in_flight, "chunk"),
                self._delivery.backlog,
                " They are left to the next run." if self._spool.folder else "",
            )
        self._ticker.stop()
        self._patience.end()
        self._delivery.abandon()
        self._delivery.close()
        self._spool.close()
        self._publish()
        self._summarize()
        self._opened = False
        atexit.unregister(self._end_unclosed)

    async def _end_run(self, reason: str) -> None:
        """Write report and ledger, when Scrapy knows why the crawl ended, and leave the server."""
        stats = self._crawler.stats.get_stats() if self._crawler.stats else {}
        try:
            table = self._config.tables.runs_table
            if table is not None and self._run.begun:
                end = partial(self._run.end, self._backend, table, reason, self._stats.totals, dict(stats))
                rest = max(self._close_by - time.monotonic(), _LEDGER_TAKES)
                try:
                    await self._loop.run_in_thread(end, rest)
                except TimeoutError:
                    log_no_end(table, f"no answer for {rest:.0f} s")
            await self._loop.run_in_thread(partial(self._kept.end, self._recorded(reason)))
        finally:
            self._backend.close()
            if self._local is not None:
                await self._loop.run_in_thread(self._local.stop)

    def _connect(self) -> None:
        """Find the server and learn the tables. Runs in a thread."""
        config = self._config
        config, self._local = find_server(config)
        self._schema = new_schema(config)
        self._backend = new_backend(config)
        begin(config, self._backend, self._schema, self._run, self._patience)

    def _open_spool(self) -> None:
        """Make room on disk, and take over what dead runs left. Runs in a thread."""
        self._spool: Spool = new_spool(self._config, self._schema, self._run)
        self._kept = LastRunFile(self._spool.folder, self._config.monitors.report, self._run.id, _page_of)
        self._recovered = self._spool.recover() if isinstance(self._spool, DiskSpool) and not self._fatal else []
        if self._recovered:
            logger.info(
                "Earlier runs left %s (%d bytes) in the spool, to be uploaded beside the rows of this one.",
                *(counted(len(self._recovered), "chunk"), sum(stored.size for stored in self._recovered)),
            )

    def _leave_outdated(self) -> None:
        """Count and report rows of earlier runs that are not uploaded because newer ones may be stored."""
        if isinstance(self._spool, DiskSpool) and (rows := self._spool.outdated):
            self._accounts.outdated(rows)
            logger.warning("Not uploaded: %s. %s", *outdated_rows(rows, self._spool.folder))

    def _compose(self) -> None:
        config, schema = self._config, self._schema
        self._rows = RowBuilder(config.tables.routes, schema, self._stamps(), self._stats.cleaned)
        self._delivery = assemble(
            config, self._backend, schema, self._spool, self._accounts, self._patience, self._wake, self._recovered
        )

    def _wake(self) -> None:
        self._loop.call_soon_threadsafe(self._collect)

    def _collect(self) -> None:
        self._delivery.collect()

    def _fail(self, error: FatalError) -> None:
        if self._fatal is None:
            self._stop_crawl(error)
            start(self._close_if_fatal())

    def _stop_crawl(self, error: FatalError) -> None:
        self._fatal = error
        self._record.on_fatal(error)
        logger.error("Closing the crawl (%s): %s", error.reason, error)

    async def _close_if_fatal(self) -> None:
        if self._fatal is not None and self._crawler.engine is not None:
            await self._crawler.engine.close_spider_async(reason=self._fatal.reason)

    async def _return_later(self, item: Any, waiting: Future[None]) -> Any:
        await self._loop.wait(waiting)
        return item

    def _short_way(self, item: Any) -> Callable[[Any], bool]:
        chunk = self._delivery.open_chunk()
        return (chunk and self._rows.short_way(item, chunk)) or _takes_none

    def _publish(self) -> None:
        limits = self._delivery.limits
        self._stats.publish(chunk_size=limits.chunk_size, concurrency=limits.concurrency)

    def _refuse(self, item: Any, error: ItemError) -> None:
        rejection = self._rows.rejection(item, error)
        self._spool.reject((rejection,))
        self._accounts.refused(rejection)

    def _tick(self) -> None:
        self._delivery.tick()
        if is_closing(self._crawler) and self._delivery.release():
            timeout, folder = self._config.upload.close_timeout, self._spool.folder
            logger.warning(
                "The crawl is being closed, so items do not wait for uploads any more. Rows that are not uploaded "
                "within %g s after the last item (SUPABASE_CLOSE_TIMEOUT) %s.",
                timeout,
                f"stay in {folder}, or go to this log if they cannot be written there" if folder else "go to this log",
            )
        if self._kept.is_wanted and self._record.is_due():
            start(self._loop.run_in_thread(partial(self._kept.write, self._recorded())))
        now = time.monotonic()
        if now - self._last_progress >= _PROGRESS_EVERY:
            totals, seconds = self._stats.totals, now - self._last_progress
            uploaded = totals["uploaded"]
            logger.info(
                "%s uploaded (%d rows/min), %s in flight, %d on disk%s, %s rejected",
                *(counted(uploaded, "row"), 60 * (uploaded - self._uploaded_before) / seconds),
                *(counted(self._delivery.in_flight, "chunk"), self._delivery.backlog),
                *(": the server is unreachable" if self._delivery.is_offline else "", totals["failed"]),
            )
            self._last_progress, self._uploaded_before = now, uploaded
        self._publish()

    _uploaded_before = 0

    def _recorded(self, reason: str | None = None) -> bytes:
        stats = self._crawler.stats.get_stats() if self._crawler.stats else {}
        folder, cut_off = self._spool.folder, self._delivery.is_offline
        return self._record.encoded(
            str(folder) if folder else None, cut_off=cut_off, reason=reason, crawl=figures_of_scrapy(stats)
        )

    def _flush(self) -> None:
        self._delivery.flush()
        self._publish()

    def _summarize(self) -> None:
        totals = self._stats.totals
        logger.info(
            "%s received: %d uploaded in %s, %d superseded by a newer row of the same key, %d rejected, %d left in the "
            "spool",
            *(counted(totals["received"], "row"), totals["uploaded"], counted(totals["request"], "request")),
            *(totals["superseded"], totals["failed"], totals["spooled"]),
        )
        if totals["chunk"] and (settled := self._stats.settled_chunks):
            logger.info(
                "%s (%d failed, %.3f s on average), %s sent again",
                *(counted(totals["chunk"], "chunk"), totals["chunk_failed"], totals["upload_seconds"] / settled),
                counted(totals["retry"], "request"),
            )
        if any(totals[f"recovered{part}"] for part in ("", "_superseded", "_failed", "_spooled")):
            logger.info(
                "Of earlier runs: %s uploaded, %d rejected, %d superseded by a newer row of the same key, %d left",
                *(counted(totals["recovered"], "row"), totals["recovered_failed"], totals["recovered_superseded"]),
                totals["recovered_spooled"],
            )
        folder = self._spool.folder
        if folder and (left := totals["spooled"] + totals["recovered_spooled"]):
            logger.error("%s", kept_rows(left, folder))
        if failed := totals["failed"] + totals["recovered_failed"]:
            logger.error("%s", rejected_rows(failed, self._stats.rejected_by_code, folder and folder / REJECTED))

    def _end_unclosed(self) -> None:
        """The process ends before the crawl was closed: at a second Ctrl-C, Scrapy waits for nothing."""
        if os.getpid() != self._process:  # a fork of the crawl's process must not touch its files
            return
        self._delivery.abandon()  # rows that are in no file go to the log
        if self._opened:  # else the close, which had waited for that, has just come to its end
            self._spool.close()
            self._summarize()

    def _described(self) -> str:
        def one(table: str) -> str:
            info = self._schema.info(table)
            return f"{table} ({counted(len(info.columns), 'column')})" if info else table

        return ", ".join(map(one, self._config.tables.specs))

    def _stamps(self) -> dict[str, Stamp]:
        urls = self._crawler.get_spider_middleware(UrlStampMiddleware)
        if urls is None and uses_url_stamp(self._crawler.settings):
            raise ConfigurationError(
                "The stamp 'url' needs SPIDER_MIDDLEWARES = {'scrapy_supabase.UrlStampMiddleware': 950}, "
                "or ADDONS = {'scrapy_supabase.Addon': 300} instead of the pipeline alone."
            )
        stamps = stamps_of(self._run)
        return {**stamps, "url": lambda item, _: urls.take(item)} if urls else stamps


def _takes_none(_: Any) -> bool:
    return False


def _page_of(run: LastRun) -> str:
    from scrapy_supabase.report import page_of  # only here: most crawls have no page

    return page_of(run)
