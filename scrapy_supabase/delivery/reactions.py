"""The handling of a refused slice, with one method for each class of error."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

from scrapy_supabase.delivery.attempts import Sender
from scrapy_supabase.delivery.isolate import columns_at_fault, find_suspects
from scrapy_supabase.delivery.limits import RequestLimits
from scrapy_supabase.delivery.table_writer import TableWriter
from scrapy_supabase.delivery.upload_state import Slice, UploadState, refusal_key
from scrapy_supabase.errors import (
    BadRowsError,
    FatalError,
    MissingReferenceError,
    ServerError,
    TooLargeError,
    TransientError,
)
from scrapy_supabase.models import Mode, Row
from scrapy_supabase.schema.schema import Schema

logger = logging.getLogger(__name__)

_SQLSTATE = re.compile(r"[0-9A-Z]{5}")
_MAX_SUSPECTS = 4  # rows tried one by one after a refusal; a larger number is halved instead
_MAX_FALSE_SUSPECTS = 2  # in one chunk; after that, messages are not searched for suspects any more
# Failed uploads of a chunk before its rows are tried separately, if the error has no SQLSTATE and so may not be theirs.
_TRIES_BEFORE_ISOLATION = 4
_MAX_TRIES_OF_ROW = 2  # times that a row which fails alone is left for a later try before it is rejected


class Reactions:
    """Handles each class of refusal so that all good rows are stored. Thread-safe; shared by all upload threads."""

    def __init__(self, sender: Sender, writer: TableWriter, schema: Schema, limits: RequestLimits) -> None:
        self._sender = sender
        self._writer = writer
        self._schema = schema
        self._limits = limits
        # The first class that matches is used.
        self._reactions: tuple[tuple[type[ServerError], Callable[[UploadState[Any], Slice, Any], None]], ...] = (
            (MissingReferenceError, self._on_missing_reference),
            (BadRowsError, self._on_bad_rows),
            (TooLargeError, self._on_too_large),
            (TransientError, self._on_transient),
            (FatalError, self._on_fatal),
        )

    def react(self, state: UploadState[Any], part: Slice, error: ServerError) -> None:
        """Split, set aside, reject, defer or leave the rows of a refused slice."""
        react = next(react for kind, react in self._reactions if isinstance(error, kind))
        react(state, part, error)

    def _on_missing_reference(self, state: UploadState[Any], part: Slice, error: MissingReferenceError) -> None:
        if state.chunk.last_try:
            self._on_bad_rows(state, part, error)
            return
        # No search for the rows at fault: the rows that they refer to may be on their way.
        if error.parent:
            self._schema.learn_reference(state.chunk.table, error.parent)
        state.defer(part.rows)

    def _on_bad_rows(self, state: UploadState[Any], part: Slice, error: ServerError) -> None:
        """Search for the rows at fault, and reject them.

        A row that a unique index refuses in an upsert is sent once more. If a writer has just stored the same row, and
        the index is older than that of the key, PostgreSQL checks it first and reports that row as a duplicate. Six
        writers that stored the same 36,000 new rows met that 40 times.
        """
        rows = part.rows
        if (key := refusal_key(error)) in state.blamed:
            state.unproven.add(key)
        may_pass = error.code == "23505" and self._schema.mode(state.chunk.table) is not Mode.INSERT
        if len(rows) == 1:
            if may_pass and part.blamed is None:
                state.slices.append(Slice(rows, blamed=error))
            else:
                self.reject(state, rows, error)
            return
        if error.code == "21000":  # two rows have the same key for the server; each may be stored alone, in order
            state.split(rows, one_is_bad=False)
            return
        if state.false_suspects < _MAX_FALSE_SUSPECTS:
            found = find_suspects(error, rows, self._types(state))
            if 0 < len(found.rows) < len(rows) and (found.sure or len(found.rows) <= _MAX_SUSPECTS):
                state.set_aside(found.rows, rows, error, sure=found.sure and not may_pass)
                return
        state.split(rows, one_is_bad=True)

    def _on_too_large(self, state: UploadState[Any], part: Slice, error: TooLargeError) -> None:
        if len(part.rows) == 1:
            self.reject(state, part.rows, error)
            return
        self._limits.too_large(part.rows, refused=True)
        state.split(part.rows, one_is_bad=False)

    def _on_transient(self, state: UploadState[Any], part: Slice, error: TransientError) -> None:
        rows = part.rows
        if part.isolating and len(rows) > 1:
            state.split(rows, one_is_bad=False, isolating=True)
        elif error.splittable and len(rows) > 1 and self._sender.deadline.allows(self._sender.delay):
            self._limits.too_large(rows, refused=False)
            self._sender.count_retry(state, rows, error)
            self._sender.deadline.sleep(max(self._sender.delay, error.retry_after or 0.0))
            state.split(rows, one_is_bad=False)
        elif (transient := self._server_failure(state, part, error)) is not None:
            logger.debug("%s: not uploaded yet: %s Its rows are kept.", state.chunk, transient)
            state.transient = transient
            state.give_up(rows)
        elif len(rows) == 1 and state.chunk.tries >= _MAX_TRIES_OF_ROW:
            self.reject(state, rows, error)
        elif len(rows) == 1:  # another transaction may hold a lock on it
            error.reachable = error.about_rows = True
            logger.debug("%s: a row is tried again later: %s", state.chunk, error)
            state.transient = state.transient or error
            state.leave(rows)
        else:
            state.split(rows, one_is_bad=False, isolating=True)

    def _server_failure(self, state: UploadState[Any], part: Slice, error: TransientError) -> TransientError | None:
        """Return the error if other requests would fail, too; None if only these rows fail."""
        if not self._sender.deadline.allows(self._sender.delay):
            return error
        if error.about_rows:
            return None
        is_verdict = not error.unanswered and _SQLSTATE.fullmatch(error.code)
        if not part.isolating and not is_verdict and state.chunk.tries < _TRIES_BEFORE_ISOLATION:
            return error
        refusal = self._writer.refusal_without_rows(state, part.rows)
        return refusal if isinstance(refusal, TransientError) else None

    def _on_fatal(self, state: UploadState[Any], part: Slice, error: FatalError) -> None:
        state.fatal = error
        state.give_up(part.rows)

    def reject(self, state: UploadState[Any], rows: tuple[Row, ...], error: ServerError) -> None:
        """Reject `rows` with the server's message, and with the columns at fault if it does not name them."""
        types = self._types(state)
        for row in rows:
            state.refuse(row, error, columns_at_fault(error, row, types))

    def _types(self, state: UploadState[Any]) -> Mapping[str, str]:
        info = self._schema.info(state.chunk.table)
        return info.columns if info else {}
