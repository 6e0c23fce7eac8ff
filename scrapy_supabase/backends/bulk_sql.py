"""The bulk statement in PostgREST's shape: rows as one JSON parameter, cast by the server, inserted or upserted.

The database backend and the local gateway share it. `quote` quotes every name; types come from the catalog
(`format_type`), never from a user. The JSON is parameter `$1`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

_COUNT = "coalesce(nullif(current_setting('pgrst.inserted', true), '')::int, 0)"
_COUNT_IN = f"set_config('pgrst.inserted', ({_COUNT} + 1)::text, true) <> '0'"
_COUNT_OUT = f"set_config('pgrst.inserted', ({_COUNT} - 1)::text, true) <> '-1'"


class BulkInsert(msgspec.Struct, frozen=True):
    """An insert or upsert: `columns` maps names to types; an empty `on_conflict` means a plain insert.

    `defaults` (name → SQL expression) fill in the fields that a row lacks; with them, the JSON is read as jsonb.
    `count_inserted` counts the new rows in the setting `pgrst.inserted`. `single`: the JSON is one object instead of an
    array.
    """

    schema: str
    table: str
    columns: Mapping[str, str]
    on_conflict: Sequence[str] = ()
    merge: bool = True
    defaults: Mapping[str, str] | None = None
    count_inserted: bool = False
    single: bool = False

    def sql(self, parameter: str = "$1", conditions: Sequence[str] = ()) -> str:
        """Return the statement, without RETURNING. `conditions` select among the JSON's rows (`pgrst_body`)."""
        names = ", ".join(map(quote, self.columns))
        target = f"INSERT INTO {quote(self.schema)}.{quote(self.table)}"
        target += f"({names}) " if names else " "
        wanted = [*conditions, *([_COUNT_IN] if self.count_inserted else [])]
        where = f" WHERE {' AND '.join(wanted)}" if wanted else ""
        return f"{target}{rows_from_json(self, parameter)}{where}{self._conflict()}"

    def _conflict(self) -> str:
        if not self.on_conflict:
            return ""
        target = f" ON CONFLICT ({', '.join(map(quote, self.on_conflict))}) DO "
        if not self.merge or not self.columns:
            return target + "NOTHING"
        changes = ", ".join(f"{quote(name)} = EXCLUDED.{quote(name)}" for name in self.columns)
        return f"{target}UPDATE SET {changes}" + (f" WHERE {_COUNT_OUT}" if self.count_inserted else "")


def rows_from_json(insert: BulkInsert, parameter: str) -> str:
    """Return `SELECT … FROM json_to_recordset($1)`: the JSON's rows with the columns' types."""
    listed = ", ".join(f"pgrst_body.{quote(name)}" for name in insert.columns)
    typed = ", ".join(f"{quote(name)} {kind}" for name, kind in insert.columns.items())
    source, function = f"{parameter}::json", "json_to_record" if insert.single else "json_to_recordset"
    if insert.defaults is not None and insert.columns:
        pairs = ", ".join(f"{literal(name)}, {expression}" for name, expression in insert.defaults.items())
        each = f"{parameter}::jsonb" if insert.single else "element"
        merged = f"jsonb_build_object({pairs}) || {each}"
        function = "jsonb_to_record" if insert.single else "jsonb_to_recordset"
        source = (
            merged
            if insert.single
            else (f"(SELECT coalesce(jsonb_agg({merged}), '[]') FROM jsonb_array_elements({parameter}::jsonb) element)")
        )
    if not insert.columns:
        # `{}` is one row of defaults, `[{}, {}]` are two, `[]` is none.
        if insert.single:
            return f"SELECT FROM (SELECT {parameter}::json) pgrst_body"
        return f"SELECT FROM json_array_elements({parameter}::json) pgrst_body"
    return f"SELECT {listed} FROM {function}({source}) AS pgrst_body({typed})"


def returning_json(statement: str, columns: Sequence[str]) -> str:
    """Return `statement` with a result: these columns of each written row, as one JSON array."""
    listed = ", ".join(map(quote, columns)) or "1"
    # As in `select_json`, the alias must not be the name of a column.
    written = f"WITH pgrst_source AS ({statement} RETURNING {listed})"
    return f"{written} SELECT coalesce(json_agg(pgrst_source), '[]') FROM pgrst_source"


def select_json(
    schema: str, table: str, columns: Sequence[str], where: str, order: Iterable[tuple[str, bool]], limit: int
) -> str:
    """Return the statement that reads rows as one JSON array. `order` has columns, with whether it is descending."""
    listed = ", ".join(map(quote, columns)) or "*"
    terms = ", ".join(quote(column) + (" DESC" if descending else "") for column, descending in order)
    ordered = f" ORDER BY {terms}" if terms else ""
    source = f"SELECT {listed} FROM {quote(schema)}.{quote(table)} WHERE {where}{ordered} LIMIT {limit}"
    # The alias must not be the name of a column, which `json_agg` would take instead of the row.
    return f"SELECT coalesce(json_agg(pgrst_source), '[]') FROM ({source}) pgrst_source"


def quote(name: str) -> str:
    """Quote an identifier: PostgreSQL has no other character to escape."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Quote a text as a literal, valid with either value of `standard_conforming_strings`."""
    doubled = text.replace("'", "''")
    return f"'{doubled}'" if "\\" not in doubled else " E'" + doubled.replace("\\", "\\\\") + "'"


def array_literal(values: Iterable[str]) -> str:
    """Return texts in the notation of a PostgreSQL array: `{"a","b"}`."""
    quoted = ('"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' for value in values)
    return "{" + ",".join(quoted) + "}"
