"""What a crawl logs while rows are rejected: the first of each kind, most of the first rows, too many of all."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from scrapy_supabase.errors import FatalError, ServerError, fatal
from scrapy_supabase.messages import NOT_KEPT, pluralize, sentence
from scrapy_supabase.models import NO_TABLE, Rejection
from scrapy_supabase.monitoring.counters import Counters
from scrapy_supabase.monitoring.record import sample_of

logger = logging.getLogger(__name__)

_FIRST = 200  # rows; a share of fewer says little
_MAX_KINDS = 20  # logged; all are in the reject file


class RejectExamples(dict[tuple[str, str], str]):
    """Table and code → the reason of the first rejected row."""

    def add(self, rejections: Iterable[Rejection]) -> list[tuple[str, str]]:
        """Add the reasons of new kinds, and return these kinds."""
        new = []
        for rejection in rejections:
            kind = rejection.table, rejection.code
            if kind in self or len(self) == _MAX_KINDS:
                continue
            if rejection.code == NOT_KEPT or rejection.table == NO_TABLE:
                continue  # each row that is not kept is logged, and each class without a table
            sample = sample_of(rejection)
            self[kind] = " ".join(sentence(part) for part in (sample.message, sample.details) if part)
            new.append(kind)
        return new


class RejectLog:
    """Logs which rows are rejected. `most` is `SUPABASE_MAX_FAILED`: rows, a fraction below 1, or None."""

    def __init__(self, counters: Counters, most: float | None) -> None:
        self.examples = RejectExamples()
        self._counters = counters
        self._most = most
        self._has_judged = False  # the first rows

    def add(self, rejections: Iterable[Rejection]) -> None:
        """Log the first rejected row of each table and code."""
        for table, code in self.examples.add(rejections):
            reason = self.examples[table, code]
            logger.warning("Table %s: the first rejected row with code %s: %s", table, code, reason)

    def judge(self) -> FatalError | None:
        """Warn once if most of the first rows are rejected. Return an error if `SUPABASE_MAX_FAILED` is exceeded."""
        totals = self._counters.totals
        failed, known = totals["failed"], totals["received"] - totals["waiting"]
        if not self._has_judged and known >= _FIRST:
            self._has_judged = True
            if 2 * failed > known:
                logger.warning(
                    "%d of the first %s are rejected. SUPABASE_MAX_FAILED can close such a crawl.",
                    failed,
                    pluralize(known, "row"),
                )
        most = self._most
        if most is None or failed <= (most * known if 0 < most < 1 else most) or (0 < most < 1 and known < _FIRST):
            return None
        words = ServerError(f"{failed} of {pluralize(known, 'row')} are rejected", code="SUPABASE_MAX_FAILED")
        remedy = f"Fix the table or the spider, or raise the limit, which is {most:g}."
        return fatal(words, "supabase_max_failed", remedy)
