"""The crawl's thread, whichever of Scrapy's three modes runs it: asyncio reactor, another reactor, no reactor.

Also what Scrapy's crawler does not tell of itself: whether this is a crawl, and whether it is being closed.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from scrapy.utils.asyncio import CallLaterResult, call_later, is_asyncio_available
from scrapy.utils.defer import deferred_from_coro, maybe_deferred_to_future
from twisted.internet.defer import Deferred

if TYPE_CHECKING:
    from scrapy.crawler import Crawler

T = TypeVar("T")


class EventLoop:
    """Must be made in the crawl's thread, while the loop runs."""

    def __init__(self) -> None:
        self._call: Callable[..., object]
        if is_asyncio_available():
            self._call = asyncio.get_running_loop().call_soon_threadsafe
        else:
            from twisted.internet import reactor

            self._call = reactor.callFromThread

    def call_soon_threadsafe(self, func: Callable[..., object], *arguments: object) -> None:
        """Have `func` called in the crawl's thread; never, where the loop is closed and the process ends."""
        with suppress(RuntimeError):
            self._call(func, *arguments)

    async def wait(self, future: Future[T], timeout: float | None = None) -> bool:
        """Wait for a future that is completed in this thread. False if it took longer than `timeout` seconds."""
        if future.done():
            return True
        woken: Deferred[None] = Deferred()

        def wake(*_: object) -> None:
            if not woken.called:
                woken.callback(None)

        future.add_done_callback(wake)
        timer: CallLaterResult | None = call_later(timeout, wake) if timeout is not None else None
        await maybe_deferred_to_future(woken)
        if timer is not None:
            timer.cancel()
        return future.done()

    async def run_in_thread(self, func: Callable[[], T], timeout: float | None = None) -> T:
        """Run `func` in a thread of its own; never in the shared pool, which also resolves names for the crawl.

        Raises `TimeoutError` if it takes longer than `timeout` seconds; the thread goes on.
        """
        future: Future[T] = Future()

        def finish(result: T | None, error: BaseException | None) -> None:
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]

        def run() -> None:
            result, failed = None, None
            try:
                result = func()
            except BaseException as error:  # noqa: BLE001 (handed over to the crawl's thread)
                failed = error
            self.call_soon_threadsafe(finish, result, failed)

        threading.Thread(target=run, name="supabase-open", daemon=True).start()
        if not await self.wait(future, timeout):
            raise TimeoutError
        return future.result()


def start(coroutine: Coroutine[Any, Any, Any]) -> Awaitable[Any]:
    """Run a coroutine without waiting for it."""
    return deferred_from_coro(coroutine)


def is_crawl(crawler: Crawler) -> bool:
    """Whether the spider runs as it was written, so that items are expected.

    `scrapy shell` makes an engine without `Crawler.crawl`, which alone sets `crawling`. `fetch`, `view`, `parse` and
    `check` put a `start` of their own in the place of the spider's, and that is all they have in common in Scrapy 2.15
    to 2.19: their settings, arguments and spider classes differ from each other and from version to version.
    """
    start = getattr(type(crawler.spider), "start", None)
    return crawler.crawling and not str(getattr(start, "__module__", "")).startswith("scrapy.commands.")


def is_closing(crawler: Crawler) -> bool:
    """Whether the crawl is being closed, by a signal or any other reason: Scrapy waits for its items, then closes.

    There is no signal for that before the last item is through. The slot is what the engine itself asks, in all
    versions from 2.15 on; where it is missing, the answer is no, and items wait as they would in mid-crawl.
    """
    slot = getattr(crawler.engine, "_slot", None)
    return getattr(slot, "closing", None) is not None


async def close_crawl(crawler: Crawler, reason: str) -> None:
    """Have Scrapy close the crawl; nothing, where there is no engine any more."""
    if crawler.engine is not None:
        await crawler.engine.close_spider_async(reason=reason)
