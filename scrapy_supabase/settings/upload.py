"""The settings of uploads: chunk size, concurrency, retries and timeouts."""

from __future__ import annotations

import msgspec

from scrapy_supabase.schema.schema import UnknownColumns
from scrapy_supabase.settings.reader import Reader

MOST_ROWS = 1000  # the usual limit of Supabase and PostgREST for the rows that one request may touch


class UploadConfig(msgspec.Struct, frozen=True):
    """Limits and policies of uploads. Durations are in seconds, sizes in bytes or rows."""

    chunk_rows: int = 100
    most_chunk_rows: int = 100  # greater than `chunk_rows` if chunks may grow
    chunk_bytes: int = 1024 * 1024
    flush_interval: float = 5.0
    concurrency: int = 4
    attempts: int = 3
    delay: float = 1.0
    open_timeout: float = 60.0
    close_timeout: float = 60.0
    max_outage: float | None = None
    insert_fallback: bool = True
    unknown_columns: UnknownColumns = msgspec.field(default_factory=UnknownColumns)

    @property
    def grows(self) -> bool:
        """Whether chunks may grow during the crawl: `BATCH_CHUNK_SIZE = "auto"`."""
        return self.most_chunk_rows > self.chunk_rows


def read_upload(reader: Reader) -> UploadConfig:
    """Read the settings of uploads."""
    defaults, seconds = UploadConfig(), "a number of seconds"
    chunk_rows, most_chunk_rows = read_chunk_size(reader)
    return UploadConfig(
        chunk_rows=chunk_rows,
        most_chunk_rows=most_chunk_rows,
        chunk_bytes=reader.number(
            "BATCH_CHUNK_BYTES", defaults.chunk_bytes, int, 1024, "a whole number of bytes, 1024 or more"
        ),
        flush_interval=reader.number(
            "BATCH_FLUSH_INTERVAL", defaults.flush_interval, float, 0, f"{seconds}, or 0 for never"
        ),
        concurrency=reader.number(
            "SUPABASE_CONCURRENT_UPLOADS", defaults.concurrency, int, 1, "a whole number, 1 or more"
        ),
        attempts=read_attempts(reader),
        delay=read_delay(reader),
        open_timeout=read_open_timeout(reader),
        close_timeout=reader.number(
            "SUPABASE_CLOSE_TIMEOUT", defaults.close_timeout, float, 0, f"{seconds}, 0 or more"
        ),
        max_outage=_max_outage(reader),
        insert_fallback=reader.flag("SUPABASE_INSERT_FALLBACK", defaults.insert_fallback),
        unknown_columns=_unknown_columns(reader),
    )


def read_chunk_size(reader: Reader, name: str = "BATCH_CHUNK_SIZE") -> tuple[int, int]:
    """Return the rows per chunk, at the start and at most. `name` is that of the setting or argument."""
    if reader.raw(name) == "auto":
        return 100, MOST_ROWS
    allowed = f'a whole number of rows, 1 to {MOST_ROWS}, or "auto"'
    number = reader.number(name, 100, int, 1, allowed)
    if number > MOST_ROWS:
        reader.warnings.append(f"{name} is {number}, above the maximum of {MOST_ROWS} rows: {MOST_ROWS} is used.")
    number = min(number, MOST_ROWS)
    return number, number


def read_attempts(reader: Reader) -> int:
    """Return the maximum number of tries of a request, including the first."""
    return reader.number("BATCH_RETRY_ATTEMPTS", 3, int, 1, "a whole number of tries, 1 or more")


def read_delay(reader: Reader) -> float:
    """Return the seconds to wait before the second try."""
    return reader.number("BATCH_RETRY_DELAY", 1.0, float, 0, "a number of seconds, 0 or more")


def read_open_timeout(reader: Reader) -> float:
    """Return the seconds for which a run waits for a busy server at its start."""
    return reader.number("SUPABASE_OPEN_TIMEOUT", 60.0, float, 0, "a number of seconds, 0 or more")


def _unknown_columns(reader: Reader) -> UnknownColumns:
    value = reader.text("SUPABASE_UNKNOWN_COLUMNS", "drop")
    return UnknownColumns(value) if value in ("drop", "reject") else UnknownColumns("collect", value)


def _max_outage(reader: Reader) -> float | None:
    if reader.raw("SUPABASE_MAX_OUTAGE") is None:
        return None
    return reader.number("SUPABASE_MAX_OUTAGE", 0.0, float, 0, "a number of seconds, 0 or more, or None for no limit")
