"""What a spider's side of the crawl needs: the `url` stamp, rows to start from, and requests that are not sent.

A pipeline cannot see the page of an item, so a spider middleware remembers its URL. Items are remembered by identity
until the pipeline takes them: a pipeline before it that replaces the item loses the URL.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakKeyDictionary

from scrapy import Request, signals
from scrapy.exceptions import NotConfigured
from scrapy.spidermiddlewares.base import BaseSpiderMiddleware

from scrapy_supabase.assembly import Destination
from scrapy_supabase.delivery.stored_urls import stored_urls
from scrapy_supabase.delivery.table_reader import TableReader
from scrapy_supabase.errors import ConfigurationError, SupabaseError
from scrapy_supabase.eventloop import EventLoop, close_crawl, is_closing, is_crawl, spider_names, start
from scrapy_supabase.monitoring.stats import count_skipped
from scrapy_supabase.rows.stamps import Stamp
from scrapy_supabase.rows.url_set import UrlSet
from scrapy_supabase.settings.config import Config
from scrapy_supabase.settings.explicit import selection_of
from scrapy_supabase.settings.skip_stored import skips_stored
from scrapy_supabase.settings.tables import uses_url_stamp

if TYPE_CHECKING:
    from scrapy.crawler import Crawler
    from scrapy.http import Response

logger = logging.getLogger(__name__)

SENT_ANYWAY = "supabase_skip_stored"  # the key of `Request.meta` that is False for a request to send in any case
_MAX_ITEMS = 10_000  # remembered at once: an item that another pipeline drops is never taken


class UrlStampMiddleware:
    """Spider middleware that remembers the URL of each item's page.

    `Addon` enables it. Without the add-on, add it to `SPIDER_MIDDLEWARES`.
    """

    def __init__(self) -> None:
        self._urls: OrderedDict[int, str] = OrderedDict()

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Create the middleware. Raises `NotConfigured` if no table uses the `url` stamp."""
        if not uses_url_stamp(crawler.settings):
            raise NotConfigured
        return cls()

    def take(self, item: Any) -> str | None:
        """Return and forget the URL of the page `item` came from; None if unknown."""
        return self._urls.pop(id(item), None)

    def process_spider_output(self, response: Response, result: Iterable[Any]) -> Iterator[Any]:
        """Remember the URL of a page's items."""
        for found in result:
            self._remember(found, response)
            yield found

    async def process_spider_output_async(self, response: Response, result: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Remember the URL of a page's items."""
        async for found in result:
            self._remember(found, response)
            yield found

    def _remember(self, found: Any, response: Response) -> None:
        if not isinstance(found, Request):
            self._urls[id(found)] = response.url
            if len(self._urls) > _MAX_ITEMS:
                self._urls.popitem(last=False)


def url_stamp(crawler: Crawler) -> dict[str, Stamp]:
    """Return the `url` stamp, or nothing if the crawl does not use it.

    Raises `ConfigurationError` if a table uses the stamp and the middleware is not enabled.
    """
    urls = crawler.get_spider_middleware(UrlStampMiddleware)
    if urls is not None:
        return {"url": lambda item, _: urls.take(item)}
    if uses_url_stamp(crawler.settings):
        raise ConfigurationError(
            "The stamp 'url' needs SPIDER_MIDDLEWARES = {'scrapy_supabase.UrlStampMiddleware': 950}, "
            "or ADDONS = {'scrapy_supabase.Addon': 300} instead of the pipeline alone."
        )
    return {}


class SkipStoredMiddleware(BaseSpiderMiddleware):
    """Spider middleware that drops requests whose URL is stored (`SUPABASE_SKIP_STORED`).

    `Addon` enables it. Without the add-on, add it to `SPIDER_MIDDLEWARES`. Requests with `dont_filter=True`, with
    `supabase_skip_stored: False` in their meta, and with a method other than GET are sent.
    """

    def __init__(self, crawler: Crawler) -> None:
        super().__init__(crawler)
        self._stored: dict[str, UrlSet] | None = None  # by table; None until they are read
        crawler.signals.connect(self._open, signals.spider_opened)

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Create the middleware. Raises `NotConfigured` if the setting is not used."""
        if not skips_stored(crawler.settings):
            raise NotConfigured
        return cls(crawler)

    async def _open(self) -> None:
        """Read the stored URLs. Scrapy sends no request before that; without them, the crawl is closed."""
        crawler = self.crawler
        if not is_crawl(crawler):
            self._stored = {}
            return
        try:
            self._stored = await EventLoop().run_in_thread(_source_of(crawler).stored_urls)
        except Exception as error:
            if is_closing(crawler):  # the pipeline has the same problem
                return
            reason = _reason(error)
            logger.error("Closing the crawl before its first page (%s): SUPABASE_SKIP_STORED: %s", reason, error)  # noqa: TRY400 (no traceback)
            await close_crawl(crawler, reason)
            if not isinstance(error, SupabaseError):
                raise

    def get_processed_request(self, request: Request, response: Response | None) -> Request | None:  # noqa: ARG002 (Scrapy's)
        """Return the request, or None if its URL is stored."""
        if self._stored is None:
            return None
        if request.dont_filter or request.method != "GET" or request.meta.get(SENT_ANYWAY) is False:
            return request
        for table, urls in self._stored.items():
            if request.url in urls:
                logger.debug("Not sent, because table %s has the URL: %s", table, request)
                if self.crawler.stats is not None:
                    count_skipped(self.crawler.stats, table)
                return None
        return request


def check_middleware(crawler: Crawler) -> None:
    """Raise `ConfigurationError` if a setting needs a middleware that is not enabled."""
    if skips_stored(crawler.settings) and crawler.get_spider_middleware(SkipStoredMiddleware) is None:
        raise ConfigurationError(
            "SUPABASE_SKIP_STORED needs SPIDER_MIDDLEWARES = {'scrapy_supabase.SkipStoredMiddleware': 100}, "
            "or ADDONS = {'scrapy_supabase.Addon': 300} instead of the pipeline alone."
        )


async def select_rows(
    crawler: Crawler,
    table: str,
    *,
    columns: str | Sequence[str] | None = None,
    where: Mapping[str, Any] | None = None,
    order: str | Sequence[str] = (),
    key: str | Sequence[str] = (),
) -> AsyncIterator[dict[str, Any]]:
    """Yield rows of a table as dicts, for a spider: `async for row in select_rows(self.crawler, "jobs"):`.

    It uses the settings of the pipeline, which need not be enabled, and reads page by page in the background.

    * `columns`: their names (default: all).
    * `where`: a dict of conditions, such as `{"done": False, "tries": {"lt": 3}}` (see docs/how-to/start-from-a-table).
    * `order`: columns to sort by, each ascending or, with `"column.desc"`, descending (default: the key).
    * `key`: columns that identify a row (default: the primary key).

    Values are as JSON has them: times are texts. Those of `numeric` columns are `Decimal`. An error closes the crawl
    and is raised: `ConfigurationError` for wrong settings or arguments, `FatalError` if the table cannot be read.
    """
    loop = EventLoop()
    try:
        select, keys = selection_of(table, columns, where, order, key)
        reader = await loop.run_in_thread(_source_of(crawler).reader)
        pages = reader.pages(select, keys)
        while (page := await loop.run_in_thread(partial(next, pages, None))) is not None:
            for row in page:
                yield row
    except SupabaseError as error:
        reason = _reason(error)
        if is_crawl(crawler) and not is_closing(crawler):
            logger.error("Closing the crawl (%s): reading table %s: %s", reason, table, error)  # noqa: TRY400 (it is raised)
            start(close_crawl(crawler, reason))
        raise


class _Source:
    """The server that one crawler reads from. It connects on first use and disconnects with the spider. Thread-safe."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._destination: Destination | None = None
        self._reader: TableReader | None = None

    def reader(self) -> TableReader:
        """Return the reader. Blocks: a local server may have to start."""
        with self._lock:
            if self._reader is None:
                self._destination = Destination.find(self._config)
                self._reader = self._destination.reader()
            return self._reader

    def stored_urls(self) -> dict[str, UrlSet]:
        """Return table → its URLs, for `SUPABASE_SKIP_STORED`. Blocks. Raises `FatalError`."""
        return {rule.table: stored_urls(self.reader(), rule) for rule in self._config.skip_stored}

    async def close(self) -> None:
        """Disconnect, and release a local server."""
        if self._destination is not None:
            self._destination.deadline.end()
            await EventLoop().run_in_thread(self._destination.close)


_sources: WeakKeyDictionary[Crawler, _Source] = WeakKeyDictionary()  # a source must not refer to its crawler


def _source_of(crawler: Crawler) -> _Source:
    """Return the crawler's source. Raises `ConfigurationError` for wrong settings."""
    source = _sources.get(crawler)
    if source is None:
        config = Config.from_settings(crawler.settings, tables=False, spiders=spider_names(crawler))
        source = _sources[crawler] = _Source(config)
        crawler.signals.connect(source.close, signals.spider_closed)
    return source


def _reason(error: Exception) -> str:
    """Return the finish reason of a crawl that an error ends."""
    return getattr(error, "reason", "supabase_error")
