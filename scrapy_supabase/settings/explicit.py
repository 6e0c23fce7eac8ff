"""Configurations for scripts and commands: of a script's arguments, of one named table, of a table to be created."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace
from scrapy.settings import BaseSettings

from scrapy_supabase.backends.base import Order, Select
from scrapy_supabase.backends.filters import Filter
from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.models import SNAPSHOT_STAMPS, Mode
from scrapy_supabase.rows.where import filters_of
from scrapy_supabase.schema.routes import Switch, route_of
from scrapy_supabase.schema.table_spec import TableSpec
from scrapy_supabase.settings.child_tables import OF_CHILDREN, with_children
from scrapy_supabase.settings.config import Config
from scrapy_supabase.settings.reader import Reader
from scrapy_supabase.settings.server import ServerConfig, proxy_of, read_key, read_url
from scrapy_supabase.settings.table_options import COMMON, SPIDER, Options, table_spec
from scrapy_supabase.settings.tables import TablesConfig, entries_of
from scrapy_supabase.settings.upload import UploadConfig, read_attempts, read_chunk_size, read_delay, read_open_timeout

_MAX_OUTAGE = 60.0  # seconds
_LOAD = "load"  # stands for the spider's name, as in the stamp `spider`


def config_for_table(settings: BaseSettings, table: str | None, overrides: Mapping[str, Any]) -> Config:
    """Return the configuration of an upload of file rows to one table, by default `SUPABASE_TABLE`.

    `overrides` has `mode`, `on_conflict` and `BATCH_CHUNK_SIZE`; a value of None overrides nothing. Raises
    `ConfigurationError`.
    """
    reader = Reader(settings, os.environ)
    routed = reader.raw("SUPABASE_TABLES")
    others = routed.get("*") if isinstance(routed, Mapping) else None
    if not table and isinstance(others, Mapping) and "by" in others:
        raise ConfigurationError(
            "SUPABASE_TABLES['*'] has several tables, and load uploads all rows of a file into one of them. "
            "Add --table."
        )
    table = table or reader.raw("SUPABASE_TABLE")
    if not table or SPIDER in table:
        raise ConfigurationError("No table is named. Add --table, or set SUPABASE_TABLE.")
    options = [one for one in entries_of(routed) if isinstance(one, Mapping)]
    own = next((one for one in options if _may_name(one.get("table"), table)), {})
    own = {name: value for name, value in own.items() if name not in OF_CHILDREN}  # rows of a file have no parents
    # Set where the settings of the whole project are, so that messages name these.
    common = {COMMON.get(name, name): value for name, value in overrides.items() if value is not None}
    more = {name: own[name] for name in own if COMMON.get(name, name) not in common}
    stamps = own.get("stamps", reader.raw("SUPABASE_STAMPS", {}))
    if isinstance(stamps, Mapping):  # rows of a file have no page URL
        more["stamps"] = {column: stamp for column, stamp in stamps.items() if stamp != "url"}
    changed = settings.copy()
    changed.set("SUPABASE_TABLE", None, "cmdline")
    changed.set("SUPABASE_TABLES", {"*": {**more, "table": table}}, "cmdline")
    changed.update(common, "cmdline")
    return Config.from_settings(changed, spiders=[_LOAD])


def _may_name(name: Any, table: str) -> bool:
    """Return whether the name of a table in the settings is `table`, for some spider's name in place of `{spider}`."""
    pattern = ".+".join(map(re.escape, str(name).split(SPIDER)))
    return re.fullmatch(pattern, table) is not None


def config_for_new_table(
    settings: BaseSettings,
    item_class: type | None,
    name: str,
    overrides: Mapping[str, Any],
    spiders: Sequence[str] = (),
) -> tuple[Config, TableSpec]:
    """Return the configuration and the spec of a table that may not exist yet, for `ddl`. No server is required.

    The spec is that of `item_class`, or without a class that of the table's name. `name` is the table's name if the
    settings name none. `overrides` has keys of a `SUPABASE_TABLES` entry; a value of None overrides nothing. If items
    of the class go to several tables, `overrides` must name one of them. `spiders` are those of the project.
    Raises `ConfigurationError`.
    """
    config = config_without_server(settings, name, spiders)
    overrides = {key: value for key, value in overrides.items() if value is not None}
    named = config.tables.specs.get(overrides.get("table", name)) if item_class is None else None
    route = named or route_of(config.tables.routes, item_class or dict) or TableSpec(name)
    spec = _one_of(route, overrides.get("table")) if isinstance(route, Switch) else route
    on_conflict = tuple(overrides.get("on_conflict", spec.on_conflict))
    snapshots = spec.snapshots and not set(SNAPSHOT_STAMPS) <= set(on_conflict)
    if on_conflict and snapshots:
        on_conflict = (*on_conflict, *SNAPSHOT_STAMPS)
    return config, replace(spec, name=overrides.get("table", spec.name), on_conflict=on_conflict)


