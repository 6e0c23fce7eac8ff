"""The setting of `contrib.redis.LeaseScheduler`."""

from __future__ import annotations

import os

from scrapy.settings import BaseSettings

from scrapy_supabase.settings.reader import Reader

_DEFAULT = 30.0
_LEAST = 1.0


def lease_time(settings: BaseSettings) -> float:
    """Return the seconds of SUPABASE_LEASE_TIME. Raises `ConfigurationError`."""
    reader = Reader(settings, os.environ)
    seconds = read_lease_time(reader)
    reader.check()
    return seconds


def read_lease_time(reader: Reader) -> float:
    """Read the setting. A crawl without that scheduler reads it, too, so that a wrong one is listed."""
    return reader.number("SUPABASE_LEASE_TIME", _DEFAULT, float, _LEAST, "a number of seconds, 1 or more")
