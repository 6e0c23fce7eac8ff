"""Reads the rows of a table page by page, beyond the server's limit of rows per request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import partial
from typing import Any

import msgspec
from msgspec.structs import replace

from scrapy_supabase.backends.answers import RELOAD_SQL
from scrapy_supabase.backends.base import Backend, Order, Select, TableInfo
from scrapy_supabase.backends.keyset import sections
from scrapy_supabase.backends.open_policy import OpenPolicy
from scrapy_supabase.errors import (
    BadRowsError,
    ConfigurationError,
    FatalError,
    SchemaDriftError,
    ServerError,
    TooLargeError,
    TransientError,
    fatal,
)
from scrapy_supabase.rows.values import text_of_json
from scrapy_supabase.schema.column_types import kind_of
from scrapy_supabase.schema.remedies import for_denied
from scrapy_supabase.schema.schema import Schema

StoredRow = dict[str, Any]


class TableReader:
    """Reads tables of `backend`; `schema` is for messages, and `policy` makes the requests. Thread-safe."""

    def __init__(self, backend: Backend, schema: Schema, *, policy: OpenPolicy) -> None:
        self._backend = backend
        self._schema = schema
        self._wait = policy.wait_for_schema
        self._policy = partial(policy.run, "Reading rows")
        self._tables: Mapping[str, TableInfo] | None = None

    def pages(self, select: Select, key: tuple[str, ...] = ()) -> Iterator[list[StoredRow]]:
        """Yield the selected rows in their order, page by page. Blocks. `select.limit` is the most rows of a page.

        `key` names columns that identify a row, by default the primary key; they are added to the order. Values are as
        JSON has them, but those of `numeric` columns are `Decimal`.

        Raises `ConfigurationError` if the key is not known, and `FatalError` if the table cannot be read.
        """
        try:
            yield from self._pages(select, key)
        except ServerError as error:
            raise self._explained(select.table, error) from error

    def primary_key(self, table: str) -> tuple[str, ...]:
        """Return the primary key of a table; empty if it is not known. Raises `FatalError`."""
        try:
            info = self._info(table)
        except ServerError as error:
            raise self._explained(table, error) from error
        return info.primary_key if info else ()

    def _pages(self, select: Select, key: tuple[str, ...]) -> Iterator[list[StoredRow]]:
        table, info = select.table, self._info(select.table)
        key = key or (info.primary_key if info else ())
        if not key:
            self._select(replace(select, limit=1))  # the table may be missing
            raise ConfigurationError(_no_key(table))
        named = {each.column for each in select.order}
        order = (*select.order, *(Order(column) for column in key if column not in named))
        types = {**info.columns, **info.key_types} if info else {}
        for each in order:
            if kind_of(kind := types.get(each.column, "")) == "json" or kind.endswith("[]"):
                raise ConfigurationError(_no_order(table, each.column, kind))
        columns = dict.fromkeys((*select.columns, *(each.column for each in order)))
        drops = [column for column in columns if column not in select.columns] if select.columns else []
        numbers = _Numbers(self._backend, table, info)
        never_null = {*info.primary_key, *info.required, *info.perhaps_required} if info else ()
        limit = select.limit
        for section in sections(order, never_null):
            where = section.after(None)
            while where is not None:
                page = replace(
                    select,
                    columns=tuple(columns) if select.columns else (),
                    where=(*select.where, *where),
                    order=order,
                    limit=limit,
                )
                try:
                    body = self._select(page)
                except TooLargeError:
                    if limit == 1:
                        raise
                    limit = max(limit // 4, 1)
                    continue
                rows = self._policy(numbers.decode, body)
                if not rows:  # a page with fewer rows than `limit` is not the last one if the server has a lower limit
                    break
                last = msgspec.json.decode(msgspec.json.decode(body, type=list[msgspec.Raw])[-1], type=_RawRow)
                position = {each.column: text_of_json(last[each.column]) for each in order}
                if nulls := [column for column in key if position[column] is None]:
                    raise ConfigurationError(_null_in_key(table, nulls[0]))
                where = section.after(list(position.values()))
                for row in rows if drops else ():
                    for column in drops:
                        del row[column]
                yield rows

    def _info(self, table: str) -> TableInfo | None:
        if self._tables is None:
            self._tables = self._policy(self._backend.describe) or {}
        return self._tables.get(table)

    def _select(self, select: Select) -> bytes:
        """Make a request with retries, and once more if the server may not know a new table yet."""
        try:
            return self._policy(self._backend.select, select)
        except ServerError as error:
            if not error.stale_schema:
                raise
        self._wait()
        return self._policy(self._backend.select, select)

    def _explained(self, table: str, error: ServerError) -> FatalError:
        """Return the error with its finish reason and remedy."""
        if isinstance(error, TransientError):
            remedy = error.remedy or "Check that the project is running, and check SUPABASE_URL or SUPABASE_DB_URL."
            return fatal(error, "supabase_unavailable", remedy)
        if isinstance(error, SchemaDriftError):
            info = (self._tables or {}).get(table)
            has = f" It has: {', '.join(info.columns)}." if info else ""
            return fatal(error, "supabase_schema", f"Correct the name of the column of table {table}.{has}")
        if isinstance(error, BadRowsError):
            return fatal(error, "supabase_error", f"Correct the value for the column of table {table}.")
        if isinstance(error, TooLargeError):
            return fatal(error, "supabase_error", f"Create an index on the columns by which table {table} is read.")
        if not isinstance(error, FatalError):
            return fatal(error, "supabase_error", "")
        if error.reason == "supabase_permission_denied":
            return fatal(error, error.reason, for_denied(self._schema, table, error, "select"))
        if error.reason == "supabase_no_table":
            remedy = f"Correct the name of the table or SUPABASE_SCHEMA. If the table is new, run: {RELOAD_SQL}"
            return fatal(error, error.reason, remedy)
        return error


class _Numbers:
    """Decodes pages of a table: the values of `numeric` columns to `Decimal`, as a float would change them."""

    def __init__(self, backend: Backend, table: str, info: TableInfo | None) -> None:
        self._backend = backend
        self._table = table
        self._types = {**info.columns, **info.key_types} if info else {}

    def decode(self, body: bytes) -> list[StoredRow]:
        """Return the rows of a page. Raises `ServerError`."""
        rows: list[StoredRow] = msgspec.json.decode(body)
        numeric = [column for column in (rows[0] if rows else ()) if self._is_numeric(column, rows)]
        if numeric:
            for row, raw in zip(rows, msgspec.json.decode(body, type=list[_RawRow]), strict=True):
                for column in numeric:
                    if isinstance(row[column], (int, float, str)):  # texts are NaN and Infinity
                        row[column] = Decimal(text_of_json(raw[column]) or "")
        return rows

    def _is_numeric(self, column: str, rows: list[StoredRow]) -> bool:
        kind = self._types.get(column, "")
        if kind_of(kind):
            return kind == "numeric" or kind.startswith("numeric(")
        if not any(type(row[column]) in (int, float) for row in rows):
            return False
        if not kind:  # a key that may not read the description of tables
            kind = self._types[column] = self._backend.type_of(self._table, column) or "json"
            return self._is_numeric(column, rows)
        return True  # over REST, a domain, whose base type is not known


_RawRow = dict[str, msgspec.Raw]


def _no_key(table: str) -> str:
    return (
        f"The primary key of table {table} is not known, and its rows are read page by page in the order of a key. "
        f"Name columns that identify a row: key=…"
    )


def _no_order(table: str, column: str, kind: str) -> str:
    return (
        f"Column {column!r} of table {table} is of type {kind}, in whose order rows cannot be read page by page. Name "
        "another column in order=… or key=…."
    )


def _null_in_key(table: str, column: str) -> str:
    return (
        f"Column {column!r} of table {table} is in key=… and has a NULL, which identifies no row. Name other columns, "
        f'or leave these rows out: where={{"{column}": {{"not": None}}}}.'
    )
