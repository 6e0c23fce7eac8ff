"""The settings of the Spidermon monitors, of the run report, and of the exit code."""

from __future__ import annotations

from pathlib import Path

import msgspec

from scrapy_supabase.settings.reader import Reader

# The values that `SUPABASE_FAIL_ON` may list.
REJECTED_ROWS, SPOOLED_ROWS, AFTER_CRAWL = "rejected", "spooled", "after_crawl"
_FAIL_ON = {REJECTED_ROWS, SPOOLED_ROWS, AFTER_CRAWL}


class Thresholds(msgspec.Struct, frozen=True):
    """The maximum that a monitor accepts: a fraction of the rows, a number of rows, an age in seconds."""

    failed_rate: float = 0.01
    spooled_rows: int = 0
    upload_age: float = 900.0


class MonitorsConfig(msgspec.Struct, frozen=True):
    """The thresholds of the monitors, the file of the report (None: no report), and which rows make a crawl fail."""

    thresholds: Thresholds = msgspec.field(default_factory=Thresholds)
    report: Path | None = None
    fail_on: frozenset[str] = frozenset()  # of _FAIL_ON
    max_failed: float | None = None  # rows, or below 1 a fraction of them


def read_monitors(reader: Reader) -> MonitorsConfig:
    """Read these settings. A crawl reads them at its start, so that a wrong one fails early."""
    return MonitorsConfig(_thresholds(reader), _report(reader), _fail_on(reader), _max_failed(reader))


def _max_failed(reader: Reader) -> float | None:
    name = "SUPABASE_MAX_FAILED"
    allowed = "a whole number of rows, a fraction of the rows below 1 (0.5 for half), or None for no limit"
    if reader.raw(name) is None:
        return None
    most = reader.number(name, 0.0, float, 0, allowed)
    return reader.wrong(name, most, allowed, None) if most >= 1 and most != int(most) else most


def _fail_on(reader: Reader) -> frozenset[str]:
    value = reader.raw("SUPABASE_FAIL_ON", "")
    names = [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
    if not isinstance(names, (list, tuple, set)) or not _FAIL_ON.issuperset(names):
        allowed = '"rejected", "spooled", "after_crawl", or several of them, as in "rejected,spooled"'
        return reader.wrong("SUPABASE_FAIL_ON", value, allowed, frozenset())
    return frozenset(names)


def _thresholds(reader: Reader) -> Thresholds:
    name, defaults = "SUPABASE_MONITOR_MAX_FAILED_RATE", Thresholds()
    allowed = "a fraction of the rows, from 0 for none to 1 (0.01 is one in a hundred)"
    rate = reader.number(name, defaults.failed_rate, float, 0, allowed)
    if rate > 1:
        rate = reader.wrong(name, rate, allowed, defaults.failed_rate)
    return Thresholds(
        rate,
        reader.number(
            "SUPABASE_MONITOR_MAX_SPOOLED_ROWS", defaults.spooled_rows, int, 0, "a whole number of rows, 0 or more"
        ),
        reader.number(
            "SUPABASE_MONITOR_MAX_UPLOAD_AGE", defaults.upload_age, float, 0, "a number of seconds, 0 or more"
        ),
    )


def _report(reader: Reader) -> Path | None:
    value = reader.raw("SUPABASE_REPORT")
    if value is None:
        return None
    if not isinstance(value, (str, Path)) or not str(value).strip() or "\0" in str(value) or Path(value).is_dir():
        return reader.wrong("SUPABASE_REPORT", value, 'the path of a file, such as "report.html", or None', None)
    return Path(value).expanduser().absolute()
