"""The `url` stamp: a pipeline is not told an item's response; a spider middleware is, and remembers its URL.

The memory is by identity and of items on their way only: a pipeline that replaces the item loses it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Self

from scrapy import Request
from scrapy.exceptions import NotConfigured

from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.rows.stamps import Stamp
from scrapy_supabase.settings.tables import uses_url_stamp

if TYPE_CHECKING:
    from scrapy.crawler import Crawler
    from scrapy.http import Response

_MOST = 10_000  # items on their way at once; those that another pipeline drops are never asked for


class UrlStampMiddleware:
    """Remembers the URL of each item's page. `Addon` enables it; else add it to `SPIDER_MIDDLEWARES`."""

    def __init__(self) -> None:
        self._urls: OrderedDict[int, str] = OrderedDict()

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Be active only where a stamp asks for it."""
        if not uses_url_stamp(crawler.settings):
            raise NotConfigured
        return cls()

    def take(self, item: Any) -> str | None:
        """Return the URL of the page `item` came from, once; None where it is not known."""
        return self._urls.pop(id(item), None)

    def process_spider_output(self, response: Response, result: Iterable[Any]) -> Iterator[Any]:
        """Note the items of a page."""
        for found in result:
            self._note(found, response)
            yield found

    async def process_spider_output_async(self, response: Response, result: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Note the items of a page."""
        async for found in result:
            self._note(found, response)
            yield found

    def _note(self, found: Any, response: Response) -> None:
        if not isinstance(found, Request):
            self._urls[id(found)] = response.url
            if len(self._urls) > _MOST:
                self._urls.popitem(last=False)


def url_stamp(crawler: Crawler) -> dict[str, Stamp]:
    """Return the stamp, if the crawl has the middleware. Raises `ConfigurationError` if it lacks it and needs it."""
    urls = crawler.get_spider_middleware(UrlStampMiddleware)
    if urls is not None:
        return {"url": lambda item, _: urls.take(item)}
    if uses_url_stamp(crawler.settings):
        raise ConfigurationError(
            "The stamp 'url' needs SPIDER_MIDDLEWARES = {'scrapy_supabase.UrlStampMiddleware': 950}, "
            "or ADDONS = {'scrapy_supabase.Addon': 300} instead of the pipeline alone."
        )
    return {}
