"""The settings for what is no crawl: a script's arguments, one table that is named, a table that is yet to be made."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
from scrapy.settings import BaseSettings

from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.models import SNAPSHOT_STAMPS, Mode, TableSpec
from scrapy_supabase.rows.builder import route_of
from scrapy_supabase.settings.config import Config
from scrapy_supabase.settings.reader import FROM_ENVIRONMENT, Reader
from scrapy_supabase.settings.server import ServerConfig, proxy_of, read_key, read_url
from scrapy_supabase.settings.tables import TABLE_KEYS, TablesConfig, table_spec
from scrapy_supabase.settings.upload import UploadConfig, read_attempts, read_chunk_size, read_delay

_MOST_OUTAGE = 60.0  # seconds


def config_for_table(settings: BaseSettings, table: str | None, given: Mapping[str, Any]) -> Config:
    """The settings for rows of one table (by default `SUPABASE_TABLE`); what is `given` stands above them.

    `given` has keys of `SUPABASE_TABLES`, and `BATCH_CHUNK_SIZE`. Raises `ConfigurationError`.
    """
    routed = settings.get("SUPABASE_TABLES")
    tables = list(routed.values()) if isinstance(routed, Mapping) else []
    table = table or settings.get("SUPABASE_TABLE")
    if not table:
        raise ConfigurationError("Which table? Name it with --table, or set SUPABASE_TABLE.")
    own = next((spec for spec in tables if isinstance(spec, Mapping) and spec.get("table") == table), {})
    more = {name: value for name, value in given.items() if name in TABLE_KEYS and value is not None}
    stamps = own.get("stamps", settings.get("SUPABASE_STAMPS") or {})
    if isinstance(stamps, Mapping):  # a row of a file comes from no page
        more["stamps"] = {column: stamp for column, stamp in stamps.items() if stamp != "url"}
    changed = settings.copy()
    changed.set("SUPABASE_TABLE", None, "cmdline")
    changed.set("SUPABASE_TABLES", {"*": {**own, "table": table, **more}}, "cmdline")
    if given.get("BATCH_CHUNK_SIZE") is not None:
        changed.set("BATCH_CHUNK_SIZE", given["BATCH_CHUNK_SIZE"], "cmdline")
    return Config.from_settings(changed)


def config_for_new_table(
    settings: BaseSettings, item_class: type | None, name: str, given: Mapping[str, Any]
) -> tuple[Config, TableSpec]:
    """What the settings say of a table that need not be there; `name` is its name where they name none.

    It is the table of `item_class`; without one, the one that has the name. `given` has keys of `SUPABASE_TABLES` and
    stands above them. No server need be named. Raises `ConfigurationError`.
    """
    changed = settings.copy()
    if not changed.get("SUPABASE_TABLE") and not changed.get("SUPABASE_TABLES"):
        changed.set("SUPABASE_TABLE", name, "cmdline")
    elsewhere = {name: value for name, value in os.environ.items() if name in FROM_ENVIRONMENT and value}
    nowhere = {"SUPABASE_URL": "http://localhost", "SUPABASE_KEY": "-"}
    config = Config.from_settings(changed, {**nowhere, **elsewhere})
    given = {key: value for key, value in given.items() if value is not None}
    named = config.tables.specs.get(given.get("table", name)) if item_class is None else None
    spec = named or route_of(config.tables.routes, item_class or dict) or TableSpec(name)
    on_conflict = tuple(given.get("on_conflict", spec.on_conflict))
    snapshots = spec.snapshots and not set(SNAPSHOT_STAMPS) <= set(on_conflict)
    if on_conflict and snapshots:
        on_conflict = (*on_conflict, *SNAPSHOT_STAMPS)
    return config, msgspec.structs.replace(spec, name=given.get("table", spec.name), on_conflict=on_conflict)


def project_of(url: str | None, key: str | None, environ: Mapping[str, str] | None = None) -> tuple[str, str]:
    """URL and key for a script: those given, else those of the environment. Raises `ConfigurationError`."""
    given = {name: value for name, value in (("SUPABASE_URL", url), ("SUPABASE_KEY", key)) if value is not None}
    reader = Reader(BaseSettings(given), os.environ if environ is None else environ)
    found = read_url(reader), read_key(reader)
    reader.check()
    return found


def server_of(url: str, key: str, schema: str) -> ServerConfig:
    """Return the server of a client of supabase-py."""
    url = url.rstrip("/")
    return ServerConfig(url, key, schema=schema, proxy=proxy_of(url))


def script_config(
    server: ServerConfig,
    table: str,
    *,
    mode: Mode,
    on_conflict: str | Sequence[str] | None,
    snapshots: bool,
    chunk_size: int | str | None,
    concurrency: int,
) -> Config:
    """Return the `Config` of an upload to one table without Scrapy's settings. Raises `ConfigurationError`."""
    given = {} if chunk_size is None else {"BATCH_CHUNK_SIZE": chunk_size}
    reader = Reader(BaseSettings(given), os.environ)
    chunk_rows, most_chunk_rows = read_chunk_size(reader)
    upload = UploadConfig(
        chunk_rows=chunk_rows,
        most_chunk_rows=most_chunk_rows,
        flush_interval=0.0,
        concurrency=concurrency,
        attempts=read_attempts(reader),
        delay=read_delay(reader),
        max_outage=_MOST_OUTAGE,  # there is no spool in which rows could wait longer
    )
    if not isinstance(table, str) or not table:
        reader.wrong("table_name", table, "a table's name, a text that is not empty", "")
    key_columns = reader.names_of("on_conflict", on_conflict or ())
    reader.check("argument")
    spec = table_spec(table, mode, key_columns, {}, {}, snapshots=snapshots)
    return Config(server, TablesConfig({None: spec}), upload)


def config_of_command(config: Config) -> Config:
    """Return the settings of an upload that somebody waits for: by default an outage ends it soon; without a ledger."""
    outage = _MOST_OUTAGE if config.upload.max_outage is None else config.upload.max_outage
    return replace(
        config,
        tables=replace(config.tables, runs_table=None),
        upload=replace(config.upload, max_outage=outage),
    )
