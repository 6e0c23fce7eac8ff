"""The option `unseen` of a table: at the end of a complete crawl, rows that it did not store are marked or deleted.

A stored row has the id of the run that stored it (stamp `run_id`), so the rows to change are those with another id.
Without that stamp, they are those whose time (stamp `now`) is before the start of the run. One statement changes them
all, or none.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from scrapy_supabase.backends.base import Backend
from scrapy_supabase.backends.filters import Condition, Filter, Group, differs, equal
from scrapy_supabase.errors import (
    FatalError,
    MissingReferenceError,
    ServerError,
    TooLargeError,
    TransientError,
    fatal,
)
from scrapy_supabase.monitoring.run import Run
from scrapy_supabase.rows.values import encode_row, text_of
from scrapy_supabase.rows.where import filters_of
from scrapy_supabase.schema.remedies import add_column_sql, identifier, lacks, qualified
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.schema.table_spec import TableSpec, Unseen


def candidates(unseen: Unseen) -> tuple[Filter, ...]:
    """Return the conditions for the rows that a crawl is about, without those that an earlier crawl has marked."""
    return (*filters_of(unseen.where), *_not_marked(unseen))


def unseen_rows(unseen: Unseen, run_id: str, started: str) -> tuple[Filter, ...]:
    """Return the conditions for the candidates that a run did not store. `started` is its start in ISO 8601."""
    column = unseen.seen_column
    if not unseen.by_time:
        return (*candidates(unseen), differs(column, run_id))
    earlier = Group("or", (Condition(column, "lt", (started,)), Condition(column, "null")))
    return (*candidates(unseen), earlier)


def values_of(unseen: Unseen, run_id: str, spider: str) -> Mapping[str, Any] | None:
    """Return column → value for unseen rows; None if they are deleted."""
    now = datetime.now(UTC)
    stamps = {"now": now, "date": now.date(), "run_id": run_id, "spider": spider}
    changes = {**unseen.constants, **{column: stamps[stamp] for column, stamp in unseen.stamps.items()}}
    return changes or None


def _not_marked(unseen: Unseen) -> Sequence[Filter]:
    """Return the condition for rows that are not marked yet: a constant differs, or without one, a stamp is missing."""
    if unseen.deletes:
        return ()
    if unseen.constants:
        return [Group("or", tuple(differs(column, text_of(value)) for column, value in unseen.constants.items()))]
    return [Group("or", tuple(Condition(column, "null") for column in unseen.stamps))]


class Changed(msgspec.Struct, frozen=True):
    """The number of unseen `rows` among the `candidates`. They are changed unless there are `too_many`."""

    rows: int
    candidates: int
    too_many: bool


def change_unseen(backend: Backend, policy: Callable[..., Any], table: str, unseen: Unseen, run: Run) -> Changed:
    """Mark or delete the rows of `table` that `run` did not store. `policy` calls a function with retries.

    Raises `ServerError`.
    """
    started = run.started.replace(microsecond=0)  # the column may round times of its rows to seconds
    rows = unseen_rows(unseen, run.id, started.isoformat())
    number = policy(backend.count, table, rows)
    total = policy(backend.count, table, candidates(unseen)) if number else 0
    too_many = number > unseen.at_most * total
    if number and not too_many:
        # The number before the change counts: after a retry, the statement may find nothing left to change.
        policy(_change, backend, table, rows, values_of(unseen, run.id, run.spider))
    return Changed(number, total, too_many)


def _change(backend: Backend, table: str, rows: Sequence[Filter], values: Mapping[str, Any] | None) -> None:
    if values is None:
        backend.delete(table, rows)
    else:
        backend.update(table, rows, tuple(values), encode_row(values)[0])


def not_changed(table: str, unseen: Unseen, error: ServerError | None = None) -> str:
    """Return the start of the message about unseen rows that were not changed, or perhaps not."""
    perhaps = isinstance(error, TransientError) and error.ambiguous
    done = "deleted" if unseen.deletes else "marked"
    return f"Unseen rows of table {table} {'may not be' if perhaps else 'are not'} {done}"


def remedy_for(unseen: Unseen, error: ServerError) -> str:
    """Return what to do about an error at the end of a crawl."""
    if isinstance(error, MissingReferenceError) and unseen.deletes:
        return (
            "Rows of another table refer to them: declare its foreign key ON DELETE CASCADE or ON DELETE SET NULL, or "
            'use "set" instead of "delete" in unseen.'
            if not unseen.parent_column
            else "Rows of another table refer to them: declare its foreign key ON DELETE CASCADE or ON DELETE SET NULL."
        )
    if isinstance(error, TooLargeError):
        return "Set SUPABASE_DB_URL, raise the statement timeout of the role, or create an index for where in unseen."
    return "The next complete crawl includes them."


def check_unseen(spec: TableSpec, schema: Schema, backend: Backend, policy: Callable[..., Any]) -> None:
    """Check what the option needs, when a run opens. `policy` calls a function with retries. Raises `ServerError`.

    That is a `FatalError` if rows could not be changed at the end. The statement of the end is sent with a condition
    that no row meets.
    """
    unseen, table = spec.unseen, spec.name
    if unseen is None:
        return
    if not schema.key(table):
        remedy = f"{unseen.option} needs a key: set SUPABASE_ON_CONFLICT to the columns that make a row unique."
        raise _wrong("42P10", f"the key of table {table} is not known.", remedy)
    info, types = schema.info(table), unseen.types
    if info is not None and (missing := [column for column in types if column not in info.columns]):
        sql = add_column_sql(schema, table, {column: types[column] for column in missing})
        remedy = f"Correct {unseen.option} in SUPABASE_TABLES, or run: {sql}"
        raise _wrong("PGRST204", f"{lacks(table, missing)}.", remedy)
    values = values_of(unseen, str(uuid.uuid4()), "")
    # The conditions name each column that is set, so that the server casts its value, also if there is no row.
    casts = [Group("or", tuple(differs(column, text_of(value)) for column, value in values.items()))] if values else []
    try:
        policy(_change, backend, table, (*filters_of(unseen.where), *casts, *_no_row(unseen)), values)
    except TransientError:
        raise
    except TooLargeError:  # a lock; at the end it is gone, or reported
        return
    except ServerError as error:
        raise fatal(error, *_reason_and_remedy(schema, table, unseen, error)) from error


def _no_row(unseen: Unseen) -> Sequence[Filter]:
    """Return conditions that no row meets: the id of no run, or a time that is early and late."""
    column = unseen.seen_column
    if not unseen.by_time:
        return [equal(column, str(uuid.uuid4()))]
    return [Condition(column, operator, (datetime.now(UTC).isoformat(),)) for operator in ("lt", "gt")]


def _reason_and_remedy(schema: Schema, table: str, unseen: Unseen, error: ServerError) -> tuple[str, str]:
    if error.is_forbidden:
        right = "delete" if unseen.deletes else "update"
        sql = f"GRANT select, {right} ON {qualified(schema, table)} TO {identifier(schema.role)};"
        return "supabase_permission_denied", f"{unseen.option} needs this grant; run: {sql}"
    if isinstance(error, FatalError) and error.reason not in ("supabase_error", "supabase_schema"):
        return error.reason, error.remedy
    return "supabase_schema", f"Correct the columns and values of {unseen.option} in SUPABASE_TABLES."


def _wrong(code: str, problem: str, remedy: str) -> FatalError:
    return fatal(ServerError(problem, code=code), "supabase_schema", remedy)
