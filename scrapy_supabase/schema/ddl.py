"""Fields → the SQL of a table that stores them: CREATE TABLE, unique index, grants, row-level security.

The SQL is for a migration file or Supabase's SQL editor. It leaves existing tables as they are and may be run again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from scrapy_supabase.backends.bulk_sql import literal
from scrapy_supabase.backends.catalog import KEEP_NEWEST
from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.models import SNAPSHOT_STAMPS, Mode
from scrapy_supabase.schema.item_fields import ItemField, columns_sent, of_new_table
from scrapy_supabase.schema.remedies import columns, identifier, rights
from scrapy_supabase.schema.table_spec import TableSpec, Unseen

_ROW_ID = "id"  # the key column of tables whose items have no key
_LONGEST_NAME = 63  # bytes
SYSTEM_COLUMNS = ("tableoid", "xmin", "cmin", "xmax", "cmax", "ctid")
"""The columns that PostgreSQL gives every table."""

_SHORT = {"timestamp with time zone": "timestamptz", "time without time zone": "time"}


@dataclass(frozen=True, slots=True)
class Table:
    """A table to create. With an empty `primary_key`, rows get a number, in the column `row_id`.

    `unique`: the columns of the unique index. `foreign_keys`: column → what it references, as SQL.
    """

    # Twelve fields: the parts of a CREATE TABLE and its grants. Eight have defaults.
    name: str
    schema: str
    columns: tuple[ItemField, ...]
    primary_key: tuple[str, ...]
    unique: tuple[str, ...] = ()
    mode: Mode = Mode.UPSERT
    role: str = "service_role"
    readable: bool = False  # by everyone with the project's public key
    notes: tuple[str, ...] = ()
    row_id: str = _ROW_ID
    foreign_keys: Mapping[str, str] = field(default_factory=dict)
    unseen: Unseen | None = None


def table_of(
    spec: TableSpec,
    fields: Iterable[ItemField],
    *,
    schema: str = "public",
    role: str = "service_role",
    collect: str = "",
    readable: bool = False,
    source: str = "",
) -> Table:
    """Return the table for items with `fields`.

    `spec` has its name, mode, key and stamps. `collect` is the jsonb column for unknown fields (empty: none), `source`
    the first note in the SQL.
    """
    table = table_from(spec, columns_sent(spec, fields), schema=schema, role=role, collect=collect)
    return replace(table, readable=readable, notes=((source, *table.notes) if source else table.notes))


def table_from(
    spec: TableSpec, sent: Mapping[str, ItemField], *, schema: str = "public", role: str = "service_role", collect: str
) -> Table:
    """Return the table for items that send the columns `sent`; see `table_of`."""
    typed = dict(sent)
    if spec.json_column:  # fields without a column of their own are in that column
        typed = {name: one for name, one in typed.items() if name in spec.explicit_columns or one.primary_key}
    elif collect:
        typed.setdefault(collect, ItemField(collect, "jsonb"))
    typed = of_new_table(spec, typed)
    snapshots = SNAPSHOT_STAMPS if spec.snapshots else ()
    primary = tuple(name for name, one in typed.items() if one.primary_key)
    if primary:
        primary = tuple(dict.fromkeys([*primary, *snapshots]))
    elif spec.on_conflict:
        primary = spec.on_conflict
    elif _ROW_ID in typed:
        primary = (_ROW_ID, *snapshots)
    unique = spec.on_conflict if set(spec.on_conflict) != set(primary) else ()
    for name in (*primary, *unique):
        typed[name] = replace(typed.get(name, ItemField(name)), required=True)
    notes = [f"{name}: type unknown; text accepts any value." for name, one in typed.items() if not one.sql_type]
    for reference in spec.writing.references:
        column, of = reference.column, f"{reference.table}.{reference.id}"
        notes.append(f"{column}: the value of {of}. If that is no bigint, change the type.")
    if not primary and not unique and spec.mode is not Mode.INSERT:
        notes.append(
            "No columns are known to make a row unique: rows sent twice are stored twice. Add --key, or set "
            "SUPABASE_ON_CONFLICT."
        )
    return Table(
        spec.name,
        schema,
        tuple(typed.values()),
        primary,
        unique,
        spec.mode,
        role,
        notes=tuple(notes),
        unseen=spec.unseen,
    )


def create_sql(table: Table) -> str:
    """Return the statements for a migration file. Raises `ConfigurationError` for invalid names."""
    check_names(table.name, [one.name for one in table.columns])
    name = f"{identifier(table.schema)}.{identifier(table.name)}"
    lines = [f"-- {' '.join(note.split())}" for note in table.notes]  # a field's name may have line ends
    lines += [f"create table if not exists {name} (", ",\n".join(_columns(table)), ");"]
    if table.unique:
        index = identifier(name_of(f"{table.name}__{'_'.join(table.unique)}_key"))
        lines += [f"create unique index if not exists {index} on {name} ({columns(table.unique)});"]
    granted = rights(table.mode, table.unseen)
    lines += ["", f"grant {granted} on {name} to {identifier(table.role)};"]
    lines += [f"alter table {name} enable row level security;"]
    if table.role != "service_role":  # service_role bypasses row-level security
        for command in sorted(granted.split(", ")):
            lines += open_policy(name, f"scrapy may {command}", command, table.role)
    if table.readable:
        lines += [f"grant select on {name} to anon, authenticated;"]
        lines += open_policy(name, "everybody may read", "select", "")
    return "\n".join(lines) + "\n"


def snapshots_sql(schema: str = "public") -> str:
    """Return the SQL of the function that assigns the versions of daily snapshots."""
    text = Path(__file__).with_name("snapshots.sql").read_text()
    return text.replace("public.", f"{identifier(schema)}.")


def newest_sql(name: str, column: str, schema: str = "public") -> str:
    """Return the SQL of a trigger that keeps a stored row if an update has an older value of a column.

    Updates with an equal value, or with NULL on either side, are applied. The comparison is in the trigger's WHEN
    clause, so that an update that is applied calls no function. Raises `ConfigurationError` for invalid names.
    """
    check_names(name, [column])
    table, by = f"{identifier(schema)}.{identifier(name)}", identifier(column)
    function = f"{identifier(schema)}.scrapy_keep_stored_row"
    note = " ".join(f"Keeps the stored row of {name} if an update has an older {column}.".split())
    return (
        f"-- {note}\n"
        f"create or replace function {function}() returns trigger\n"
        "language plpgsql set search_path = '' as $$ begin return null; end $$;\n"
        f"create or replace trigger {KEEP_NEWEST} before update on {table}\n"
        f"for each row when (new.{by} < old.{by}) execute function {function}();\n"
    )


def ledger_sql(name: str, schema: str = "public") -> str:
    """Return the SQL of the ledger of runs, as a table of this name."""
    text = Path(__file__).with_name("ledger.sql").read_text()
    index = identifier(f"{name}_by_start"[:63])
    text = text.replace("scrapy_runs_by_start", index).replace(
        'SUPABASE_RUNS_TABLE = "scrapy_runs"', "SUPABASE_RUNS_TABLE"
    )
    return text.replace("public.scrapy_runs", f"{identifier(schema)}.{identifier(name)}")


def name_of(text: str) -> str:
    """Return a name of at most 63 bytes. PostgreSQL would cut a longer one, and two indexes might get the same name."""
    if len(text.encode()) <= _LONGEST_NAME:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{text.encode()[: _LONGEST_NAME - 9].decode(errors='ignore')}_{digest}"


def is_column_name(name: str) -> bool:
    """Return whether a column may have this name."""
    return bool(name) and "\0" not in name and len(name.encode()) <= _LONGEST_NAME and name not in SYSTEM_COLUMNS


def check_names(table: str, names: Iterable[str]) -> None:
    """Raise `ConfigurationError` for invalid or duplicate names of table and columns."""
    seen: set[str] = set()
    for kind, name in [("table", table), *(("column", one) for one in names)]:
        if not isinstance(name, str) or not name or "\0" in name:
            raise ConfigurationError(f"Invalid {kind} name {name!r}: it must be a text that is not empty.")
        if len(name.encode(errors="replace")) > _LONGEST_NAME:
            remedy = "Map the field to a shorter name in SUPABASE_TABLES (columns), or rename it."
            raise ConfigurationError(
                f"The {kind} name {name!r} is longer than PostgreSQL's limit of {_LONGEST_NAME} bytes. "
                f"{'Use a shorter name.' if kind == 'table' else remedy}"
            )
        if kind == "column" and (name in SYSTEM_COLUMNS or name in seen):
            raise ConfigurationError(
                f"Column {name!r} is a system column of every table, or used twice. Map the field to another column in "
                "SUPABASE_TABLES (columns), or rename it."
            )
        seen.add(name if kind == "column" else "")


def _columns(table: Table) -> list[str]:
    lines = []
    if not table.primary_key:
        lines.append(f"  {identifier(table.row_id)} bigint generated always as identity primary key")
    for one in table.columns:
        target = table.foreign_keys.get(one.name)
        lines.append(f"  {column_sql(one, required=one.required)}{f' references {target}' if target else ''}")
    if table.primary_key:
        lines.append(f"  primary key ({columns(table.primary_key)})")
    return lines


def column_sql(one: ItemField, *, required: bool = False) -> str:
    """Return the definition of a column."""
    text = f"{identifier(one.name)} {_SHORT.get(one.sql_type, one.sql_type) or 'text'}"
    if required:
        text += " not null"
    if one.choices:
        listed = ", ".join(literal(choice).strip() for choice in one.choices)
        text += f" check ({identifier(one.name)} in ({listed}))"
    return text


_CLAUSES: Mapping[str, str] = {
    "insert": "with check (true)",
    "update": "using (true) with check (true)",
    "select": "using (true)",
    "delete": "using (true)",
}


def open_policy(name: str, title: str, command: str, role: str) -> Sequence[str]:
    """Return the SQL of a policy that allows every row. PostgreSQL has no `create policy if not exists`."""
    to = f" to {identifier(role)}" if role else ""
    return (
        f'drop policy if exists "{title}" on {name};',
        f'create policy "{title}" on {name} for {command}{to} {_CLAUSES[command]};',
    )
