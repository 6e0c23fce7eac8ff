"""The check of `SUPABASE_SKIP_STORED`: can the stored URLs be read?"""

from __future__ import annotations

from collections.abc import Iterator

from scrapy_supabase.backends.base import Backend
from scrapy_supabase.backends.open_policy import OpenPolicy
from scrapy_supabase.checkup.finding import Finding, error, ok
from scrapy_supabase.delivery.stored_urls import selection
from scrapy_supabase.delivery.table_reader import TableReader
from scrapy_supabase.errors import FatalError
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.settings.config import Config


def check_skip_stored(config: Config, backend: Backend, schema: Schema, policy: OpenPolicy) -> Iterator[Finding]:
    """Read one URL of each table."""
    reader = TableReader(backend, schema, policy=policy)
    for rule in config.skip_stored:
        try:
            next(reader.pages(selection(rule, limit=1), (rule.url,)), None)
        except FatalError as failed:
            problem = f"the URLs of table {rule.table} (SUPABASE_SKIP_STORED) cannot be read: {failed.answer}"
            yield error("skip stored", problem, failed.remedy)
        else:
            yield ok("skip stored", f"the URLs of table {rule.table} can be read")
