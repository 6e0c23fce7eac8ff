"""What Scrapy's crawler does not say by itself: whether this is a crawl, and whether it is being closed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scrapy.crawler import Crawler


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
