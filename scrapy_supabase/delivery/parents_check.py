"""The check of a table's references when a run opens: the column, the parent's table, its columns and unique index."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from scrapy_supabase.backends.base import Backend, Write
from scrapy_supabase.backends.open_policy import OpenPolicy
from scrapy_supabase.delivery.parent_errors import fatal_for, option_of
from scrapy_supabase.delivery.parent_search import probe_of
from scrapy_supabase.errors import BadRowsError, FatalError, ServerError, TransientError, fatal
from scrapy_supabase.models import Mode, Reference
from scrapy_supabase.schema.column_types import sql_name
from scrapy_supabase.schema.remedies import add_column_sql, lacks
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.schema.table_spec import TableSpec


class ParentsCheck:
    """Checks references with requests that write nothing, and adds the types of natural keys to `schema`.

    `policy` makes the requests. Warnings go to `log`.
    """

    def __init__(self, backend: Backend, schema: Schema, policy: OpenPolicy, log: logging.Logger) -> None:
        self._backend = backend
        self._schema = schema
        self._policy = partial(policy.run, "Checking the tables")
        self._wait = policy.wait_for_schema
        self._log = log

    def check(self, spec: TableSpec) -> None:
        """Check the references of a table. Raises `FatalError`, or `TransientError` if the server is unreachable."""
        info = self._schema.info(spec.name)
        for reference in spec.writing.references:
            column = [reference.column]
            if info is not None and column[0] not in info.columns and not self._schema.creatable(spec.name, column):
                raise no_column(spec, self._schema, reference.column)
            parent, match = reference.table, reference.match
            self._ask(spec, reference, partial(self._backend.select, probe_of(reference)))
            if reference.create:
                fields = spec.references.get(reference.column)  # None for a column of the parent's row
                columns = tuple(sorted({*match, *(fields.columns if fields else ())}))
                self._ask(
                    spec, reference, partial(self._backend.write, Write(parent, columns, b"[]", Mode.IGNORE, match))
                )
                if fields is not None:
                    self._warn_required(spec, reference, columns)
            if self._schema.info(parent) is None:
                types = {column: self._policy(self._backend.type_of, parent, column) for column in match}
                self._schema.learn_key_types(parent, types)

    def _ask(self, spec: TableSpec, reference: Reference, request: Callable[[], object], *, again: bool = True) -> None:
        """Make a request without rows. Raises `FatalError` if it is refused."""
        try:
            self._policy(request)
        except BadRowsError:
            pass  # of a trigger for statements
        except TransientError:
            raise
        except ServerError as error:
            if self._schema.info(reference.table) is None and self._schema.creates(reference.table):
                return  # before its first row
            if error.stale_schema and again:
                self._wait()
                self._ask(spec, reference, request, again=False)
                return
            raise fatal_for(self._schema, spec.name, reference, error) from error

    def _warn_required(self, spec: TableSpec, reference: Reference, columns: tuple[str, ...]) -> None:
        """Warn if new parents lack a value that they must have."""
        info = self._schema.info(reference.table)
        missing = sorted((info.required if info else frozenset()) - set(columns) - set(self._made(reference.table)))
        if missing and self._schema.first_mention(reference.table, missing[:1]):
            self._log.warning(
                "Table %s: new rows of table %s cannot be made, because column %r requires a value. To make them, set "
                "'columns' in %s.",
                spec.name,
                reference.table,
                missing[0],
                option_of(spec.name, reference),
            )

    def _made(self, table: str) -> tuple[str, ...]:
        info = self._schema.info(table)
        return tuple(info.made) if info else ()


def no_column(spec: TableSpec, schema: Schema, column: str) -> FatalError:
    """Return the error for a table that lacks the column for the id of a parent."""
    reference = next(one for one in spec.writing.references if one.column == column)
    parent = schema.info(reference.table)
    kind = parent.columns.get(reference.id, "") if parent else ""
    add = add_column_sql(schema, spec.name, {column: sql_name(kind) or "bigint"})
    problem = ServerError(lacks(spec.name, [column]), code="PGRST204")
    return fatal(problem, "supabase_schema", f"Correct {option_of(spec.name, reference)}, or run: {add}")
