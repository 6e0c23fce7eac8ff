"""What a refusal means for the rows of a piece: a method for each class of answer."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

from scrapy_supabase.delivery.attempts import Sender
from scrapy_supabase.delivery.isolate import columns_at_fault, find_suspects
from scrapy_supabase.delivery.limits import RequestLimits
from scrapy_supabase.delivery.table_writer import TableWriter
from scrapy_supabase.delivery.work import Piece, Work, words_of
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
        self._reactions: tuple[tuple[type[ServerError], Callable[[Work[Any], Piece, Any], None]], ...] = (
            (MissingReferenceError, self._on_missing_reference),
            (BadRowsError, self._on_bad_rows),
            (TooLargeError, self._on_too_large),
            (TransientError, self._on_transient),
            (FatalError, self._on_fatal),
        )

    def react(self, work: Work[Any], piece: Piece, error: ServerError) -> None:
        """Split, set aside, reject, defer or leave the rows of a piece that was refused."""
        react = next(react for kind, react in self._reactions if isinstance(error, kind))
        react(work, piece, error)

    def _on_missing_reference(self, work: Work[Any], piece: Piece, error: MissingReferenceError) -> None:
        if work.chunk.last_try:
            self._on_bad_rows(work, piece, error)
            return
        # Which rows lack what they refer to is not worth a search: it may be under way.
        if error.parent:
            self._schema.learn_reference(work.chunk.table, error.parent)
        work.defer(piece.rows)

    def _on_bad_rows(self, work: Work[Any], piece: Piece, error: ServerError) -> None:
        rows = piece.rows
        if (words := words_of(error)) in work.blamed:
            work.unproven.add(words)
        if len(rows) == 1:
            self.reject(work, rows, error)
            return
        if error.code == "21000":  # two rows are one key to the server; each alone may be good, the later one last
            work.split(rows, one_is_bad=False)
            return
        if work.false_suspects < _MOST_FALSE_SUSPECTS:
            found = find_suspects(error, rows, self._types(work))
            if 0 < len(found.rows) < len(rows) and (found.sure or len(found.rows) <= _MOST_SUSPECTS):
                work.set_aside(found.rows, rows, error, sure=found.sure)
                return
        work.split(rows, one_is_bad=True)

    def _on_too_large(self, work: Work[Any], piece: Piece, error: TooLargeError) -> None:
        if len(piece.rows) == 1:
            self.reject(work, piece.rows, error)
            return
        self._limits.too_large(piece.rows, refused=True)
        work.split(piece.rows, one_is_bad=False)

    def _on_transient(self, work: Work[Any], piece: Piece, error: TransientError) -> None:
        rows = piece.rows
        if piece.isolating and len(rows) > 1:
            work.split(rows, one_is_bad=False, isolating=True)
        elif error.splittable and len(rows) > 1 and self._sender.patience.allows(self._sender.delay):
            self._limits.too_large(rows, refused=False)
            self._sender.count_retry(work, rows, error)
            self._sender.patience.sleep(max(self._sender.delay, error.retry_after or 0.0))
            work.split(rows, one_is_bad=False)
        elif (gone := self._gone(work, piece, error)) is not None:
            logger.debug("%s: not uploaded yet: %s Its rows are kept.", work.chunk, gone)
            work.gone = gone
            work.give_up(rows)
        elif len(rows) == 1 and work.chunk.tries >= _TRIES_OF_A_ROW:
            self.reject(work, rows, error)
        elif len(rows) == 1:  # somebody may hold a lock on it
            error.is_there = error.about_rows = True
            logger.debug("%s: a row is tried again later: %s", work.chunk, error)
            work.gone = work.gone or error
            work.leave(rows)
        else:
            work.split(rows, one_is_bad=False, isolating=True)

    def _gone(self, work: Work[Any], piece: Piece, error: TransientError) -> TransientError | None:
        """Return the failure that other requests meet, too; None where the server is there, and takes all but these."""
        if not self._sender.patience.allows(self._sender.delay):
            return error
        if error.about_rows:
            return None
        is_verdict = not error.unanswered and _SQLSTATE.fullmatch(error.code)
        if not piece.isolating and not is_verdict and work.chunk.tries < _TRIES_BEFORE_ISOLATION:
            return error
        refusal = self._writer.refusal_without_rows(work, piece.rows)
        return refusal if isinstance(refusal, TransientError) else None

    def _on_fatal(self, work: Work[Any], piece: Piece, error: FatalError) -> None:
        work.fatal = error
        work.give_up(piece.rows)

    def reject(self, work: Work[Any], rows: tuple[Row, ...], error: ServerError) -> None:
        """Reject `rows` with the server's words, and the columns that these do not name."""
        types = self._types(work)
        for row in rows:
            work.refuse(row, error, columns_at_fault(error, row, types))

    def _types(self, work: Work[Any]) -> Mapping[str, str]:
        info = self._schema.info(work.chunk.table)
        return info.columns if info else {}
