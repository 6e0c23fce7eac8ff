"""The only reader of Scrapy's settings and of the environment: one frozen `Config`, every mistake said at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scrapy.exceptions import NotConfigured
from scrapy.settings import BaseSettings
from scrapy.utils.project import data_path

from scrapy_supabase.models import TableSpec
from scrapy_supabase.schema.schema import UnknownColumns
from scrapy_supabase.settings.monitors import Thresholds, read_thresholds
from scrapy_supabase.settings.reader import Reader
from scrapy_supabase.settings.server import (
    LOCAL,
    database_role,
    project_host,
    proxy_of,
    read_db_url,
    read_key,
    read_url,
    role_of,
)
from scrapy_supabase.settings.tables import read_routes

MOST_ROWS = 1000  # PostgREST's and Supabase's usual limit for what one request may touch
SNAPSHOT_VERSION = "snapshot_version"


@dataclass(frozen=True, slots=True)
class Config:
    """All settings, checked. Seconds, bytes and rows are plain numbers; `warnings` are to be logged once."""

    url: str
    key: str = field(repr=False)
    routes: Mapping[type | None, TableSpec]
    db_url: str | None = field(default=None, repr=False)
    enabled: bool = True
    schema: str = "public"
    insert_fallback: bool = True
    unknown_columns: UnknownColumns = field(default_factory=UnknownColumns)
    chunk_rows: int = 100
    most_chunk_rows: int = 100  # more than `chunk_rows` where chunks grow
    chunk_bytes: int = 1024 * 1024
    flush_interval: float = 5.0
    attempts: int = 3
    delay: float = 1.0
    timeout: float = 65.0
    concurrent_uploads: int = 4
    close_timeout: float = 60.0
    max_outage: float | None = None
    spool_dir: Path | None = None
    spool_fsync: bool = False
    spool_max_bytes: int = 1024**3
    runs_table: str | None = None
    report: Path | None = None
    local_dir: Path = Path()
    migrations: Path | None = None
    proxy: str | None = field(default=None, repr=False)
    thresholds: Thresholds = field(default_factory=Thresholds)
    warnings: tuple[str, ...] = ()

    @property
    def host(self) -> str:
        """What names the project, in log lines and in the spool."""
        return project_host(self.url, self.db_url)

    @property
    def role(self) -> str:
        """The database role that uploads, as far as key or connection string tell."""
        return database_role(self.db_url) if self.db_url else role_of(self.key)

    @property
    def tables(self) -> dict[str, TableSpec]:
        """Table name → what the settings say of it."""
        return {spec.name: spec for spec in self.routes.values()}

    @classmethod
    def from_settings(
        cls, settings: BaseSettings, environ: Mapping[str, str] | None = None, *, tables: bool = True
    ) -> Config:
        """Read everything. Raises `ConfigurationError` that lists every wrong value and what is allowed.

        With `tables=False`, what the settings say of tables is not read.
        """
        reader = Reader(settings, os.environ if environ is None else environ)
        config = cls(**_read(reader, tables=tables))
        reader.check()
        return config


def local_folder() -> Path:
    """Where the local Supabase of this project keeps its data: `.scrapy/supabase-local`, as a rule."""
    from scrapy_supabase.local.place import default_folder

    return default_folder(_project_data("supabase-local"))


def uses_url_stamp(settings: BaseSettings) -> bool:
    """Whether any stamp is `url`, without a check of anything else."""
    tables = settings.get("SUPABASE_TABLES")
    of_tables = (
        [table.get("stamps") for table in tables.values() if isinstance(table, Mapping)]
        if isinstance(tables, Mapping)
        else []
    )
    return any(
        "url" in stamps.values()
        for stamps in [settings.get("SUPABASE_STAMPS"), *of_tables]
        if isinstance(stamps, Mapping)
    )


def _read(reader: Reader, *, tables: bool) -> dict[str, Any]:
    enabled = reader.flag("SUPABASE_ENABLED", True)
    key = read_key(reader)
    url = read_url(reader)
    db_url = read_db_url(reader)
    seconds = "a number of seconds"
    values: dict[str, Any] = {
        "enabled": enabled,
        "url": url,
        "key": key,
        "db_url": db_url,
        "routes": read_routes(reader) if tables else {},
        "schema": reader.text("SUPABASE_SCHEMA", "public"),
        "insert_fallback": reader.flag("SUPABASE_INSERT_FALLBACK", True),
        "unknown_columns": _unknown_columns(reader),
        **read_chunk_size(reader),
        "chunk_bytes": reader.number(
            "BATCH_CHUNK_BYTES", 1024 * 1024, int, 1024, "a whole number of bytes, 1024 or more"
        ),
        "flush_interval": reader.number("BATCH_FLUSH_INTERVAL", 5.0, float, 0, f"{seconds}, or 0 for never"),
        "attempts": read_attempts(reader),
        "delay": read_delay(reader),
        "timeout": reader.number("SUPABASE_TIMEOUT", 65.0, float, 0.001, f"{seconds}, more than 0"),
        "concurrent_uploads": reader.number("SUPABASE_CONCURRENT_UPLOADS", 4, int, 1, "a whole number, 1 or more"),
        "close_timeout": reader.number("SUPABASE_CLOSE_TIMEOUT", 60.0, float, 0, f"{seconds}, 0 or more"),
        "max_outage": _max_outage(reader),
        "spool_dir": _spool_dir(reader),
        "spool_fsync": reader.flag("SUPABASE_SPOOL_FSYNC", False),
        "spool_max_bytes": reader.number(
            "SUPABASE_SPOOL_MAX_BYTES", 1024**3, int, 1024, "a whole number of bytes, 1024 or more"
        ),
        "runs_table": reader.text("SUPABASE_RUNS_TABLE", "") if reader.raw("SUPABASE_RUNS_TABLE") else None,
        "report": _report(reader),
        "local_dir": local_folder() if LOCAL in (url, db_url) else Path(),
        "migrations": _folder(reader, "SUPABASE_MIGRATIONS"),
        "proxy": proxy_of(url),
        "thresholds": read_thresholds(reader),
    }
    _warn_of_misspelt(reader)
    values["warnings"] = tuple(reader.warnings)
    return values


def read_chunk_size(reader: Reader) -> dict[str, int]:
    """Rows a chunk, and the most they may become."""
    if reader.raw("BATCH_CHUNK_SIZE") == "auto":
        return {"chunk_rows": 100, "most_chunk_rows": MOST_ROWS}
    allowed = f'a whole number of rows, 1 to {MOST_ROWS}, or "auto"'
    number = reader.number("BATCH_CHUNK_SIZE", 100, int, 1, allowed)
    if number > MOST_ROWS:
        reader.warnings.append(f"BATCH_CHUNK_SIZE is {number}: {MOST_ROWS} rows a request are the most, and are used.")
    number = min(number, MOST_ROWS)
    return {"chunk_rows": number, "most_chunk_rows": number}


def read_attempts(reader: Reader) -> int:
    """Tries of a request in all."""
    return reader.number("BATCH_RETRY_ATTEMPTS", 3, int, 1, "a whole number of tries, 1 or more")


def read_delay(reader: Reader) -> float:
    """Seconds before the second try."""
    return reader.number("BATCH_RETRY_DELAY", 1.0, float, 0, "a number of seconds, 0 or more")


def _unknown_columns(reader: Reader) -> UnknownColumns:
    value = reader.text("SUPABASE_UNKNOWN_COLUMNS", "drop")
    return UnknownColumns(value) if value in ("drop", "reject") else UnknownColumns("collect", value)


def _spool_dir(reader: Reader) -> Path | None:
    if not reader.is_set("SUPABASE_SPOOL_DIR"):
        return _project_data("supabase")
    value = reader.raw("SUPABASE_SPOOL_DIR")
    if value is None:
        return None
    if not isinstance(value, (str, Path)) or not str(value):
        return reader.wrong("SUPABASE_SPOOL_DIR", value, "a folder, or None for no spool", None)
    return Path(value).absolute()  # the process may change its folder in mid-crawl


def _project_data(name: str) -> Path:
    """A folder of the project's data: `.scrapy/<name>`."""
    try:
        return Path(data_path(name)).absolute()
    except NotConfigured:
        # A project without a scrapy.cfg, as Scrapyd has it. Scrapy would take this for "switch the pipeline off".
        return Path(".scrapy", name).absolute()


