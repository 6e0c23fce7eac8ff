"""Whether row-level security lets the rows of a role in: tried with rows that are not stored."""

from __future__ import annotations

from collections.abc import Iterator

from scrapy_supabase.backends.base import Backend, Write
from scrapy_supabase.checkup.finding import Finding, error, ok, warning
from scrapy_supabase.errors import (
    ServerError,
    TransientError,
    TrialStoredError,
    UpsertRefusedError,
    is_past_policies,
    is_policy_violation,
)
from scrapy_supabase.models import Mode, TableSpec
from scrapy_supabase.schema.remedies import for_upserts, policy_sql
from scrapy_supabase.schema.schema import Schema


def check_policies(
    backend: Backend, schema: Schema, spec: TableSpec, role: str, column: str | None
) -> Iterator[Finding]:
    """Try two rows of defaults, sent for `column`. Raises `TransientError` where the server does not answer."""
    subject = f"table {spec.name}"
    if column is None:
        text = f"whether row-level security lets {role} in was not tried: no column of the table is known"
        yield warning(subject, text, "Name an item class in SUPABASE_TABLES, or set SUPABASE_ON_CONFLICT.")
        return
    # In `ignore` mode a doubled key is skipped, and the one row that is left is stored: that is tried as an insert.
    mode = schema.mode(spec.name)
    mode = Mode.INSERT if mode is Mode.IGNORE else mode
    try:
        if _refused(backend, spec, column, mode):
            inserts = mode is not Mode.INSERT and not _refused(backend, spec, column, Mode.INSERT)
            commands = ("select", "update") if inserts else ("insert", "select", "update")
            yield error(
                subject,
                f"row-level security is in force for {role} and refuses {'upserts' if inserts else 'rows'} (tried with "
                "rows of defaults)",
                f"Use the secret key, or run: {policy_sql(schema, spec.name, *commands)}",
            )
            return
    except TrialStoredError:
        yield _stored(subject, f"row-level security lets {role} in")
        return
    except UpsertRefusedError as failed:  # of a deferrable constraint, which the rows meet first
        yield error(subject, upserts_refused(failed.answer), for_upserts(schema, spec.name, failed))
        return
    except TransientError:
        raise
    except ServerError as failed:
        text = f"whether row-level security lets {role} in could not be tried: {failed.answer}"
        yield warning(subject, text, "Crawl a few items, and look whether they are stored.")
        return
    more = {Mode.UPSERT: "insert, select and update", Mode.IGNORE: "insert and select"}.get(spec.mode)
    untried = f"; rows that are there already were not tried: policies for {more} are needed" if more else ""
    yield ok(subject, f"row-level security lets new rows of {role} in (tried; none was stored){untried}")


def check_upserts(backend: Backend, schema: Schema, spec: TableSpec, column: str) -> Iterator[Finding]:
    """Try two rows of defaults where only rows can meet a deferrable constraint. Raises `TransientError`."""
    subject = f"table {spec.name}"
    try:
        backend.dry_run(Write(spec.name, (column,), b"[{},{}]", Mode.UPSERT, spec.on_conflict))
    except TrialStoredError:
        yield _stored(subject, "upserts are possible")
    except UpsertRefusedError as failed:
        yield error(subject, upserts_refused(failed.answer), for_upserts(schema, spec.name, failed))
    except TransientError:
        raise
    except ServerError:
        pass  # another rule refused the defaults first, or the rows were good and rolled back


def _stored(subject: str, tried: str) -> Finding:
    return error(
        subject,
        f"the trial whether {tried} has stored a row of defaults: a trigger of the table dropped the other of two",
        "Delete that row.",
    )


def upserts_refused(answer: str) -> str:
    """What is wrong with a table that answers so to an upsert."""
    return (
        f"refuses upserts: {answer} A crawl would insert its rows: those that are there already would be rejected, or "
        "stored twice where no unique index forbids it."
    )


def _refused(backend: Backend, spec: TableSpec, column: str, mode: Mode) -> bool:
    """Whether a policy refuses rows of defaults. Raises `ServerError` where something else does, before that."""
    try:
        backend.dry_run(Write(spec.name, (column,), b"[{},{}]", mode, spec.on_conflict))
    except ServerError as failed:
        if is_policy_violation(failed.code, failed.message):
            return True
        if not is_past_policies(failed.code, failed.message):
            raise
    return False
