"""What follows the uploads when a crawl ends: unseen rows, the ledger's last write, a function of the database.

Each step makes a few requests, which block, so it runs in a thread. A step logs its own failure and never raises.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import msgspec

from scrapy_supabase.backends.base import Backend
from scrapy_supabase.backends.open_policy import OpenPolicy
from scrapy_supabase.backends.retry import Deadline
from scrapy_supabase.delivery.replaced import delete_replaced
from scrapy_supabase.delivery.unseen import Changed, change_unseen, not_changed, remedy_for
from scrapy_supabase.errors import ServerError, TransientError
from scrapy_supabase.messages import pluralize
from scrapy_supabase.monitoring.counters import Counters
from scrapy_supabase.monitoring.ledger import Ledger
from scrapy_supabase.monitoring.run import Run
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.schema.table_spec import TableSpec, Unseen
from scrapy_supabase.settings.config import Config

logger = logging.getLogger(__name__)

ARGUMENTS = ("run_id", "reason", "counts")
"""The arguments of the function that `SUPABASE_AFTER_CRAWL` names."""

_COUNTS = (
    *("received", "uploaded", "superseded", "failed", "not_found", "spooled"),
    *("inserted", "updated", "unchanged", "recovered", "unseen"),
)
_SECONDS = 10.0  # the least time of a step, even after `SUPABASE_CLOSE_TIMEOUT`


class EndedRun(msgspec.Struct, frozen=True):
    """A crawl whose uploads are over. `reason` is its finish reason."""

    config: Config
    run: Run
    backend: Backend
    schema: Schema
    counters: Counters
    reason: str


class Step(Protocol):
    """A step. It gets `least` seconds even if the time for the close is over. `failed`: it has logged an ERROR."""

    least: float
    failed: bool

    def run(self, seconds: float, stats: Mapping[str, Any]) -> None:
        """Do the step within `seconds`, in a thread. `stats` are all stats of the crawl."""

    def timed_out(self, seconds: float) -> None:
        """Log that the step did not end within `seconds`."""


def steps_of(ended: EndedRun, lost: Sequence[str]) -> list[Step]:
    """Return the steps that the settings ask for. `lost` describes what Scrapy has not fetched or parsed."""
    tables = ended.config.tables
    steps: list[Step] = []
    for spec in reversed(tables.specs.values()):  # children before their parents: a foreign key holds
        if spec.unseen is None:
            continue
        reasons = _children_lost(ended, spec) if spec.unseen.parent_column else [*_incomplete(ended, spec.name), *lost]
        if reasons:
            why = "; ".join(reasons)
            logger.warning("%s: the crawl is not complete: %s.", not_changed(spec.name, spec.unseen), why)
        else:
            steps.append(_ChangeUnseen(ended, spec, spec.unseen))
    if ended.run.ledger is not None:
        steps.append(_EndLedger(ended, ended.run.ledger))
    if tables.after_crawl is not None:
        steps.append(_CallFunction(ended, tables.after_crawl))
    return steps


def _incomplete(ended: EndedRun, table: str) -> Sequence[str]:
    """Return the reasons why rows that this run did not store may still be there."""
    counters, reasons = ended.counters, []
    if ended.reason != "finished":
        reasons.append(f"it ended with the reason {ended.reason}")
    reasons += [*_not_stored(counters.totals), *_unstamped(ended, table)]
    if not counters.tables[table]["uploaded"]:
        reasons.append("no row of this table stored")
    elif not ended.schema.mode(table).updates:
        reasons.append("the table refuses upserts, so that stored rows keep the id of an earlier run")
    return reasons


def _not_stored(counts: Mapping[str, int]) -> list[str]:
    accounts = (("failed", "rejected"), ("spooled", "left in the spool"))
    return [f"{pluralize(rows, 'row')} {what}" for account, what in accounts if (rows := counts[account])]


def _unstamped(ended: EndedRun, table: str) -> Sequence[str]:
    unseen = ended.schema.specs[table].unseen if table in ended.schema.unstamped else None
    return [f"an item has a value of its own for column {unseen.seen_column!r}"] if unseen else []


def _children_lost(ended: EndedRun, spec: TableSpec) -> Sequence[str]:
    """Return the reasons why children of stored parents may not be stored, or not have the id of this run."""
    reasons = [*_not_stored(ended.counters.tables[spec.name]), *_unstamped(ended, spec.name)]
    if items := ended.schema.families.unlisted[spec.name]:
        reasons.append(f"{pluralize(items, 'item')} without a list of children (None or missing; [] means none)")
    parent = spec.writing.parent.table if spec.writing.parent else ""
    if not all(ended.schema.mode(table).updates for table in (spec.name, parent)):
        reasons.append("the table refuses upserts, so that stored rows keep the id of an earlier run")
    return reasons


class _ChangeUnseen:
    """The step that marks or deletes the rows of a table that the crawl did not store."""

    def __init__(self, ended: EndedRun, spec: TableSpec, unseen: Unseen) -> None:
        self.least = _SECONDS
        self.failed = False
        self._ended = ended
        self._spec = spec
        self._table = spec.name
        self._unseen = unseen

    def run(self, seconds: float, stats: Mapping[str, Any]) -> None:  # noqa: ARG002
        """Count the rows, and change them if they are not too many."""
        ended, table, unseen = self._ended, self._table, self._unseen
        policy = _policy(ended, seconds)
        try:
            if unseen.parent_column:
                number = delete_replaced(ended.backend, policy, ended.schema, self._spec, ended.run)
                found = Changed(number, number, too_many=False)
            else:
                request = partial(policy.run, f"Unseen rows of table {table}")
                found = change_unseen(ended.backend, request, table, unseen, ended.run)
        except ServerError as error:
            self.failed = True
            logger.error("%s: %s %s", not_changed(table, unseen, error), error, remedy_for(unseen, error))  # noqa: TRY400
            return
        if found.too_many:
            self.failed = True
            logger.error(
                "%s: %d of %s, more than at_most allows (%s). Check whether the spider still finds everything. If "
                "these rows are really gone, raise at_most in unseen and crawl again.",
                not_changed(table, unseen),
                found.rows,
                pluralize(found.candidates, "row"),
                f"{100 * unseen.at_most:g} %",
            )
            return
        if not self.failed:  # not timed out: the crawl's thread waits, so that nothing else counts
            ended.counters.on_unseen(table, found.rows)
        logger.info(
            "Table %s: %s %s%s",
            table,
            pluralize(found.rows, "unseen row"),
            "deleted" if unseen.deletes else "marked",
            f" ({', '.join(unseen.columns)})" if unseen.columns else "",
        )

    def timed_out(self, seconds: float) -> None:
        """See `Step`."""
        self.failed = True
        logger.error(
            "Unseen rows of table %s may not be %s: no answer for %.0f s. The next complete crawl includes them.",
            self._table,
            "deleted" if self._unseen.deletes else "marked",
            seconds,
        )


class _EndLedger:
    """The step that completes the ledger's row."""

    def __init__(self, ended: EndedRun, ledger: Ledger) -> None:
        self.least = ledger.least_seconds
        self.failed = False  # a failure is a WARNING: it does not affect the items' rows
        self._ended = ended
        self._ledger = ledger

    def run(self, seconds: float, stats: Mapping[str, Any]) -> None:  # noqa: ARG002
        """Write the end of the run."""
        self._ledger.end(self._ended.reason, self._ended.counters.totals, stats)

    def timed_out(self, seconds: float) -> None:
        """See `Step`."""
        self._ledger.log_no_end(f"no answer for {seconds:.0f} s")


