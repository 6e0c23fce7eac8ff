"""What the Spidermon monitors tolerate."""

from __future__ import annotations

import msgspec

from scrapy_supabase.settings.reader import Reader


class Thresholds(msgspec.Struct, frozen=True):
    """The most that is fine: a fraction of the rows, a number of rows, seconds."""

    failed_rate: float = 0.01
    spooled_rows: int = 0
    upload_age: float = 900.0


def read_thresholds(reader: Reader) -> Thresholds:
    """Read them; a crawl does so at its start, so that a wrong one is not said only when it ends."""
    name, usual = "SUPABASE_MONITOR_MAX_FAILED_RATE", Thresholds()
    allowed = "a fraction of the rows, from 0 for none to 1 (0.01 is one in a hundred)"
    rate = reader.number(name, usual.failed_rate, float, 0, allowed)
    if rate > 1:
        rate = reader.wrong(name, rate, allowed, usual.failed_rate)
    return Thresholds(
        rate,
        reader.number(
            "SUPABASE_MONITOR_MAX_SPOOLED_ROWS", usual.spooled_rows, int, 0, "a whole number of rows, 0 or more"
        ),
        reader.number("SUPABASE_MONITOR_MAX_UPLOAD_AGE", usual.upload_age, float, 0, "a number of seconds, 0 or more"),
    )