def config_without_server(settings: BaseSettings, table: str, spiders: Sequence[str] = ()) -> Config:
    """Return the configuration for `ddl`, which needs no server. `table` is the table if the settings name none.

    `spiders` are those of the project. Raises `ConfigurationError`.
    """
    changed, reader = settings.copy(), Reader(settings, os.environ)
    if not reader.raw("SUPABASE_TABLE") and not reader.raw("SUPABASE_TABLES"):
        changed.set("SUPABASE_TABLE", table, "cmdline")
    placeholders = {"SUPABASE_URL": "http://localhost", "SUPABASE_KEY": "-"}
    environ = {**placeholders, **{key: text for key, text in os.environ.items() if text}}
    return Config.from_settings(changed, environ, spiders=spiders)


def _one_of(switch: Switch, table: str | None) -> TableSpec:
    """Return the spec of a table among several. Raises `ConfigurationError` if `table` is none of them."""
    for spec in switch.specs:
        if spec.name == table:
            return spec
    names = ", ".join(dict.fromkeys(spec.name for spec in switch.specs))
    raise ConfigurationError(f"{switch.setting} has several tables. Name one of them with --table: {names}.")


def project_of(url: str | None, key: str | None, environ: Mapping[str, str] | None = None) -> tuple[str, str]:
    """Return URL and key for a script: the arguments, else the environment's. Raises `ConfigurationError`."""
    arguments = {name: value for name, value in (("SUPABASE_URL", url), ("SUPABASE_KEY", key)) if value is not None}
    reader = Reader(BaseSettings(arguments), os.environ if environ is None else environ)
    project = read_url(reader), read_key(reader)
    reader.check()
    return project


def server_of(url: str, key: str, schema: str) -> ServerConfig:
    """Return the server that a client of supabase-py uses."""
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
    children: Mapping[str, Any] | None = None,
) -> Config:
    """Return the `Config` of an upload to one table without Scrapy's settings. Raises `ConfigurationError`."""
    reader = Reader(BaseSettings({} if chunk_size is None else {"chunk_size": chunk_size}), os.environ)
    chunk_rows, most_chunk_rows = read_chunk_size(reader, "BATCH_CHUNK_SIZE" if chunk_size is None else "chunk_size")
    upload = UploadConfig(
        chunk_rows=chunk_rows,
        most_chunk_rows=most_chunk_rows,
        flush_interval=0.0,
        concurrency=concurrency,
        attempts=read_attempts(reader),
        delay=read_delay(reader),
        open_timeout=read_open_timeout(reader),
        max_outage=_MAX_OUTAGE,  # without a spool, rows cannot wait longer
    )
    if not isinstance(table, str) or not table:
        reader.wrong("table_name", table, "a table name: a text that is not empty", "")
    key_columns = reader.column_names("on_conflict", on_conflict or ())
    spec = table_spec(table, mode, key_columns, {}, {}, snapshots=snapshots)
    if children is not None:
        options = Options(reader, "", {"children": children}, {"snapshots": snapshots})
        spec = with_children(options, spec, None)
    reader.check("argument")
    return Config(server, TablesConfig({None: spec}), upload)


def selection_of(
    table: str,
    columns: str | Sequence[str] | None,
    where: Mapping[str, Any] | None,
    order: str | Sequence[str],
    key: str | Sequence[str],
) -> tuple[Select, tuple[str, ...]]:
    """Return the request for the rows that the arguments of `select_rows` describe, and the columns of `key`.

    Raises `ConfigurationError`.
    """
    reader = Reader(BaseSettings(), {})
    if not isinstance(table, str) or not table:
        reader.wrong("table", table, "a table name: a text that is not empty", "")
    names, keys = reader.column_names("columns", columns or ()), reader.column_names("key", key)
    terms: dict[str, Order] = {}
    for term in map(_order, reader.column_names("order", order)):
        terms.setdefault(term.column, term)  # after its first term, a column changes nothing
    filters: tuple[Filter, ...] = ()
    try:
        filters = filters_of({} if where is None else where)
    except ConfigurationError as error:
        reader.problems.append(str(error))
    reader.check("argument")
    return Select(table, names, filters, tuple(terms.values())), keys


def _order(term: str) -> Order:
    """Return a term of the order: a column, or "column.desc" or "column.asc"."""
    column, dot, direction = term.rpartition(".")
    return Order(column, direction == "desc") if dot and column and direction in ("asc", "desc") else Order(term)


def config_of_command(config: Config) -> Config:
    """Return the configuration of an upload by a command: without a ledger, and by default ended by a short outage."""
    outage = _MAX_OUTAGE if config.upload.max_outage is None else config.upload.max_outage
    return replace(
        config,
        tables=replace(config.tables, runs_table=None),
        upload=replace(config.upload, max_outage=outage),
    )