class _CallFunction:
    """The step that calls the function of `SUPABASE_AFTER_CRAWL`."""

    def __init__(self, ended: EndedRun, function: str) -> None:
        self.least = _SECONDS
        self.failed = False
        self._ended = ended
        self._function = function

    def run(self, seconds: float, stats: Mapping[str, Any]) -> None:  # noqa: ARG002
        """Call the function. It is not called again if it may have run."""
        ended, function = self._ended, self._function
        arguments = {"run_id": ended.run.id, "reason": ended.reason, "counts": counts_of(ended.counters)}

        def call() -> None:
            try:
                ended.backend.call(function, arguments)
            except TransientError as error:
                if error.ambiguous:
                    raise ServerError(f"{error.message}; it may have run", code=error.code) from error
                raise

        try:
            _policy(ended, seconds).run(f"The function {function}", call)
        except ServerError as error:
            self.failed = True
            log = logger.error  # without a traceback
            log("The function %s failed (SUPABASE_AFTER_CRAWL): %s No row is affected.", function, error.answer)

    def timed_out(self, seconds: float) -> None:
        """See `Step`."""
        self.failed = True
        text = "The function %s did not end within %.0f s (SUPABASE_AFTER_CRAWL). It may still run. No row is affected."
        logger.error(text, self._function, seconds)


def counts_of(counters: Counters) -> dict[str, Any]:
    """Return the counts that the function gets: `{"total": {"received": 5, …}, "tables": {"books": {…}}}`."""

    def of(rows: Mapping[str, int]) -> dict[str, int]:
        return {name: rows.get(name, 0) for name in _COUNTS}

    return {"total": of(counters.totals), "tables": {name: of(rows) for name, rows in counters.tables.items()}}


def check_function(function: str, backend: Backend) -> None:
    """Log an ERROR if the function of `SUPABASE_AFTER_CRAWL` does not exist, when a crawl opens. Never raises."""
    with suppress(ServerError):  # the check of the tables reports a server that does not answer
        if backend.lacks_function(function, ARGUMENTS):
            logger.error("%s. %s", *no_function(function))


def no_function(function: str) -> tuple[str, str]:
    """Return problem and remedy for a function that does not exist."""
    signature = f"{function}(run_id text, reason text, counts json)"
    return (
        f"SUPABASE_AFTER_CRAWL is {function!r}, but the database has no function {signature}",
        "Create it before a crawl ends, or correct the setting.",
    )


def _policy(ended: EndedRun, seconds: float) -> OpenPolicy:
    """Return what makes requests with retries, which end after `seconds`."""
    deadline = Deadline()
    deadline.limit(seconds)
    upload = ended.config.upload
    return OpenPolicy(upload.attempts, upload.delay, deadline)
