"""The SQL that mends what the database refused, for messages: to be pasted into Supabase's SQL editor."""

from __future__ import annotations

from collections.abc import Iterable

from scrapy_supabase.models import SNAPSHOT_STAMPS, Mode
from scrapy_supabase.schema import Schema


def grant_sql(schema: Schema, table: str) -> str:
    """What the role needs for the mode in force (new tables on hosted Supabase have no grants since 2026-10-30)."""
    return f"GRANT {rights(schema.specs[table].mode)} ON {_table(schema, table)} TO {identifier(schema.role)};"


def rights(mode: Mode) -> str:
    """The privileges that a mode needs, as GRANT lists them."""
    return {Mode.UPSERT: "select, insert, update", Mode.IGNORE: "select, insert", Mode.INSERT: "insert"}[mode]


def unique_index_sql(schema: Schema, table: str) -> str:
    """The unique index that an upsert on the key needs."""
    return f"CREATE UNIQUE INDEX ON {_table(schema, table)} ({columns(schema.key(table))});"


def policy_sql(schema: Schema, table: str, *commands: str) -> str:
    """Row-level policies that let every row in: to be narrowed by who uses them."""
    clauses = {"insert": "WITH CHECK (true)", "update": "USING (true) WITH CHECK (true)", "select": "USING (true)"}
    name, role = _table(schema, table), identifier(schema.role)
    return " ".join(
        f"CREATE POLICY scrapy_{command} ON {name} FOR {command} TO {role} {clauses[command]};" for command in commands
    )


def add_column_sql(schema: Schema, table: str, names: Iterable[str]) -> str:
    """Columns for fields that have none; the type is the user's to choose."""
    return " ".join(f"ALTER TABLE {_table(schema, table)} ADD COLUMN {identifier(name)} text;" for name in names)


def snapshot_sql(schema: Schema, table: str) -> str:
    """The columns that tell one run's rows from another's, in the key. An upsert needs all of it unique."""
    name, key = _table(schema, table), [c for c in schema.key(table) if c not in SNAPSHOT_STAMPS]
    return (
        f"ALTER TABLE {name} ADD COLUMN IF NOT EXISTS snapshot_date date NOT NULL DEFAULT current_date, "
        "ADD COLUMN IF NOT EXISTS snapshot_version integer NOT NULL DEFAULT 1; "
        f"CREATE UNIQUE INDEX ON {name} ({columns([*key, *SNAPSHOT_STAMPS])});"
    )


def unknown_columns(schema: Schema, table: str, names: Iterable[str]) -> str:
    """What is said of fields that have no column."""
    names = list(names)
    done = {
        "drop": "left out",
        "reject": "and rows that have it are rejected",
        "collect": f"collected in column {schema.unknown.column!r}",
    }[schema.unknown.policy]
    listed, sql = ", ".join(map(repr, names)), add_column_sql(schema, table, names)
    return f"Table {table} has no column {listed}: {done} (SUPABASE_UNKNOWN_COLUMNS). To store it: {sql}"


def identifier(name: str) -> str:
    """Quote a name for SQL where it needs it."""
    plain = name.isidentifier() and name.isascii() and name == name.lower() and name not in _RESERVED
    return name if plain else '"' + name.replace('"', '""') + '"'


# What PostgreSQL 18 reserves: `select word from pg_get_keywords() where catcode in ('R', 'T')`.
_RESERVED_WORDS = (
    "all analyse analyze and any array as asc asymmetric authorization binary both case cast check collate "
    "collation column concurrently constraint create cross current_catalog current_date current_role "
    "current_schema current_time current_timestamp current_user default deferrable desc distinct do else end "
    "except false fetch for foreign freeze from full grant group having ilike in initially inner intersect "
    "into is isnull join lateral leading left like limit localtime localtimestamp natural not notnull null "
    "offset on only or order outer overlaps placing primary references returning right select session_user "
    "similar some symmetric system_user table tablesample then to trailing true union unique user using "
    "variadic verbose when where window with"
)
_RESERVED = frozenset(_RESERVED_WORDS.split())


def columns(names: Iterable[str]) -> str:
    """Names as a comma-separated SQL list."""
    return ", ".join(map(identifier, names))


def _table(schema: Schema, table: str) -> str:
    return f"{identifier(schema.database_schema)}.{identifier(table)}"
