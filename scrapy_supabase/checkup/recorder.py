"""What a crawl's checks log, as problems and remedies."""

from __future__ import annotations

import logging
import re

from scrapy_supabase.checkup.policies import upserts_refused
from scrapy_supabase.delivery.table_writer import UPSERTS_REFUSED


class Recorder(logging.Handler):
    """Log handler that keeps the messages of a crawl's check as (problem, remedy)."""

    def __init__(self) -> None:
        super().__init__()
        self.problems: list[tuple[str, str]] = []
        self.logger = logging.Logger("check")
        self.logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message."""
        if record.msg == UPSERTS_REFUSED and isinstance(record.args, tuple):  # its text describes a running crawl
            _, answer, remedy = record.args
            self.problems.append((upserts_refused(str(answer)), str(remedy)))
            return
        # The remedy is last, and begins with "To …".
        text, *remedy = re.split(r" (?=To [a-z ]+, (?:run|set)\b)", record.getMessage(), maxsplit=1)
        self.problems.append((text, "".join(remedy)))
