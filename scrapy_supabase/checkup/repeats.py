"""The check whether a second crawl stores its rows again: the database generates the key, and the items have none."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence

from scrapy_supabase.backends.base import Backend, TableInfo, Write
from scrapy_supabase.checkup.finding import Finding, ok, warning
from scrapy_supabase.checkup.policies import trial_stored
from scrapy_supabase.errors import ServerError, TransientError, TrialStoredError
from scrapy_supabase.models import Mode
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.schema.table_spec import TableSpec

_AFTER_DEFAULTS = ("23505", "23514", "23503")  # unique, check, foreign key: tested after NOT NULL


def check_repeats(
    backend: Backend, schema: Schema, spec: TableSpec, sent: Sequence[Collection[str] | None]
) -> Iterator[Finding]:
    """Report rows that a second crawl stores again.

    `sent` has the columns of each kind of item, None if they are not known. If they are known to lack the key, the
    check of a crawl warns, unless the mode is insert. Raises `TransientError` if the server does not answer.
    """
    info = schema.info(spec.name)
    if info is None or len(info.primary_key) != 1:
        return
    (key,) = info.primary_key
    subject, inserts = f"table {spec.name}", spec.mode is Mode.INSERT
    lacking = any(columns is None or (inserts and key not in columns) for columns in sent)
    if not lacking or (spec.on_conflict and not inserts):
        return
    try:
        if key not in schema.generated_columns(spec.name) and not _has_default(backend, spec.name, key, info):
            return
    except TrialStoredError:
        yield trial_stored(subject, f"the default of {key!r}")
        return
    if inserts:
        yield ok(subject, f"mode insert: a second crawl stores items without the key ({key}) again")
        return
    yield warning(
        subject,
        f"the database generates the key ({key}): items without it are inserted, and a second crawl stores them again",
        f"If items have no {key!r}, set SUPABASE_ON_CONFLICT to columns that identify a row, with a unique index on "
        f"them. If they have it, set SUPABASE_ON_CONFLICT to {key!r}.",
    )


def _has_default(backend: Backend, table: str, key: str, info: TableInfo) -> bool:
    """Return whether the key has a default. The REST API does not report those of numbers: two rows are tried.

    The rows have no key, and are not stored. NOT NULL is tested column by column, in the order of the table.
    """
    if key not in info.perhaps_required:
        return key not in info.required
    names = list(info.columns)
    other = next((name for name in names if name != key), None)
    if other is None:
        return False
    try:
        backend.dry_run(Write(table, (other,), b"[{},{}]", Mode.INSERT))
    except (TransientError, TrialStoredError):
        raise
    except ServerError as failed:
        found = re.match(r'null value in column "(.*?)" ', failed.message) if failed.code == "23502" else None
        if found is None:
            return failed.code in _AFTER_DEFAULTS
        return found[1] in names and names.index(key) < names.index(found[1])
    return True
