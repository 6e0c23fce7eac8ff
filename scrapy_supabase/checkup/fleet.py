"""Findings about a fleet: does Redis answer, and what must its workers not have in common?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from scrapy_supabase.checkup.finding import Finding, error, ok, warning
from scrapy_supabase.messages import pluralize
from scrapy_supabase.settings.components import scheduler, scheduler_name
from scrapy_supabase.settings.config import Config
from scrapy_supabase.settings.leases import redis_client
from scrapy_supabase.settings.tables import SNAPSHOT_VERSION
from scrapy_supabase.spool.run_folders import count_live_runs

_LEASES = "scrapy_supabase.contrib.redis"
_STOCK = "scrapy_redis."
_LONGEST_WAIT = 2.0  # seconds for an answer of Redis


def check_fleet(settings: Any, config: Config) -> Iterator[Finding]:
    """Check what workers with a queue in Redis need. Yield nothing for a project with another scheduler."""
    try:
        modules = [one.__module__ for one in scheduler(settings).__mro__]
    except Exception as failed:  # noqa: BLE001 (the crawl reports a scheduler of the user's own that cannot be imported)
        if scheduler_name(settings).startswith(_LEASES):
            yield error("settings", "SCHEDULER cannot be imported", str(failed))
        return
    leases = any(module.startswith(_LEASES) for module in modules)
    if not leases and not any(module.startswith(_STOCK) for module in modules):
        return
    yield from _check_redis(settings)
    if leases:
        yield from _check_spool(config)
    yield from _check_tables(config)


def _check_redis(settings: Any) -> Iterator[Finding]:
    import redis

    try:
        client = redis_client(settings, _LONGEST_WAIT)
        client.ping()
    except (redis.RedisError, ValueError) as failed:
        yield error(
            "redis", f"it does not answer: {failed}", "Start it, or correct REDIS_URL (or REDIS_HOST and REDIS_PORT)."
        )
        return
    yield ok("redis", "it answers")
    with suppress(redis.RedisError, KeyError):  # many hosted ones do not tell
        if client.config_get("appendonly")["appendonly"] == "no":
            yield warning(
                "redis",
                "it writes to its disk from time to time only: a restart of Redis loses the latest requests",
                "Set appendonly yes in redis.conf.",
            )


def _check_spool(config: Config) -> Iterator[Finding]:
    """Check that a killed worker keeps its rows, and that its successor may upload them."""
    folder = config.spool.folder
    if folder is None:
        yield warning(
            "spool",
            "a request is done when its rows are with the pipeline: without a spool, a killed worker loses both",
            "Set SUPABASE_SPOOL_DIR to a folder that the worker's successor has again.",
        )
    elif (number := count_live_runs(folder)) > 1:
        yield warning(
            "spool",
            f"{pluralize(number, 'running crawl')} share {folder}: rows that a killed worker leaves there may be older "
            "than those of the others, and then wait for replay --mode",
            "Set SUPABASE_SPOOL_DIR to a folder per worker, one that its successor has again.",
        )


def _check_tables(config: Config) -> Iterator[Finding]:
    """Check for options that take one process for the whole crawl."""
    for spec in config.tables.specs.values():
        subject = f"table {spec.name}"
        if SNAPSHOT_VERSION in spec.stamps.values():
            yield warning(
                subject,
                "each worker of a fleet takes a snapshot version of its own: no version has all rows of a crawl",
                "Turn SUPABASE_DAILY_SNAPSHOTS off, and put a column with the stamp 'date' into the key.",
            )
        if spec.unseen is not None and not spec.unseen.parent_column:
            yield warning(
                subject,
                "unseen has no effect in a fleet: no worker knows which rows the others stored",
                "Remove the option, and change the rows with SQL after the last worker has ended.",
            )
