"""The whole configuration: a frozen `Config` with one part per module of this folder. All wrong values are listed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

import msgspec
from scrapy.settings import BaseSettings

from scrapy_supabase.settings.create import CreateConfig, read_create
from scrapy_supabase.settings.leases import read_lease_time
from scrapy_supabase.settings.monitors import MonitorsConfig, read_monitors
from scrapy_supabase.settings.reader import Reader, read_enabled
from scrapy_supabase.settings.server import ServerConfig, read_server
from scrapy_supabase.settings.skip_stored import SkipRule, read_skip_stored
from scrapy_supabase.settings.spool import SpoolConfig, read_spool
from scrapy_supabase.settings.tables import TablesConfig, read_tables
from scrapy_supabase.settings.upload import UploadConfig, read_upload

TABLE_SETTINGS = (
    "SUPABASE_CONSTANTS",
    "SUPABASE_DAILY_SNAPSHOTS",
    "SUPABASE_EMPTY_TEXT",
    "SUPABASE_IF_CHANGED",
    "SUPABASE_MISSING",
    "SUPABASE_MODE",
    "SUPABASE_NONE",
    "SUPABASE_ON_CONFLICT",
    "SUPABASE_ROW_ID_COLUMN",
    "SUPABASE_STAMPS",
    "SUPABASE_TABLE",
    "SUPABASE_TABLES",
)
"""The settings of tables. Wrong values in them are listed table by table."""

IN_ORDER = (
    "SUPABASE_ENABLED",
    "SUPABASE_KEY",
    "SUPABASE_URL",
    "SUPABASE_BACKEND",
    "SUPABASE_DB_URL",
    *TABLE_SETTINGS,
    "SUPABASE_CREATE_TABLES",
    "SUPABASE_SCHEMA",
    "SUPABASE_INSERT_FALLBACK",
    "SUPABASE_UNKNOWN_COLUMNS",
    "SUPABASE_SKIP_STORED",
    "BATCH_CHUNK_SIZE",
    "BATCH_CHUNK_BYTES",
    "BATCH_FLUSH_INTERVAL",
    "BATCH_RETRY_ATTEMPTS",
    "BATCH_RETRY_DELAY",
    "SUPABASE_TIMEOUT",
    "SUPABASE_CONCURRENT_UPLOADS",
    "SUPABASE_OPEN_TIMEOUT",
    "SUPABASE_CLOSE_TIMEOUT",
    "SUPABASE_MAX_OUTAGE",
    "SUPABASE_SPOOL_DIR",
    "SUPABASE_SPOOL_FSYNC",
    "SUPABASE_SPOOL_MAX_BYTES",
    "SUPABASE_RUNS_TABLE",
    "SUPABASE_AFTER_CRAWL",
    "SUPABASE_FAIL_ON",
    "SUPABASE_MAX_FAILED",
    "SUPABASE_REPORT",
    "SUPABASE_MIGRATIONS",
    "SUPABASE_LEASE_TIME",
    "SUPABASE_MONITOR_MAX_FAILED_RATE",
    "SUPABASE_MONITOR_MAX_SPOOLED_ROWS",
    "SUPABASE_MONITOR_MAX_UPLOAD_AGE",
)
"""All settings of this package, in the order in which wrong values are listed."""

KNOWN = frozenset(IN_ORDER)
"""The names of all settings. A test compares them with docs/reference/settings.md."""


def is_enabled(settings: BaseSettings) -> bool:
    """Return whether the pipeline is switched on. `Config` names a wrong value."""
    return read_enabled(Reader(settings, os.environ))


def schema_name(settings: BaseSettings) -> str:
    """Return the setting or environment variable SUPABASE_SCHEMA. Raises `ConfigurationError`."""
    reader = Reader(settings, os.environ)
    name = reader.text("SUPABASE_SCHEMA", ServerConfig("").schema)
    reader.check()
    return name


class Config(msgspec.Struct, frozen=True):
    """All settings, validated. The caller logs `warnings` once."""

    # Nine fields: one per module of this folder, and two more. All but the first have defaults.

    server: ServerConfig
    tables: TablesConfig = msgspec.field(default_factory=TablesConfig)
    upload: UploadConfig = msgspec.field(default_factory=UploadConfig)
    spool: SpoolConfig = msgspec.field(default_factory=SpoolConfig)
    monitors: MonitorsConfig = msgspec.field(default_factory=MonitorsConfig)
    skip_stored: tuple[SkipRule, ...] = ()
    create: CreateConfig = msgspec.field(default_factory=CreateConfig)
    enabled: bool = True
    warnings: tuple[str, ...] = ()

    @classmethod
    def from_settings(
        cls,
        settings: BaseSettings,
        environ: Mapping[str, str] | None = None,
        *,
        tables: bool = True,
        spiders: Sequence[str] = (),
    ) -> Config:
        """Read all settings. `environ` replaces the environment; with `tables=False`, no table is required or read.

        `spiders` are the names that `{spider}` in names of tables stands for.

        Raises `ConfigurationError`, which lists every wrong value and what is allowed.
        """
        reader = Reader(settings, os.environ if environ is None else environ)
        enabled = read_enabled(reader)
        server = read_server(reader)
        tables_config = read_tables(reader, routes=tables, spiders=spiders)
        read_lease_time(reader)  # of a scheduler, which is created without this configuration
        upload, spool, monitors = read_upload(reader), read_spool(reader), read_monitors(reader)
        skip_stored, create = read_skip_stored(reader, spiders), read_create(reader, server)
        reader.problems.sort(key=_position)
        _warn_of_misspelt(reader)
        reader.check()
        warnings = tuple(reader.warnings)
        return cls(server, tables_config, upload, spool, monitors, skip_stored, create, enabled, warnings)


def _position(problem: str) -> int:
    """Return the sort key of a problem, which starts with the name of its setting."""
    name = re.split(r"\W", problem, maxsplit=1)[0]
    return IN_ORDER.index(TABLE_SETTINGS[0] if name in TABLE_SETTINGS else name)


_ALIKE = {"setting": 0.85, "variable": 0.92}
"""How similar a misspelt name must be to that of a setting. Variables may belong to other programs."""


def _warn_of_misspelt(reader: Reader) -> None:
    names = {**dict.fromkeys(reader.variables(), "variable"), **dict.fromkeys(reader.names(), "setting")}
    for name, kind in names.items():
        if not name.startswith(("SUPABASE_", "BATCH_")) or name in KNOWN:
            continue
        from difflib import get_close_matches  # few crawls need it

        close = get_close_matches(name, KNOWN, 1, _ALIKE[kind])
        if close and (kind == "setting" or not reader.is_set(close[0])):
            message = f"{name} is not a setting of scrapy-supabase and has no effect. Did you mean {close[0]}?"
            if reader.problems:  # a misspelt name may be why a setting is missing: list it first
                reader.problems.insert(0, message)
            else:
                reader.warnings.append(message)
