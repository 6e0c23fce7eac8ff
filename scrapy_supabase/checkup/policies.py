"""Checks of row-level security and deferrable constraints, by writes that are rolled back."""

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
from scrapy_supabase.models import Mode
from scrapy_supabase.schema.remedies import for_upserts, policy_sql
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.schema.table_spec import TableSpec


def check_policies(
    backend: Backend, schema: Schema, spec: TableSpec, role: str, column: str | None
) -> Iterator[Finding]:
    """Test two rows of defaults, sent with `column`, against the policies of `role`, without storing them.

    Raises `TransientError` if the server does not answer.
    """
    subject = f"table {spec.name}"
    if column is None:
        text = f"row-level security was not tested for {role}: no column of the table is known"
        yield warning(subject, text, "Name an item class in SUPABASE_TABLES, or set SUPABASE_ON_CONFLICT.")
        return
    # `ignore` mode would skip the second row of a key and store the first, so it is tested as an insert.
    mode = schema.mode(spec.name)
    mode = Mode.INSERT if mode is Mode.IGNORE else mode
    try:
        if _refused(backend, spec, column, mode):
            inserts = mode is not Mode.INSERT and not _refused(backend, spec, column, Mode.INSERT)
            commands = ("select", "update") if inserts else ("insert", "select", "update")
            yield error(
                subject,
                f"row-level security rejects {'upserts' if inserts else 'rows'} of {role} (tested with rows of "
                "defaults)",
                f"Use the secret key, or run: {policy_sql(schema, spec.name, *commands)}",
            )
            return
    except TrialStoredError:
        yield trial_stored(subject, f"row-level security for {role}")
        return
    except UpsertRefusedError as failed:  # by a deferrable constraint, which is checked before the policies
        yield error(subject, upserts_refused(failed.answer), for_upserts(schema, spec.name, failed))
        return
    except TransientError:
        raise
    except ServerError as failed:
        text = f"row-level security could not be tested for {role}: {failed.answer}"
        yield warning(subject, text, "Crawl a few items and check that they are stored.")
        return
    needed = {Mode.UPSERT: "insert, select and update", Mode.IGNORE: "insert and select"}.get(spec.mode)
    untested = f"; existing rows were not tested: they need policies for {needed}" if needed else ""
    yield ok(subject, f"row-level security accepts new rows of {role} (tested; none was stored){untested}")


def check_upserts(backend: Backend, schema: Schema, spec: TableSpec, column: str) -> Iterator[Finding]:
    """Test an upsert of two rows of defaults: only rows reveal a deferrable constraint. Raises `TransientError`."""
    subject = f"table {spec.name}"
    try:
        backend.dry_run(Write(spec.name, (column,), b"[{},{}]", Mode.UPSERT, spec.on_conflict))
    except TrialStoredError:
        yield trial_stored(subject, "upserts")
    except UpsertRefusedError as failed:
        yield error(subject, upserts_refused(failed.answer), for_upserts(schema, spec.name, failed))
    except TransientError:
        raise
    except ServerError:
        pass  # another rule rejected the defaults first, or the rows were accepted and rolled back


def trial_stored(subject: str, tested: str) -> Finding:
    """Return the finding about a test that stored a row, although both of its rows should have been rolled back."""
    return error(
        subject,
        f"the test of {tested} stored a row of defaults, because a trigger of the table dropped the other of its two "
        "rows",
        "Delete that row.",
    )


def upserts_refused(answer: str) -> str:
    """Return the text of a finding about a table that refuses upserts with `answer`."""
    return (
        f"refuses upserts: {answer} A crawl would insert its rows: existing rows would be rejected, or stored twice if "
        "no unique index prevents it."
    )


def _refused(backend: Backend, spec: TableSpec, column: str, mode: Mode) -> bool:
    """Return whether a policy rejects rows of defaults. Raises `ServerError` if another rule rejects them first."""
    try:
        backend.dry_run(Write(spec.name, (column,), b"[{},{}]", mode, spec.on_conflict))
    except ServerError as failed:
        if is_policy_violation(failed.code, failed.message):
            return True
        if not is_past_policies(failed.code, failed.message):
            raise
    return False