def _report(reader: Reader) -> Path | None:
    value = reader.raw("SUPABASE_REPORT")
    if value is None:
        return None
    if not isinstance(value, (str, Path)) or not str(value).strip() or "\0" in str(value) or Path(value).is_dir():
        return reader.wrong("SUPABASE_REPORT", value, 'the path of a file, such as "report.html", or None', None)
    return Path(value).expanduser().absolute()


def _max_outage(reader: Reader) -> float | None:
    if reader.raw("SUPABASE_MAX_OUTAGE") is None:
        return None
    return reader.number("SUPABASE_MAX_OUTAGE", 0.0, float, 0, "a number of seconds, 0 or more, or None for any")


def _folder(reader: Reader, name: str) -> Path | None:
    value = reader.raw(name)
    if value is None:
        return None
    if not isinstance(value, (str, Path)) or not Path(value).is_dir():
        return reader.wrong(name, value, "a folder that exists", None)
    return Path(value).absolute()


def _warn_of_misspelt(reader: Reader) -> None:
    for name in reader.names():
        if not name.startswith(("SUPABASE_", "BATCH_")) or name in KNOWN:
            continue
        import difflib  # few crawls need it

        close = difflib.get_close_matches(name, KNOWN, 1, 0.85)
        if close:
            said = f"{name} is not a setting of scrapy-supabase, and not used. Did you mean {close[0]}?"
            if reader.problems:  # it may be why something is missing: first
                reader.problems.insert(0, said)
            else:
                reader.warnings.append(said)


