"""The setting of `contrib.redis.LeaseScheduler`, and the Redis that the settings of scrapy-redis name."""

from __future__ import annotations

import os
from typing import Any

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


def redis_client(settings: BaseSettings, longest_wait: float) -> Any:
    """Return a client that waits `longest_wait` seconds for an answer. Raises `ValueError` for a wrong URL."""
    from scrapy_redis.connection import get_redis_from_settings

    settings = settings.copy()
    waits = {"socket_timeout": longest_wait, "socket_connect_timeout": longest_wait, "retry_on_timeout": False}
    settings.set("REDIS_PARAMS", {**settings.getdict("REDIS_PARAMS"), **waits}, "cmdline")
    return get_redis_from_settings(settings)
