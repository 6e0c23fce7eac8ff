"""Findings about what follows the uploads of a crawl: the option `unseen`, and the function that it calls."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from scrapy_supabase.backends.base import Backend
from scrapy_supabase.checkup.finding import Finding, error, ok, warning
from scrapy_supabase.delivery.run_end import ARGUMENTS, no_function
from scrapy_supabase.delivery.unseen import candidates, unseen_rows
from scrapy_supabase.messages import pluralize
from scrapy_supabase.monitoring.last_run import LastRun, UnreadableRunError, read_last_run
from scrapy_supabase.schema.table_spec import TableSpec
from scrapy_supabase.settings.config import Config


def check_unseen_rows(config: Config, backend: Backend, spec: TableSpec) -> Iterator[Finding]:
    """Report the rows that the next crawl may mark or delete, and those that the last crawl did not store.

    The check of the table has found the option valid. Raises `ServerError`.
    """
    unseen, subject = spec.unseen, f"table {spec.name}"
    if unseen is None or unseen.parent_column:
        return
    changes, most = "deletes" if unseen.deletes else "marks", f"{100 * unseen.at_most:g} %"
    total, last = backend.count(spec.name, candidates(unseen)), _last_run(config.spool.folder)
    if last is None:
        text = f"unseen: a complete crawl {changes} those of {pluralize(total, 'row')} that it does not store"
        yield ok(subject, f"{text}, if they are at most {most}")
        return
    who = f"the last crawl ({last.spider}, {last.reason or 'not ended'})"
    number = backend.count(spec.name, unseen_rows(unseen, last.run, last.started))
    text = f"unseen: {number} of {pluralize(total, 'row')} not stored by {who}"
    if number > unseen.at_most * total:
        remedy = "If they are really gone, raise at_most in unseen. Otherwise a crawl changes none of them."
        yield warning(subject, f"{text}, more than at_most allows ({most})", remedy)
    else:
        yield ok(subject, f"{text}: the next complete crawl {changes} those that it does not store either")


def _last_run(folder: Path | None) -> LastRun | None:
    """Return the record of the last run in the spool, or None."""
    try:
        return read_last_run(folder) if folder else None
    except UnreadableRunError:
        return None


def check_function(config: Config, backend: Backend) -> Iterator[Finding]:
    """Check the function of `SUPABASE_AFTER_CRAWL`, without calling it. Raises `ServerError`."""
    function = config.tables.after_crawl
    if function is None:
        return
    if backend.lacks_function(function, ARGUMENTS):
        yield error("after crawl", *no_function(function))
    else:
        yield ok("after crawl", f"the function {function} exists")
