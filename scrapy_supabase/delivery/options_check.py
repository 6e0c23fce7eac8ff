"""The check of a table's options when a run opens: columns, key, and the function that some options need over REST."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from scrapy_supabase.backends.base import Backend, Merge, TableInfo, Write
from scrapy_supabase.backends.merge_sql import function_sql
from scrapy_supabase.delivery.snapshot_check import no_snapshots
from scrapy_supabase.delivery.table_writer import no_function
from scrapy_supabase.delivery.unseen import check_unseen
from scrapy_supabase.errors import FatalError, ServerError, fatal
from scrapy_supabase.models import SNAPSHOT_STAMPS, Mode
from scrapy_supabase.schema.remedies import lacks
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.schema.table_spec import TableSpec

logger = logging.getLogger(__name__)


def check_options(spec: TableSpec, schema: Schema, backend: Backend, policy: Callable[..., bool]) -> None:
    """Check what the options of a table need. `policy` calls a function with retries. Raises `ServerError`.

    That is a `FatalError` if the rows cannot be written as the settings ask for.
    """
    writing, table, info = spec.writing, spec.name, schema.info(spec.name)
    if schema.is_plain(table):
        return
    key = schema.key(table)
    if not key:
        raise _wrong("42P10", f"the key of table {table} is not known.", "Set SUPABASE_ON_CONFLICT to its columns.")
    check_key(spec, schema)
    named = (*writing.insert_only, *writing.merge)
    if info is not None:
        if missing := [column for column in named if column not in info.columns]:
            remedy = f"Correct {_options(spec)} in SUPABASE_TABLES, or add the column to the table."
            raise _wrong("PGRST204", f"{lacks(table, missing)}.", remedy)
        for column in writing.merge:
            if not _can_merge(info, column):
                remedy = "merge takes jsonb and array columns: remove it, or change the column's type."
                kind = info.columns[column]
                raise _wrong("42804", f"column {column!r} of table {table} is of type {kind}.", remedy)
    needs_function = spec.mode is Mode.UPDATE or writing.merge or writing.if_changed
    required = info.required if info else frozenset()
    if (needs_function or required & set(writing.insert_only)) and not policy(backend.merges):
        logger.info("%s", function_sql(schema.database_schema, schema.role))
        raise no_function(table)


def check_table(spec: TableSpec, schema: Schema, backend: Backend, policy: Callable[..., Any]) -> None:
    """Check what the options need of the table itself, after a probe. Arguments as for `check_options`."""
    check_key(spec, schema)
    check_unseen(spec, schema, backend, policy)


def check_key(spec: TableSpec, schema: Schema) -> None:
    """Check that the key is not generated. Do so after a probe, too: over REST only its refusal shows that."""
    if schema.is_plain(spec.name):
        return
    generated = schema.generated_columns(spec.name)
    if column := next((column for column in schema.key(spec.name) if column in generated), None):
        remedy = f"Remove {_options(spec)} for this table, or set SUPABASE_ON_CONFLICT to columns that items have."
        raise _wrong("428C9", f"the database generates key column {column!r} of table {spec.name}.", remedy)


def bad_key(spec: TableSpec, schema: Schema, column: str, error: ServerError) -> FatalError:
    """Return the error for a conflict column that the table lacks."""
    if spec.snapshots and column in SNAPSHOT_STAMPS:
        return no_snapshots(schema, spec.name, error)
    known = schema.info(spec.name)
    have = f" It has: {', '.join(known.columns)}." if known else ""
    return fatal(error, "supabase_schema", f"SUPABASE_ON_CONFLICT must name columns of {spec.name}.{have}")


def probe_of(spec: TableSpec, schema: Schema, columns: tuple[str, ...]) -> Write:
    """Return a request without rows that asks for the same rights as those with rows."""
    write = Write(spec.name, columns, b"[]", schema.mode(spec.name), spec.on_conflict)
    if write.mode is not Mode.UPDATE:
        return write
    return Write(spec.name, columns, b"[]", write.mode, schema.key(spec.name), merge=Merge(spec.writing))


def _can_merge(info: TableInfo, column: str) -> bool:
    kind = info.columns[column]
    return kind == "jsonb" or kind.endswith("[]") or kind == "ARRAY"


def _options(spec: TableSpec) -> str:
    """Name the options of a table that plain requests do not do."""
    names = [name for name in ("insert_only", "merge", "if_changed") if getattr(spec.writing, name)]
    return " and ".join([*names, *(["mode update"] if spec.mode is Mode.UPDATE else [])])


def _wrong(code: str, problem: str, remedy: str) -> FatalError:
    return fatal(ServerError(problem, code=code), "supabase_schema", remedy)