KNOWN = frozenset(
    {
        "BATCH_CHUNK_BYTES",
        "BATCH_CHUNK_SIZE",
        "BATCH_FLUSH_INTERVAL",
        "BATCH_RETRY_ATTEMPTS",
        "BATCH_RETRY_DELAY",
        "SUPABASE_CLOSE_TIMEOUT",
        "SUPABASE_CONCURRENT_UPLOADS",
        "SUPABASE_DAILY_SNAPSHOTS",
        "SUPABASE_DB_URL",
        "SUPABASE_ENABLED",
        "SUPABASE_INSERT_FALLBACK",
        "SUPABASE_KEY",
        "SUPABASE_MAX_OUTAGE",
        "SUPABASE_MIGRATIONS",
        "SUPABASE_MODE",
        "SUPABASE_MONITOR_MAX_FAILED_RATE",
        "SUPABASE_MONITOR_MAX_SPOOLED_ROWS",
        "SUPABASE_MONITOR_MAX_UPLOAD_AGE",
        "SUPABASE_ON_CONFLICT",
        "SUPABASE_REPORT",
        "SUPABASE_ROW_ID_COLUMN",
        "SUPABASE_RUNS_TABLE",
        "SUPABASE_SCHEMA",
        "SUPABASE_SPOOL_DIR",
        "SUPABASE_SPOOL_FSYNC",
        "SUPABASE_SPOOL_MAX_BYTES",
        "SUPABASE_STAMPS",
        "SUPABASE_TABLE",
        "SUPABASE_TABLES",
        "SUPABASE_TIMEOUT",
        "SUPABASE_UNKNOWN_COLUMNS",
        "SUPABASE_URL",
    }
)
"""Every setting there is; a test compares them with docs/reference/settings.md."""


def database_url(settings: BaseSettings, environ: Mapping[str, str] | None = None) -> str | None:
    """The PostgreSQL connection string of the setting or the environment, or None. Raises `ConfigurationError`."""
    reader = Reader(settings, os.environ if environ is None else environ)
    found = read_db_url(reader)
    reader.check()
    return found


def hosted_project(settings: BaseSettings, environ: Mapping[str, str] | None = None) -> str:
    """The host of the project that the settings or the environment name; empty for none, and for the local one."""
    url = Reader(settings, os.environ if environ is None else environ).raw("SUPABASE_URL")
    return "" if not isinstance(url, str) or url == LOCAL else project_host(url, None)
