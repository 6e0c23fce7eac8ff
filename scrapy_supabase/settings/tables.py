"""The settings of tables: which items go to which table, with which mode, key, columns and stamps."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from scrapy.settings import BaseSettings
from scrapy.utils.misc import load_object

from scrapy_supabase.messages import sentence
from scrapy_supabase.models import SNAPSHOT_STAMPS, Mode, TableSpec
from scrapy_supabase.settings.reader import Reader

STAMPS = ("run_id", "row_id", "now", "hour", "date", *SNAPSHOT_STAMPS, "spider", "url")
SNAPSHOT_VERSION = "snapshot_version"
TABLE_KEYS = ("table", "on_conflict", "columns", "mode", "stamps", "snapshots", "row_id_column")


@dataclass(frozen=True, slots=True)
class TablesConfig:
    """The table of each item class (None: any other), and the ledger's table, which gets one row per run."""

    routes: Mapping[type | None, TableSpec] = field(default_factory=dict)
    runs_table: str | None = None

    @property
    def specs(self) -> dict[str, TableSpec]:
        """Table name → its spec."""
        return {spec.name: spec for spec in self.routes.values()}


def read_tables(reader: Reader, *, routes: bool = True) -> TablesConfig:
    """Read the settings of tables; with `routes=False`, only that of the ledger."""
    return TablesConfig(
        routes=read_routes(reader) if routes else {},
        runs_table=reader.text("SUPABASE_RUNS_TABLE", "") if reader.raw("SUPABASE_RUNS_TABLE") else None,
    )


def uses_url_stamp(settings: BaseSettings) -> bool:
    """Return whether any stamp is `url`, without validating the settings."""
    reader = Reader(settings, os.environ)
    tables = reader.raw("SUPABASE_TABLES")
    of_tables = (
        [table.get("stamps") for table in tables.values() if isinstance(table, Mapping)]
        if isinstance(tables, Mapping)
        else []
    )
    return any(
        "url" in stamps.values()
        for stamps in [reader.raw("SUPABASE_STAMPS"), *of_tables]
        if isinstance(stamps, Mapping)
    )


def read_routes(reader: Reader) -> dict[type | None, TableSpec]:
    """Return item class (None: any other) → table."""
    common: dict[str, Any] = {
        "mode": reader.raw("SUPABASE_MODE", "upsert"),
        "on_conflict": reader.raw("SUPABASE_ON_CONFLICT", ()),
        "stamps": reader.raw("SUPABASE_STAMPS", {}),
        "snapshots": reader.flag("SUPABASE_DAILY_SNAPSHOTS", False),
        "row_id_column": reader.raw("SUPABASE_ROW_ID_COLUMN"),
    }
    names = {
        "mode": "SUPABASE_MODE",
        "on_conflict": "SUPABASE_ON_CONFLICT",
        "stamps": "SUPABASE_STAMPS",
        "row_id_column": "SUPABASE_ROW_ID_COLUMN",
    }
    routes: dict[type | None, TableSpec] = {}
    if reader.raw("SUPABASE_TABLE") is not None:
        routes[None] = _spec(reader, names, {**common, "table": reader.raw("SUPABASE_TABLE")})
    tables = reader.raw("SUPABASE_TABLES", {})
    if not isinstance(tables, Mapping):
        tables = reader.wrong(
            "SUPABASE_TABLES", tables, "a dict that maps item classes, their import paths or '*' to tables", {}
        )
    for target, value in tables.items():
        name = f"SUPABASE_TABLES[{target if isinstance(target, str) else getattr(target, '__qualname__', target)!r}]"
        own = {"table": value} if isinstance(value, str) else value
        if not isinstance(own, Mapping) or not set(own) <= set(TABLE_KEYS):
            reader.wrong(name, value, f"a table name, or a dict with the keys {', '.join(TABLE_KEYS)}", None)
            continue
        paths = {key: f"{name}[{key!r}]" if key in own else names.get(key, "") for key in TABLE_KEYS}
        # A table has one key: its own key setting replaces both common ones.
        exclusive = {"row_id_column": "on_conflict", "on_conflict": "row_id_column"}
        general = {key: value for key, value in common.items() if exclusive.get(key) not in own}
        routes[_item_class(reader, name, target)] = _spec(reader, paths, {**general, **own})
    if not routes:
        reader.problems.append(
            "SUPABASE_TABLE is missing. Set it to the name of the table for the items, or set SUPABASE_TABLES."
        )
    _check_same_table(reader, routes)
    return routes


