"""The `url` stamp: a spider middleware that remembers the URL of each item's response, which a pipeline cannot see.

Items are remembered by identity until the pipeline takes them: a pipeline before it that replaces the item loses the
URL.
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
