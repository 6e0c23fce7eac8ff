"""The remedies in messages: SQL for Supabase's SQL editor, and sentences about columns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from scrapy_supabase.backends.answers import RELOAD_SQL
from scrapy_supabase.backends.base import View
from scrapy_supabase.errors import ServerError, denied
from scrapy_supabase.models import SNAPSHOT_STAMPS, Mode
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.schema.table_spec import Unseen

PUBLIC_ROLE = "anon"
BYPASS_POLICIES = ("service_role", "postgres")
"""The roles that row-level security does not concern."""

GENERATED_COLUMN = "Table %s generates column %r itself: the items' values for it are not sent."


def for_missing_table(schema: Schema, table: str, ddl: str, *, is_local: bool) -> str:
    """Return the remedy for a table that does not exist. `ddl` is the command that prints its SQL."""
    prefix, dot, name = table.partition(".")
    if dot and prefix and name:
        return (
            f"Did you mean {name!r}? The name of a table does not contain its schema. The schema is set by "
            f"SUPABASE_SCHEMA, which is {schema.database_schema!r}."
        )
    correct = "correct SUPABASE_TABLE, SUPABASE_TABLES or SUPABASE_SCHEMA"
    if is_local:
        return (
            f"If the name is wrong, {correct}. A local Supabase gets its tables from the SQL files in the folder "
            "SUPABASE_MIGRATIONS, or from crawls with SUPABASE_CREATE_TABLES = True. To create the table now, run: "
            f"{ddl} --apply"
        )
    return f"Create it ({ddl} prints the SQL), or {correct}. If it is new, run: {RELOAD_SQL}"


def for_denied(schema: Schema, table: str, error: ServerError, needed: str = "") -> str:
    """Return the remedy for a missing grant. The role of the public key never gets one: that would open the table.

    `needed` are the privileges, by default those that the mode of the table needs.
    """
    if schema.role != PUBLIC_ROLE:
        return f"Run: {grant_sql(schema, table, error, schema.role, needed)}"
    return (
        "SUPABASE_KEY is the project's public key, which is made for browsers. Use the secret key (Supabase dashboard "
        "> Project Settings > API keys). If its role lacks the grant, too, run: "
        f"{grant_sql(schema, table, error, 'service_role', needed)}"
    )


def grant_sql(schema: Schema, table: str, error: ServerError, role: str, needed: str = "") -> str:
    """Return the GRANTs that `role` needs: the privileges `needed`, by default those for mode and options of the table.

    `error` names what was denied: the table, its schema, or another object that an insert needs (a sequence, a table
    that a trigger writes to). New tables on hosted Supabase have no grants since 2026-10-30.
    """
    kind, denied_name = denied(error.message) or ("table", table)
    role = identifier(role)
    if kind == "sequence":
        return f"GRANT usage ON SEQUENCE {qualified(schema, denied_name)} TO {role};"
    usage = f"GRANT usage ON SCHEMA {identifier(denied_name)} TO {role}; " if kind == "schema" else ""
    name = qualified(schema, denied_name if kind == "table" else table)
    if not needed:
        needed = rights(schema.specs[table].mode, schema.specs[table].unseen)
    return f"{usage}GRANT {needed} ON {name} TO {role};"


def rights(mode: Mode, unseen: Unseen | None = None) -> str:
    """Return the privileges that a mode and the options `unseen` and `replace` need, as a list for GRANT."""
    needed = {
        Mode.UPSERT: {"select", "insert", "update"},
        Mode.IGNORE: {"select", "insert"},
        Mode.INSERT: {"insert"},
        Mode.UPDATE: {"select", "update"},
    }[mode]
    if unseen is not None:
        needed |= {"select", "delete" if unseen.deletes else "update"}
    return ", ".join(each for each in ("select", "insert", "update", "delete") if each in needed)


def unique_index_sql(schema: Schema, table: str, error: ServerError | None = None) -> str:
    """Return the SQL of the unique index that an upsert on the key needs. `error` is the answer to an upsert.

    A deferrable constraint (55000) is replaced, since it prevents upserts even beside another index on the same columns
    (measured). If its name is unknown, the SQL has PostgreSQL's default name.
    """
    if error is not None and error.code == "55000":
        key, info = schema.key(table), schema.info(table)
        primary = info is not None and key == info.primary_key
        default_name = f"{table}_pkey" if primary else f"{'_'.join((table, *key))}_key"
        constraint = deferrable_constraint(schema, table) or default_name
        change = f"DROP CONSTRAINT {identifier(constraint)}, ADD {'PRIMARY KEY' if primary else 'UNIQUE'}"
        return f"ALTER TABLE {qualified(schema, table)} {change} ({columns(key)});"
    return f"CREATE UNIQUE INDEX ON {qualified(schema, table)} ({columns(schema.key(table))});"


def for_upserts(schema: Schema, table: str, error: ServerError) -> str:
    """Return the remedy for a table without a unique index for upserts. `error` is the answer to an upsert."""
    info, key = schema.info(table), schema.key(table)
    if (view := schema.view(table)) is not None:
        return _for_upserts_to_view(view, key)
    partial = [name for name, indexed in (info.partial_indexes if info else {}).items() if set(indexed) == set(key)]
    if partial:
        return (
            f"Its unique index {partial[0]} is partial (it has a WHERE clause), and upserts cannot use it. Create one "
            'without WHERE, set SUPABASE_ON_CONFLICT to other columns, or set SUPABASE_MODE = "insert".'
        )
    return f"Run: {unique_index_sql(schema, table, error)}"


def _for_upserts_to_view(view: View, key: Sequence[str]) -> str:
    """Return the remedy for a view: an index on its table, or for an INSTEAD OF trigger the mode insert."""
    if view.has_trigger:
        return 'It is a view whose INSTEAD OF trigger stores the rows: set SUPABASE_MODE = "insert".'
    sources = [view.shows[column] for column in key if column in view.shows]
    if sources and len(sources) == len(key):
        schema, table, _ = sources[0]
        names = columns(column for _, _, column in sources)
        return f"Run: CREATE UNIQUE INDEX ON {identifier(schema)}.{identifier(table)} ({names});"
    return (
        "It is a view: create the unique index on its table. If an INSTEAD OF trigger stores the rows, set "
        'SUPABASE_MODE = "insert" instead.'
    )


def deferrable_constraint(schema: Schema, table: str) -> str | None:
    """Return the deferrable constraint that prevents upserts on the key; None if there is none or it is unknown."""
    info, key = schema.info(table), set(schema.key(table))
    return next((name for name, on in info.deferrable.items() if set(on) == key), None) if info and key else None


def policy_sql(schema: Schema, table: str, *commands: str) -> str:
    """Return row-level policies that allow every row. The user should narrow them."""
    clauses = {"insert": "WITH CHECK (true)", "update": "USING (true) WITH CHECK (true)", "select": "USING (true)"}
    name, role = qualified(schema, table), identifier(schema.role)
    return " ".join(
        f"CREATE POLICY scrapy_{command} ON {name} FOR {command} TO {role} {clauses[command]};" for command in commands
    )


def add_column_sql(schema: Schema, table: str, types: Mapping[str, str]) -> str:
    """Return the statements that add columns of these names and types."""
    name = qualified(schema, table)
    return " ".join(f"ALTER TABLE {name} ADD COLUMN {identifier(column)} {kind};" for column, kind in types.items())


def no_collector(schema: Schema, table: str) -> str:
    """Return the remedy for a missing column for unknown fields or for whole items."""
    sql = add_column_sql(schema, table, {schema.collector(table): "jsonb"})
    if schema.specs[table].json_column:
        return f"json_column must name a jsonb column of table {table}. To create it, run: {sql}"
    return f"SUPABASE_UNKNOWN_COLUMNS must be drop, reject or a jsonb column. To create the column, run: {sql}"


def snapshot_sql(schema: Schema, table: str) -> str:
    """Return the SQL that adds the columns of daily snapshots to the table and to its unique key."""
    name, key = qualified(schema, table), [c for c in schema.key(table) if c not in SNAPSHOT_STAMPS]
    info = schema.info(table)
    listed = columns([*key, *SNAPSHOT_STAMPS])
    add = (
        f"ALTER TABLE {name} ADD COLUMN IF NOT EXISTS snapshot_date date NOT NULL DEFAULT current_date, "
        "ADD COLUMN IF NOT EXISTS snapshot_version integer NOT NULL DEFAULT 1"
    )
    if info and key and set(key) == set(info.primary_key):  # the old primary key would allow each key only once
        return f"{add}, DROP CONSTRAINT {identifier(f'{table}_pkey')}, ADD PRIMARY KEY ({listed});"
    return f"{add}; CREATE UNIQUE INDEX ON {name} ({listed});"


def lacks(table: str, names: Sequence[str]) -> str:
    """Return the sentence, without its full stop, about columns that a table lacks."""
    noun = "column" if len(names) == 1 else "columns"
    return f"Table {table} has no {noun} {', '.join(map(repr, names))}"


def update_needs_key(table: str, key: Sequence[str]) -> str:
    """Return the reason why a row without a key is rejected in mode update."""
    return f"mode update of table {table} needs a value for its key ({', '.join(key)})"


def unknown_columns(schema: Schema, table: str, types: Mapping[str, str]) -> str:
    """Return the warning about fields without a column. `types` maps them to the types of the columns to add."""
    names = list(types)
    one = len(names) == 1
    fields = "the field is" if one else "the fields are"
    consequence = {
        "drop": f"{fields} left out",
        "reject": f"rows with {'the field' if one else 'one of the fields'} are rejected",
        "collect": f"{fields} stored in column {schema.unknown.column!r}",
    }[schema.policy(table)]
    text = f"{lacks(table, names)}: {consequence} (SUPABASE_UNKNOWN_COLUMNS)."
    if similar := _similar_columns(schema, table, names):
        mapping = ", ".join(f'"{name}": "{column}"' for name, column in similar.items())
        text += (
            f" Did you mean {', '.join(map(repr, similar.values()))}? Then map the fields in SUPABASE_TABLES: "
            f'"columns": {{{mapping}}}.'
        )
    if new := {name: kind for name, kind in types.items() if name not in similar}:
        them = ", ".join(map(repr, new)) if similar else "it" if one else "them"
        text += f" To store {them}, run: {add_column_sql(schema, table, new)}"
    return text


def _similar_columns(schema: Schema, table: str, names: Sequence[str]) -> dict[str, str]:
    """Return name → the column that differs from it only by case, blanks or punctuation."""
    info = schema.info(table)
    stored = info.columns if info else ()  # may still have a column that was dropped during the crawl
    by_letters = {_letters(column): column for column in stored if column not in names}
    return {name: by_letters[_letters(name)] for name in names if _letters(name) in by_letters}


def _letters(name: str) -> str:
    return re.sub(r"[\W_]", "", name).casefold() or name


def identifier(name: str) -> str:
    """Return a name for SQL, quoted if necessary."""
    plain = name.isidentifier() and name.isascii() and name == name.lower() and name not in _RESERVED
    return name if plain else '"' + name.replace('"', '""') + '"'


# The reserved words of PostgreSQL 18: `select word from pg_get_keywords() where catcode in ('R', 'T')`.
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
    """Return names as a comma-separated SQL list."""
    return ", ".join(map(identifier, names))


def qualified(schema: Schema, table: str) -> str:
    """Return a table's name, qualified with its database schema."""
    return f"{identifier(schema.database_schema)}.{identifier(table)}"