def _item_class(reader: Reader, name: str, target: Any) -> type | None:
    if target == "*":
        return None
    try:
        found = load_object(target) if isinstance(target, str) else target
    except (ImportError, NameError, ValueError) as error:
        found = None
        reader.problems.append(
            f"{name}: the class cannot be imported: {sentence(error)} Use its import path, such as shop.items.Book."
        )
    if found is not None and not isinstance(found, type):
        reader.wrong(name, found, "an item class, its import path, or '*'", None)
    return found if isinstance(found, type) else type("Unknown", (), {})


def _spec(reader: Reader, names: Mapping[str, str], values: Mapping[str, Any]) -> TableSpec:
    table = values.get("table")
    if not isinstance(table, str) or not table:
        table = reader.wrong(names.get("table", "SUPABASE_TABLE"), table, "a table name: a text that is not empty", "")
    try:
        mode = Mode(values["mode"])
    except ValueError:
        mode = reader.wrong(names["mode"], values["mode"], "one of upsert, insert, ignore", Mode.UPSERT)
    columns = reader.text_map(names.get("columns", ""), values.get("columns", {}))
    for column in sorted({c for c in columns.values() if list(columns.values()).count(c) > 1}):
        reader.problems.append(f"{names['columns']} maps two fields to column {column!r}: give each its own column.")
    stamps = reader.text_map(names["stamps"], values["stamps"])
    for column, stamp in stamps.items():
        if stamp not in STAMPS:
            reader.wrong(f"{names['stamps']}[{column!r}]", stamp, f"one of {', '.join(STAMPS)}", None)
    on_conflict = reader.column_names(names["on_conflict"], values.get("on_conflict", ()))
    snapshots = values["snapshots"]
    row_id = values.get("row_id_column")
    if row_id is not None:
        if not isinstance(row_id, str) or not row_id:
            reader.wrong(names["row_id_column"], row_id, "the name of a uuid column, or None", None)
        elif on_conflict or snapshots:
            other = names["on_conflict"] if on_conflict else "SUPABASE_DAILY_SNAPSHOTS"
            reader.problems.append(
                f"{names['row_id_column']} and {other} are both set for table {table!r}, and a table has one key. "
                "Remove one of them."
            )
        else:
            mode, on_conflict, stamps = Mode.IGNORE, (row_id,), {**stamps, row_id: "row_id"}
    return table_spec(table, mode, on_conflict, columns, stamps, snapshots=snapshots)


def table_spec(
    name: str,
    mode: Mode,
    on_conflict: tuple[str, ...],
    columns: Mapping[str, str],
    stamps: Mapping[str, str],
    *,
    snapshots: bool,
) -> TableSpec:
    """Return the spec of a table. With `snapshots`, snapshot date and version are stamped and added to the key."""
    if snapshots:
        stamps = {**dict(zip(SNAPSHOT_STAMPS, SNAPSHOT_STAMPS, strict=True)), **stamps}
        if on_conflict:
            on_conflict = tuple(dict.fromkeys([*on_conflict, *SNAPSHOT_STAMPS]))
    return TableSpec(name, mode, on_conflict, columns, stamps, snapshots)


def _check_same_table(reader: Reader, routes: Mapping[type | None, TableSpec]) -> None:
    first: dict[str, TableSpec] = {}
    for spec in routes.values():
        other = first.setdefault(spec.name, spec)
        if (spec.mode, spec.on_conflict) != (other.mode, other.on_conflict):
            reader.problems.append(
                f"SUPABASE_TABLES names table {spec.name!r} twice, with different mode or on_conflict: use the same."
            )
