"""End-to-end tests of spiders: the classes behind the pytest fixture `local_supabase` (extra `local`)."""

from __future__ import annotations

from scrapy_supabase.testing.crawl import CrawlError, CrawlResult
from scrapy_supabase.testing.fixture import LocalSupabaseFixture

__all__ = ["CrawlError", "CrawlResult", "LocalSupabaseFixture"]
