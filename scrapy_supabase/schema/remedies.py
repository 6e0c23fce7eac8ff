"""The SQL that mends what the database refused, for messages: to be pasted into Supabase's SQL editor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from scrapy_supabase.backends.base import View
from scrapy_supabase.errors import ServerError, denied
from scrapy_supabase.models import SNAPSHOT_STAMPS, Mode
from scrapy_supabase.schema.schema import Schema

MADE_BY_THE_DATABASE = "Table %s makes column %r itself: what items have for it is not sent."


def grant_sql(schema: Schema, table: str, error: ServerError) -> str:
    """What the role needs for the mode in force (new tables on hosted Supabase have no grants since 2026-10-30).

    `error` says what was denied: the table, its schema, or what else an insert needs (a sequence, a trigger's table).
    """
    kind, denied_name = denied(error.message) or ("table", table)
    role = identifier(schema.role)
    if kind == "sequence":
        return f"GRANT usage ON SEQUENCE {qualified(schema, denied_name)} TO {role};"
    usage = f"GRANT usage ON SCHEMA {identifier(denied_name)} TO {role}; " if kind == "schema" else ""
    name = qualified(schema, denied_name if kind == "table" else table)
    return f"{usage}GRANT {rights(schema.specs[table].mode)} ON {name} TO {role};"


def rights(mode: Mode) -> str:
    """The privileges that a mode needs, as GRANT lists them."""
    return {Mode.UPSERT: "select, insert, update", Mode.IGNORE: "select, insert", Mode.INSERT: "insert"}[mode]


def unique_index_sql(schema: Schema, table: str, error: ServerError | None = None) -> str:
    """The unique index that an upsert on the key needs. `error` is what was said to an upsert.

    A deferrable constraint is in the way even of another index for the same columns (measured); where the server does
    not tell its name, it is the one that PostgreSQL gives.
    """
    if error is not None and error.code == "55000":
        key, info = schema.key(table), schema.info(table)
        primary = info is not None and key == info.primary_key
        usual = f"{table}_pkey" if primary else f"{'_'.join((table, *key))}_key"
        constraint = deferrable_constraint(schema, table) or usual
        change = f"DROP CONSTRAINT {identifier(constraint)}, ADD {'PRIMARY KEY' if primary else 'UNIQUE'}"
        return f"ALTER TABLE {qualified(schema, table)} {change} ({columns(key)});"
    return f"CREATE UNIQUE INDEX ON {qualified(schema, table)} ({columns(schema.key(table))});"


def for_upserts(schema: Schema, table: str, error: ServerError) -> str:
    """What to do where the database has no unique index for an upsert: `error` is what it answered."""
    info, key = schema.info(table), schema.key(table)
    if (view := schema.view(table)) is not None:
        return _for_upserts_to_view(view, key)
    partial = [name for name, indexed in (info.partial_indexes if info else {}).items() if set(indexed) == set(key)]
    if partial:
        return (
            f"Its unique index {partial[0]} is partial (it has a WHERE clause), which upserts cannot use. Replace it "
            'by one of all rows, set SUPABASE_ON_CONFLICT to other columns, or set SUPABASE_MODE = "insert".'
        )
    return f"Run: {unique_index_sql(schema, table, error)}"


def _for_upserts_to_view(view: View, key: Sequence[str]) -> str:
    """A view has no index: its table has, and a trigger needs none."""
    if view.has_trigger:
        return 'It is a view whose INSTEAD OF trigger stores the rows: set SUPABASE_MODE = "insert".'
    shown = [view.shows[column] for column in key if column in view.shows]
    if shown and len(shown) == len(key):
        schema, table, _ = shown[0]
        names = columns(column for _, _, column in shown)
        return f"Run: CREATE UNIQUE INDEX ON {identifier(schema)}.{identifier(table)} ({names});"
    return (
        "It is a view: make the unique index on the table that it shows, or, where an INSTEAD OF trigger stores the "
        'rows, set SUPABASE_MODE = "insert".'
    )


def deferrable_constraint(schema: Schema, table: str) -> str | None:
    """The constraint that stands in the way of upserts on the key, as far as the server tells it."""
    info, key = schema.info(table), set(schema.key(table))
    return next((name for name, on in info.deferrable.items() if set(on) == key), None) if info and key else None


def policy_sql(schema: Schema, table: str, *commands: str) -> str:
    """Row-level policies that let every row in: to be narrowed by who uses them."""
    clauses = {"insert": "WITH CHECK (true)", "update": "USING (true) WITH CHECK (true)", "select": "USING (true)"}
    name, role = qualified(schema, table), identifier(schema.role)
    return " ".join(
        f"CREATE POLICY scrapy_{command} ON {name} FOR {command} TO {role} {clauses[command]};" for command in commands
    )


def add_column_sql(schema: Schema, table: str, types: Mapping[str, str]) -> str:
    """Columns of these names and types."""
    name = qualified(schema, table)
    return " ".join(f"ALTER TABLE {name} ADD COLUMN {identifier(column)} {kind};" for column, kind in types.items())


def no_collector(schema: Schema, table: str) -> str:
    """What is to be done where the column that is to take unknown fields cannot."""
    sql = add_column_sql(schema, table, {schema.unknown.column: "jsonb"})
    return f"SUPABASE_UNKNOWN_COLUMNS must be drop, reject or a jsonb column. To make it, run: {sql}"


def snapshot_sql(schema: Schema, table: str) -> str:
    """The columns that tell one run's rows from another's, in the key. An upsert needs all of it unique."""
    name, key = qualified(schema, table), [c for c in schema.key(table) if c not in SNAPSHOT_STAMPS]
    info = schema.info(table)
    listed = columns([*key, *SNAPSHOT_STAMPS])
    add = (
        f"ALTER TABLE {name} ADD COLUMN IF NOT EXISTS snapshot_date date NOT NULL DEFAULT current_date, "
        "ADD COLUMN IF NOT EXISTS snapshot_version integer NOT NULL DEFAULT 1"
    )
    if info and key and set(key) == set(info.primary_key):  # it would let each key in only once
        return f"{add}, DROP CONSTRAINT {identifier(f'{table}_pkey')}, ADD PRIMARY KEY ({listed});"
    return f"{add}; CREATE UNIQUE INDEX ON {name} ({listed});"


def lacks(table: str, names: Sequence[str]) -> str:
    """What is said of columns that a table has not."""
    return f"Table {table} has no column{'s' * (len(names) > 1)} {', '.join(map(repr, names))}"


def unknown_columns(schema: Schema, table: str, types: Mapping[str, str]) -> str:
    """What is said of fields that have no column; `types` are those that would take their values."""
    names = list(types)
    one = len(names) == 1
    done = {
        "drop": "it is left out" if one else "they are left out",
        "reject": f"rows that have {'it' if one else 'one of them'} are rejected",
        "collect": f"{'it is' if one else 'they are'} collected in column {schema.unknown.column!r}",
    }[schema.unknown.policy]
    them, sql = "it" if one else "them", add_column_sql(schema, table, types)
    return f"{lacks(table, names)}: {done} (SUPABASE_UNKNOWN_COLUMNS). To store {them}, run: {sql}"


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


def qualified(schema: Schema, table: str) -> str:
    """A table's name with that of its database schema."""
    return f"{identifier(schema.database_schema)}.{identifier(table)}"
