"""Rows that no file keeps, and their place in the log."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from scrapy_supabase.messages import NOT_KEPT, sentence
from scrapy_supabase.models import Rejection, Row

logger = logging.getLogger(__name__)


def not_kept(rows: Iterable[Row], why: str) -> tuple[Rejection, ...]:
    """Return a rejection for each row that was neither uploaded nor kept; `why` is the clause after "and"."""
    text = f"the row was not uploaded, and {why}"
    return tuple(
        Rejection(row.table, row.data, NOT_KEPT, text, columns=row.columns, location=row.location) for row in rows
    )


def log_rows(rejections: tuple[Rejection, ...]) -> None:
    """Log each row in full."""
    for row in rejections:
        text = row.data.decode("utf-8", "replace")
        logger.error("Not stored in table %s (%s): %s The row: %s", row.table, row.code, sentence(row.message), text)
