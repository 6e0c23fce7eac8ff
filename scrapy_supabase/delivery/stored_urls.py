"""Reads the URLs of a table into memory, for `SUPABASE_SKIP_STORED`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

from scrapy_supabase.backends.base import Select
from scrapy_supabase.backends.filters import Condition
from scrapy_supabase.delivery.table_reader import TableReader
from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.rows.url_set import UrlSet
from scrapy_supabase.settings.skip_stored import SkipRule

logger = logging.getLogger(__name__)

_PAGE = 10_000  # rows per request; over REST the server's limit, by default 1,000 rows
_PROGRESS = 10.0  # seconds between two lines in the log


def selection(rule: SkipRule, *, limit: int = _PAGE) -> Select:
    """Return the request for the URLs that a rule selects."""
    where = [*rule.where, Condition(rule.url, "not_null")]
    if rule.younger_than is not None:
        since = (datetime.now(UTC) - rule.younger_than).isoformat()
        where.append(Condition(rule.time, "gte", (since,)))
    return Select(rule.table, (rule.url,), tuple(where), limit=limit)


def stored_urls(reader: TableReader, rule: SkipRule, clock: Callable[[], float] = time.monotonic) -> UrlSet:
    """Return the URLs of the rows that a rule selects. Blocks. Raises `SupabaseError`. `clock` returns seconds."""
    # A primary key has an index. Equal URLs on two pages, which the order by URL would lose, are one URL here.
    key = reader.primary_key(rule.table) or (rule.url,)
    found, rows, due = UrlSet(), 0, clock() + _PROGRESS
    for page in reader.pages(selection(rule), key):
        urls = [row[rule.url] for row in page]
        if not all(isinstance(url, str) for url in urls):
            problem = f"Column {rule.url!r} of table {rule.table} has no texts: name the column with the URL."
            raise ConfigurationError(problem)
        found.add(urls)
        rows += len(page)
        if clock() >= due:
            logger.info("Reading the stored URLs of table %s: %s rows so far.", rule.table, f"{rows:,}")
            due = clock() + _PROGRESS
    found.freeze()
    number = f"{len(found):,} stored URL{'' if len(found) == 1 else 's'}"
    logger.info("Requests for %s of table %s are skipped.", number, rule.table)
    return found
