"""The reject file: one rejected row per line, with the reason (docs/reference/spool.md)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from scrapy_supabase.messages import reason
from scrapy_supabase.models import NO_TABLE, Mode, Origin, Rejection, WriteOptions
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.spool.chunk_file import now
from scrapy_supabase.spool.file_io import append_shared
from scrapy_supabase.spool.lost_rows import log_rows

logger = logging.getLogger(__name__)

REJECTED = "rejected.jsonl"
NO_ROW = "without a row. Correct or delete them"


class RejectedLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the reject file.

    Items that never became a row have no `columns`; `printed` maps those fields of `row` whose values could only be
    printed to these values. If the table is not known, mode, conflict columns and key are missing.
    """

    time: str
    table: str
    code: str
    message: str
    location: str = ""
    details: str | None = None
    hint: str | None = None
    spider: str = ""
    project: str = ""
    run: str = ""
    columns: tuple[str, ...] | None = None
    mode: Mode | None = None
    on_conflict: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    writing: WriteOptions = WriteOptions()
    printed: dict[str, Any] | None = None
    row: msgspec.Raw = msgspec.Raw(b"null")

    def problem(self) -> str:
        """Return why the line cannot be uploaded, and the remedy; empty if it can."""
        row: dict[str, Any] = {}
        with suppress(msgspec.MsgspecError):
            row = msgspec.json.decode(self.row, type=dict[str, Any])
        if not row or self.columns == ():
            return NO_ROW
        if not self.table or self.table == NO_TABLE:
            return 'without a table. Set "table" to its name'
        if self.columns is None and self.printed is None:
            return 'of an older version, in which values may be only printed. Correct "row", and add "printed": {}'
        if any(name in row and row[name] == value for name, value in (self.printed or {}).items()):
            return 'with printed values, which cannot be stored. Replace the values that "printed" lists'
        return ""


class RejectFile:
    """The reject file of the spool in `folder`, as one run writes it. `facts` (run, spider, project) go into a line."""

    def __init__(self, folder: Path, schema: Schema, facts: Mapping[str, str], *, fsync: bool) -> None:
        self._path = folder / REJECTED
        self._schema = schema
        self._facts = facts
        self._fsync = fsync

    def add(self, rejections: tuple[Rejection, ...], origin: Origin | None = None) -> None:
        """Append rows, with the `origin` of those from an earlier run; log them in full if that fails."""
        if not rejections:
            return
        facts = {**self._facts, **({"run": origin.run, "spider": origin.spider} if origin else {})}
        lines = b"".join(
            reject_line(rejection, facts, self._replay_fields(rejection, origin)) for rejection in rejections
        )
        try:
            append_shared(self._path, lines, fsync=self._fsync)
        except OSError as error:
            logger.error(  # noqa: TRY400 (a full disk needs no traceback)
                "The reject file %s cannot be written: %s. Rejected rows are in this log instead:",
                self._path,
                reason(error),
            )
            log_rows(rejections)

    def _replay_fields(self, rejection: Rejection, origin: Origin | None) -> dict[str, Any]:
        """Return the fields of a line that `replay` needs to send the row: columns, mode, conflict columns, key."""
        described: dict[str, Any] = {"columns": rejection.columns}
        if rejection.columns is None:
            described = {"printed": printed_in(rejection)}
        rules = origin or self._schema.specs.get(rejection.table)
        if rules is not None:
            key = origin.key if origin else self._schema.key(rejection.table)
            described |= {"mode": rules.mode, "on_conflict": rules.on_conflict, "key": key}
            if rules.writing != WriteOptions():
                described["writing"] = rules.writing
        return described


@contextmanager
def reject_lines(path: Path) -> Iterator[Iterator[tuple[bytes, RejectedLine | None]]]:
    """Open a reject file; yield an iterator of its lines, each as bytes and decoded (None if it is damaged)."""
    with path.open("rb") as file:

        def lines() -> Iterator[tuple[bytes, RejectedLine | None]]:
            for line in file:
                found: RejectedLine | None = None
                with suppress(msgspec.MsgspecError, UnicodeDecodeError):
                    found = msgspec.json.decode(line, type=RejectedLine)
                yield line, found

        yield lines()


def reject_line(rejection: Rejection, facts: Mapping[str, str], header: Mapping[str, Any]) -> bytes:
    """Encode a line of the reject file. `header` holds the fields that `replay` needs."""
    line: dict[str, Any] = {
        "time": now(),
        "table": rejection.table,
        "code": rejection.code,
        "message": rejection.message,
        **({"location": rejection.location} if rejection.location else {}),
        "details": rejection.details,
        "hint": rejection.hint,
        **facts,
        **header,
        "row": msgspec.Raw(rejection.data),
    }
    return msgspec.json.encode(line) + b"\n"


def printed_in(rejection: Rejection) -> dict[str, msgspec.Raw]:
    """Return the fields of a rejected item that could only be printed, with the printed values."""
    with suppress(msgspec.MsgspecError):
        row = msgspec.json.decode(rejection.data, type=dict[str, msgspec.Raw])
        return {name: row[name] for name in rejection.printed}
    return {}
