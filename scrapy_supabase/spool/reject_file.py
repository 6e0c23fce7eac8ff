"""The reject file: one refused row a line, with the reason (docs/reference/spool.md)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from scrapy_supabase.messages import reason
from scrapy_supabase.models import NO_TABLE, Mode, Origin, Rejection
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.spool.chunk_file import now
from scrapy_supabase.spool.file_io import append_shared
from scrapy_supabase.spool.lost_rows import log_rows

logger = logging.getLogger(__name__)

REJECTED = "rejected.jsonl"
NO_ROW = "without a row. Correct or delete"


class RejectedLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the reject file.

    Items that never became a row have no `columns`, and in `printed` the fields of `row` whose values are only printed,
    each with that value. Where their table is not known, what follows is missing.
    """

    time: str
    table: str
    code: str
    message: str
    details: str | None = None
    hint: str | None = None
    spider: str = ""
    project: str = ""
    run: str = ""
    columns: tuple[str, ...] | None = None
    mode: Mode | None = None
    on_conflict: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    printed: dict[str, Any] | None = None
    row: msgspec.Raw = msgspec.Raw(b"null")

    def problem(self) -> str:
        """What keeps the line from being uploaded, and what to do; empty where nothing does."""
        row: dict[str, Any] = {}
        with suppress(msgspec.MsgspecError):
            row = msgspec.json.decode(self.row, type=dict[str, Any])
        if not row or self.columns == ():
            return NO_ROW
        if not self.table or self.table == NO_TABLE:
            return 'without a table. Put its name in "table"'
        if self.columns is None and self.printed is None:
            return 'of an older version, whose values may be only printed. Correct "row", and add "printed": {}'
        if any(name in row and row[name] == value for name, value in (self.printed or {}).items()):
            return 'with printed values, which cannot be stored. Replace those that "printed" lists'
        return ""


class RejectFile:
    """The reject file of the spool in `folder`, as one run writes it: `facts` (run, spider, project) go into a line."""

    def __init__(self, folder: Path, schema: Schema, facts: Mapping[str, str], *, fsync: bool) -> None:
        self._path = folder / REJECTED
        self._schema = schema
        self._facts = facts
        self._fsync = fsync

    def add(self, rejections: tuple[Rejection, ...], origin: Origin | None = None) -> None:
        """Append rows, those of an earlier run with its `origin`; where that cannot be, log them in full."""
        if not rejections:
            return
        facts = {**self._facts, **({"run": origin.run, "spider": origin.spider} if origin else {})}
        lines = b"".join(reject_line(rejection, facts, self._described(rejection, origin)) for rejection in rejections)
        try:
            append_shared(self._path, lines, fsync=self._fsync)
        except OSError as error:
            logger.error(  # noqa: TRY400 (a full disk needs no traceback)
                "The reject file %s cannot be written: %s. Rejected rows are in this log instead:",
                self._path,
                reason(error),
            )
            log_rows(rejections)

    def _described(self, rejection: Rejection, origin: Origin | None) -> dict[str, Any]:
        """What a replay of the row needs to know."""
        described: dict[str, Any] = {"columns": rejection.columns}
        if rejection.columns is None:
            described = {"printed": printed_in(rejection)}
        told = origin or self._schema.specs.get(rejection.table)
        if told is not None:
            key = origin.key if origin else self._schema.key(rejection.table)
            described |= {"mode": told.mode, "on_conflict": told.on_conflict, "key": key}
        return described


@contextmanager
def reject_lines(path: Path) -> Iterator[Iterator[tuple[bytes, RejectedLine | None]]]:
    """Each line of a reject file, as it is and as what it says; None where it says nothing of the kind."""
    with path.open("rb") as file:

        def lines() -> Iterator[tuple[bytes, RejectedLine | None]]:
            for line in file:
                found: RejectedLine | None = None
                with suppress(msgspec.MsgspecError, UnicodeDecodeError):
                    found = msgspec.json.decode(line, type=RejectedLine)
                yield line, found

        yield lines()


def reject_line(rejection: Rejection, facts: Mapping[str, str], header: Mapping[str, Any]) -> bytes:
    """A line of the reject file. `header` holds columns, mode and key of a row, nothing of an item that is none."""
    line: dict[str, Any] = {
        "time": now(),
        "table": rejection.table,
        "code": rejection.code,
        "message": rejection.message,
        "details": rejection.details,
        "hint": rejection.hint,
        **facts,
        **header,
        "row": msgspec.Raw(rejection.data),
    }
    return msgspec.json.encode(line) + b"\n"


def printed_in(rejection: Rejection) -> dict[str, msgspec.Raw]:
    """The fields of a rejected item that are only printed, each with what is printed."""
    with suppress(msgspec.MsgspecError):
        row = msgspec.json.decode(rejection.data, type=dict[str, msgspec.Raw])
        return {name: row[name] for name in rejection.printed}
    return {}
