"""The facts of a table for `ddl --history`: from the database if it can be reached, else from settings and items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from msgspec.structs import replace

from scrapy_supabase.assembly import new_backend
from scrapy_supabase.backends.base import TableInfo
from scrapy_supabase.commands.database import find_database
from scrapy_supabase.errors import ConfigurationError, SupabaseError
from scrapy_supabase.models import SNAPSHOT_STAMPS
from scrapy_supabase.schema.column_types import sql_name
from scrapy_supabase.schema.declared import known_columns
from scrapy_supabase.schema.history import History
from scrapy_supabase.schema.item_fields import columns_sent, fields_of
from scrapy_supabase.schema.routes import specs_by_class
from scrapy_supabase.schema.table_spec import TableSpec
from scrapy_supabase.settings.components import spiders_for
from scrapy_supabase.settings.config import Config
from scrapy_supabase.settings.explicit import config_without_server
from scrapy_supabase.settings.server import LOCAL


def history_of(
    settings: Any, table: str, watched: Sequence[str], key: Sequence[str] | None, *, readable: bool
) -> History:
    """Return the history of the columns `watched` of a table.

    Its key is `key`, else that of the settings, else the table's primary key. Raises `ConfigurationError` if no key is
    known, and for columns that the table is known to lack.
    """
    config = config_without_server(settings, table, spiders_for(settings))
    spec = config.tables.specs.get(table, TableSpec(table))
    found = _in_database(settings, config.server.schema, table)
    types, primary_key = _declared(config, table)
    if found is not None:
        types = {column: sql_name(kind) for column, kind in found.columns.items()}
        primary_key = found.primary_key
    of_settings = tuple(column for column in spec.on_conflict if column not in SNAPSHOT_STAMPS)
    named = tuple(key or of_settings or primary_key)
    if not named:
        raise ConfigurationError(
            f"The key of table {table} is not known. Add --key with the columns that make a row unique."
        )
    is_complete = found is not None or (types and table not in known_columns(config.tables.routes)[1])
    for option, names in (("--history", watched), ("--key", named)):
        if is_complete and (missing := [name for name in names if name not in types]):
            raise ConfigurationError(
                f"{option} names {missing[0]!r}, but table {table} has no such column. It has: {', '.join(types)}."
            )
    if set(watched) <= set(named):
        raise ConfigurationError(
            f"--history names only columns of the key ({', '.join(named)}), which never change. Name other columns."
        )
    role = config.server.role
    return History(
        table=table,
        schema=config.server.schema,
        key=named,
        watched=tuple(watched),
        types=types,
        seen=_seen(spec, types),
        role="service_role" if role == "postgres" else role,
        readable=readable,
    )


def _seen(spec: TableSpec, types: Mapping[str, str]) -> str:
    """Return the column with the time of scraping that each row brings; empty if there is none."""
    stamped = (column for column, stamp in spec.stamps.items() if stamp == "now")
    kept = spec.writing.insert_only
    return next((column for column in stamped if column not in kept and (not types or column in types)), "")


def _declared(config: Config, table: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the types of the columns that item classes and stamps declare, and the primary key of the classes."""
    types: dict[str, str] = {}
    key: dict[str, None] = {}
    for item_class, spec in specs_by_class(config.tables.routes):
        fields = fields_of(item_class) if spec.name == table and item_class is not None else None
        for column, one in columns_sent(spec, fields).items() if fields else ():
            types[column] = one.sql_type
            if one.primary_key:
                key[column] = None
    return types, tuple(key)


def _in_database(settings: Any, schema: str, table: str) -> TableInfo | None:
    """Return the description of a table by the database, or over REST; None if neither can be reached."""
    with suppress(SupabaseError):
        with suppress(ConfigurationError), find_database(settings, without="") as url:
            from scrapy_supabase.backends.postgres import PostgresBackend

            database = PostgresBackend(url, schema=schema)
            try:
                return database.describe().get(table)
            finally:
                database.close()
        config = Config.from_settings(settings, tables=False)
        if config.server.url in ("", LOCAL):
            return None
        backend = new_backend(replace(config, server=replace(config.server, db_url=None)))
        try:
            return (backend.describe() or {}).get(table)
        finally:
            backend.close()
    return None
