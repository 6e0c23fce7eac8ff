"""The SQL of a history table: a trigger adds a row to it when one of the watched columns of a table changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scrapy_supabase.schema.ddl import check_names, name_of, open_policy
from scrapy_supabase.schema.remedies import columns, identifier

_ID, _TIME = "change_id", "changed_at"
_LOOSER = {"character": "text", "bit": "bit varying"}  # without a length, these types hold one character or bit


@dataclass(frozen=True, slots=True)
class History:
    """The history of the columns `watched` of a table, whose rows `key` identifies.

    `types` has the known types of columns; a column of unknown type gets text, to which PostgreSQL converts any value.
    `seen` is the column with the time of scraping, empty if the table has none. `readable`: by everyone with the
    project's public key.
    """

    table: str
    schema: str
    key: tuple[str, ...]
    watched: tuple[str, ...]
    types: Mapping[str, str]
    seen: str = ""
    role: str = "service_role"
    readable: bool = False


def history_sql(history: History) -> str:
    """Return the SQL of the history table and its triggers. It may be run again, also with more columns.

    The comparison is in the trigger's WHEN clause, so that an update that changes nothing watched calls no function.
    The function runs as its owner: a role that writes to the table needs no rights to the history. Raises
    `ConfigurationError` for invalid names.
    """
    stored = f"{history.table}_history"
    recorded = [name for name in history.watched if name not in history.key]
    check_names(stored, [_ID, *history.key, *recorded, _TIME])
    schema, name = identifier(history.schema), f"{identifier(history.schema)}.{identifier(stored)}"
    table, function = f"{schema}.{identifier(history.table)}", f"{name}()"
    typed = {column: _type(history.types.get(column, "")) for column in (*history.key, *recorded)}
    lines = [f"-- Adds a row to {_plain(stored)} when {_plain(_listed(recorded))} of {_plain(history.table)} changes."]
    lines += [
        f"-- {_plain(column)}: type unknown; text accepts any value."
        for column in typed
        if not history.types.get(column)
    ]
    lines += [
        f"create table if not exists {name} (",
        f"  {_ID} bigint generated always as identity primary key,",
        *(f"  {identifier(column)} {typed[column]} not null," for column in history.key),
        *(f"  {identifier(column)} {typed[column]}," for column in recorded),
        f"  {_TIME} timestamptz not null default now()",
        ");",
        f"alter table {name}",
        ",\n".join(f"  add column if not exists {identifier(column)} {typed[column]}" for column in recorded) + ";",
        f"create index if not exists {identifier(name_of(f'{stored}_by_key'))} on {name}",
        f"  ({columns([*history.key, _TIME])});",
        f"grant select on {name} to {identifier(history.role)};",
        f"alter table {name} enable row level security;",
    ]
    if history.role != "service_role":  # service_role bypasses row-level security
        lines += open_policy(name, "scrapy may select", "select", history.role)
    if history.readable:
        lines += [f"grant select on {name} to anon, authenticated;"]
        lines += open_policy(name, "everybody may read", "select", "")
    sent = [*history.key, *recorded]
    values = [f"new.{identifier(column)}" for column in sent]
    when = f"coalesce(new.{identifier(history.seen)}, now())" if history.seen else "now()"
    lines += [
        "",
        f"create or replace function {function} returns trigger",
        "language plpgsql security definer set search_path = '' as $$",
        "begin",
        f"  insert into {name} ({columns([*sent, _TIME])})",
        f"  values ({', '.join([*values, when])});",
        "  return null;",
        "end $$;",
        f"create or replace trigger scrapy_history_insert after insert on {table}",
        f"for each row execute function {function};",
        f"create or replace trigger scrapy_history_update after update on {table}",
        f"for each row when ({_changes(recorded, typed)})",
        f"execute function {function};",
    ]
    return "\n".join(lines) + "\n"


def _type(found: str) -> str:
    return _LOOSER.get(found, found) or "text"


def _changes(watched: Sequence[str], types: Mapping[str, str]) -> str:
    """Return the condition that one of the columns has another value. The type json has no equality."""
    compared = {column: "::text" if types[column] == "json" else "" for column in watched}
    parts = [
        f"old.{identifier(column)}{cast} is distinct from new.{identifier(column)}{cast}"
        for column, cast in compared.items()
    ]
    return "\n  or ".join(parts)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _plain(text: str) -> str:
    """Return a text for a comment, which ends with its line."""
    return " ".join(text.split())
