"""The event loop of a crawl in each of Scrapy's three modes: asyncio reactor, another reactor, no reactor.

Also facts that Scrapy has no API for: whether a crawler runs a real crawl, whether it is closing, and which requests
are in progress.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar, cast

from scrapy.commands import ScrapyCommand
from scrapy.utils.asyncio import CallLaterResult, call_later, create_looping_call, is_asyncio_available
from scrapy.utils.defer import deferred_from_coro, maybe_deferred_to_future
from twisted.internet.defer import Deferred

if TYPE_CHECKING:
    from scrapy import Request
    from scrapy.crawler import Crawler

T = TypeVar("T")

_LOOK_EVERY = 0.2  # seconds


class EventLoop:
    """The event loop that runs the crawl. Create it in the crawl's thread, while the loop runs."""

    def __init__(self) -> None:
        self._call: Callable[..., object]
        if is_asyncio_available():
            self._call = asyncio.get_running_loop().call_soon_threadsafe
        else:
            from twisted.internet import reactor

            self._call = reactor.callFromThread

    def call_soon_threadsafe(self, func: Callable[..., object], *arguments: object) -> None:
        """Schedule a call of `func` in the crawl's thread. A call after the loop has closed is dropped."""
        with suppress(RuntimeError):
            self._call(func, *arguments)

    @contextmanager
    def on_early_stop(self, crawler: Crawler, call: Callable[[], None]) -> Iterator[None]:
        """Call `call` if the crawl is stopped (Ctrl-C) within the context, before its engine runs.

        Scrapy sends no signal for this. Without a reactor, it goes on opening the spider, and then crawls.
        """
        if not crawler.crawling:  # outside of a crawl
            yield
            return

        def look() -> None:
            if not crawler.crawling:
                call()

        ticker = create_looping_call(look)
        ticker.start(_LOOK_EVERY, now=False)
        try:
            yield
        finally:
            ticker.stop()

    async def wait(self, future: Future[T], timeout: float | None = None) -> bool:
        """Wait for a future that is completed in this thread. Return False after `timeout` seconds."""
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
        """Run `func` in a new thread and return its result. The shared pool is not used: it also resolves DNS names.

        Raises `TimeoutError` after `timeout` seconds; the thread keeps running.
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
            except BaseException as error:  # noqa: BLE001 (raised in the crawl's thread)
                failed = error
            self.call_soon_threadsafe(finish, result, failed)

        threading.Thread(target=run, name="supabase-open", daemon=True).start()
        if not await self.wait(future, timeout):
            raise TimeoutError
        return future.result()


def start(coroutine: Coroutine[Any, Any, Any]) -> Awaitable[Any]:
    """Start a coroutine without waiting for it."""
    return deferred_from_coro(coroutine)


def spider_names(crawler: Crawler) -> list[str]:
    """Return the name of the crawler's spider in a list, which is empty if there is none."""
    name = crawler.spider.name if crawler.spider else getattr(crawler.spidercls, "name", None)
    return [name] if name else []


def is_crawl(crawler: Crawler) -> bool:
    """Return whether this is a real crawl, and not `scrapy shell`, `fetch`, `view`, `parse` or `check`.

    `scrapy shell` starts an engine without `Crawler.crawl`, the only place that sets `crawling`. The other four replace
    the spider's `start`. Nothing else identifies them in Scrapy 2.14 to 2.19: their settings, arguments and spider
    classes differ between commands and between versions.
    """
    start = getattr(type(crawler.spider), "start", None)
    return crawler.crawling and not str(getattr(start, "__module__", "")).startswith("scrapy.commands.")


def is_closing(crawler: Crawler) -> bool:
    """Return whether Scrapy is closing the crawl and waits for its last items.

    Scrapy sends no signal for this before the last item is processed. The engine's slot is what the engine itself
    checks, since Scrapy 2.15. Without a slot, return False: items then wait as in the middle of a crawl.
    """
    slot = getattr(crawler.engine, "_slot", None)
    return getattr(slot, "closing", None) is not None


def requests_in_progress(crawler: Crawler) -> Collection[Request]:
    """Return the requests that the engine took from the scheduler and is not through with.

    A request stays in this set until its items have been through all pipelines and its new requests have been given to
    the scheduler, however it ends (Scrapy 2.14 to 2.19). Raises `RuntimeError` if the engine has no such set.
    """
    found = getattr(getattr(crawler.engine, "_slot", None), "inprogress", None)
    if found is None:
        raise RuntimeError("This version of Scrapy is not supported: its engine does not list requests in progress.")
    return cast("Collection[Request]", found)


def fail_command() -> None:
    """Set the exit code of the `scrapy` command that runs this crawl to 1. Do nothing in a script.

    Call it in the crawl's thread: every command starts the crawl in its `run`, so that the command is on the call
    stack. Scrapy itself sets the exit code only for crawls that could not start (`bootstrap_failed`; before 2.15 not
    even for all of these).
    """
    frame = inspect.currentframe()
    while frame is not None:
        command = frame.f_locals.get("self")
        if isinstance(command, ScrapyCommand):
            command.exitcode = 1
            return
        frame = frame.f_back


async def close_crawl(crawler: Crawler, reason: str) -> None:
    """Close the crawl, with exit code 1. Do nothing if its engine has stopped already."""
    fail_command()
    if crawler.engine is not None:
        await crawler.engine.close_spider_async(reason=reason)
