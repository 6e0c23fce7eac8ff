"""What a refusal means for the rows of a slice: a method for each class of answer."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

from scrapy_supabase.delivery.attempts import Sender
from scrapy_supabase.delivery.isolate import columns_at_fault, find_suspects
from scrapy_supabase.delivery.limits import RequestLimits
from scrapy_supabase.delivery.table_writer import TableWriter
from scrapy_supabase.delivery.upload_state import Slice, UploadState, words_of
from scrapy_supabase.errors import (
    BadRowsError,
    FatalError,
    MissingReferenceError,
    ServerError,
    TooLargeError,
    TransientError,
)
from scrapy_supabase.models import Row
from scrapy_supabase.schema.schema import Schema

logger = logging.getLogger(__name__)

_SQLSTATE = re.compile(r"[0-9A-Z]{5}")
_MOST_SUSPECTS = 4  # rows that are tried alone for one refusal; more are halved like any others
_MOST_FALSE_SUSPECTS = 2  # in one chunk, before the server's words are not listened to any more
# How often a chunk is given up for a while before its rows are looked at. What gives no code may be about any of them.
_TRIES_BEFORE_ISOLATION = 4
_TRIES_OF_A_ROW = 2  # how often a row that alone fails is put off before it is rejected


class Reactions:
    """Does with each kind of refusal what may still store the rows. Thread-safe; shared by all upload threads."""

    def __init__(self, sender: Sender, writer: TableWriter, schema: Schema, limits: RequestLimits) -> None:
        self._sender = sender
        self._writer = writer
        self._schema = schema
        self._limits = limits
        # The first that fits.
        self._reactions: tuple[tuple[type[ServerError], Callable[[UploadState[Any], Slice, Any], None]], ...] = (
            (MissingReferenceError, self._on_missing_reference),
            (BadRowsError, self._on_bad_rows),
            (TooLargeError, self._on_too_large),
            (TransientError, self._on_transient),
            (FatalError, self._on_fatal),
        )

    def react(self, state: UploadState[Any], part: Slice, error: ServerError) -> None:
        """Split, set aside, reject, defer or leave the rows of a slice that was refused."""
        react = next(react for kind, react in self._reactions if isinstance(error, kind))
        react(state, part, error)

    def _on_missing_reference(self, state: UploadState[Any], part: Slice, error: MissingReferenceError) -> None:
        if state.chunk.last_try:
            self._on_bad_rows(state, part, error)
            return
        # Which rows lack what they refer to is not worth a search: it may be under way.
        if error.parent:
            self._schema.learn_reference(state.chunk.table, error.parent)
        state.defer(part.rows)

    def _on_bad_rows(self, state: UploadState[Any], part: Slice, error: ServerError) -> None:
        rows = part.rows
        if (words := words_of(error)) in state.blamed:
            state.unproven.add(words)
        if len(rows) == 1:
            self.reject(state, rows, error)
            return
        if error.code == "21000":  # two rows are one key to the server; each alone may be good, the later one last
            state.split(rows, one_is_bad=False)
            return
        if state.false_suspects < _MOST_FALSE_SUSPECTS:
            found = find_suspects(error, rows, self._types(state))
            if 0 < len(found.rows) < len(rows) and (found.sure or len(found.rows) <= _MOST_SUSPECTS):
                state.set_aside(found.rows, rows, error, sure=found.sure)
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
        elif len(rows) == 1 and state.chunk.tries >= _TRIES_OF_A_ROW:
            self.reject(state, rows, error)
        elif len(rows) == 1:  # somebody may hold a lock on it
            error.reachable = error.about_rows = True
            logger.debug("%s: a row is tried again later: %s", state.chunk, error)
            state.transient = state.transient or error
            state.leave(rows)
        else:
            state.split(rows, one_is_bad=False, isolating=True)

    def _server_failure(self, state: UploadState[Any], part: Slice, error: TransientError) -> TransientError | None:
        """Return the error that other requests would get, too; None if the server takes everything but these rows."""
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
        """Reject `rows` with the server's words, and the columns that these do not name."""
        types = self._types(state)
        for row in rows:
            state.refuse(row, error, columns_at_fault(error, row, types))

    def _types(self, state: UploadState[Any]) -> Mapping[str, str]:
        info = self._schema.info(state.chunk.table)
        return info.columns if info else {}
