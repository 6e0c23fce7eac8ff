"""Chunks on disk until the server has said yes, and the rows it refused for good.

    <folder>/rejected.jsonl                 one refused row a line, with the reason
    <folder>/<run>/lock                     held while the run is alive
    <folder>/<run>/<number>.jsonl           a chunk: a header line, then one row a line

A row is written by one unbuffered append before its item is handed on (1.5 µs), so that killing the process loses
nothing. A chunk's file is deleted after its rows are stored; before that, refused rows are in the reject file.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec

from scrapy_supabase.chunks import ChunkFile
from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.models import Outcome, Rejection, Row
from scrapy_supabase.schema import Schema

logger = logging.getLogger(__name__)

FORMAT = 1
REJECTED = "rejected.jsonl"


class Spool(Protocol):
    """Where rows are kept. `open` and `reject` belong to the crawl's thread, `settle` to any."""

    @property
    def folder(self) -> Path | None:
        """Where it is, for messages; None where nothing is kept."""

    def open(self, row: Row) -> ChunkFile:
        """Start the file of a chunk whose first row is `row`, without writing that row."""

    def reject(self, rejections: tuple[Rejection, ...]) -> None:
        """Keep rows that will not be tried again."""

    def settle(self, outcome: Outcome) -> Outcome:
        """Keep what is rejected, then forget what is done with; rows left over or deferred stay.

        Rows that cannot be kept are rejections of the outcome that is returned.
        """

    def close(self) -> None:
        """The run is over. What is left stays."""


class DiskSpool:
    """The spool of one run, in a folder of its own below `folder`.

    `run` names the run, `facts` (spider, project host …) go into every header. Raises `ConfigurationError` at once
    where the folder cannot be written.
    """

    def __init__(self, folder: Path, run: str, schema: Schema, facts: Mapping[str, str]) -> None:
        self.folder = folder
        self._schema = schema
        self._facts = {**facts, "run": run}
        self._run = folder / run
        self._counter = 0
        self._rejecting = threading.Lock()
        self._incomplete: set[str] = set()  # files that lack rows because the disk was full
        try:
            self._run.mkdir(mode=0o700, parents=True)
            self._lock = os.open(self._run / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigurationError(
                f"The spool folder {folder} cannot be written ({error.strerror}). Set SUPABASE_SPOOL_DIR to a folder "
                "that can, or to None: then rows that are not stored yet are lost with the process."
            ) from error

    def open(self, row: Row) -> ChunkFile:
        """Start the file of a chunk whose first row is `row`."""
        self._counter += 1
        header = {
            "format": FORMAT,
            "table": row.table,
            "columns": row.columns,
            "mode": self._schema.specs[row.table].mode,
            "on_conflict": self._schema.specs[row.table].on_conflict,
            "key": self._schema.key(row.table),
            "opened": _now(),
            **self._facts,
        }
        file = _DiskFile(self._run / f"{self._counter:08}.jsonl", self._not_written)
        file.append(msgspec.json.encode(header))
        return file

    def reject(self, rejections: tuple[Rejection, ...]) -> None:
        """Append to the reject file; to the log, where that cannot be written."""
        if not rejections:
            return
        lines = b"".join(map(self._reject_line, rejections))
        try:
            with self._rejecting:
                _append(self.folder / REJECTED, lines)
        except OSError as error:
            logger.error(  # noqa: TRY400 (a full disk needs no traceback)
                "The reject file in %s cannot be written: %s. Its rows:", self.folder, error.strerror
            )
            _log_rows(rejections)

    def settle(self, outcome: Outcome) -> Outcome:
        """Write rejects, then delete the chunk's file, or leave in it only what is to be sent again."""
        self.reject(outcome.rejections)
        path = self._run / outcome.chunk.file
        rest = outcome.left + outcome.deferred
        try:
            if not rest:
                path.unlink(missing_ok=True)
            elif len(rest) < len(outcome.chunk.rows) or path.name in self._incomplete:
                self._rewrite(path, rest)
        except OSError as error:
            if rest and path.name in self._incomplete:
                lost = _not_kept(replace(outcome, rejections=()), f"the disk does not take it: {error.strerror}")
                _log_rows(lost.rejections)
                return replace(lost, rejections=outcome.rejections + lost.rejections)
            logger.warning(
                "The spool file %s cannot be changed: %s. Its rows will be sent again.", path, error.strerror
            )
        return outcome

    def _rewrite(self, path: Path, rows: tuple[Row, ...]) -> None:
        with path.open("rb") as file:
            header = file.readline()
        shorter = path.with_suffix(".new")
        shorter.unlink(missing_ok=True)
        _append(shorter, header + b"".join(row.data + b"\n" for row in rows))
        shorter.replace(path)
        self._incomplete.discard(path.name)

    def _not_written(self, name: str, error: OSError) -> None:
        if not self._incomplete:
            logger.error(
                "The spool in %s cannot be written: %s. Uploading goes on from memory; until there is space again, "
                "rows that are not uploaded are lost if this process is killed.",
                *(self.folder, error.strerror),
            )
        self._incomplete.add(name)

    def close(self) -> None:
        """Let go of the folder; remove it if nothing is left in it."""
        os.close(self._lock)
        if all(entry.name == "lock" for entry in self._run.iterdir()):
            (self._run / "lock").unlink()
            self._run.rmdir()

    def _reject_line(self, rejection: Rejection) -> bytes:
        line: dict[str, Any] = {
            "time": _now(),
            "table": rejection.table,
            "code": rejection.code,
            "message": rejection.message,
            "details": rejection.details,
            "hint": rejection.hint,
            **self._facts,
            "row": msgspec.Raw(rejection.data),
        }
        return msgspec.json.encode(line) + b"\n"


class _DiskFile:
    """The file of one open chunk."""

    __slots__ = ("_fd", "_on_error", "name")

    def __init__(self, path: Path, on_error: Callable[[str, OSError], None]) -> None:
        self.name = path.name
        self._on_error = on_error
        self._fd = -1
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            on_error(self.name, error)

    def append(self, data: bytes) -> None:
        if self._fd < 0:
            return
        try:
            if os.write(self._fd, data + b"\n") != len(data) + 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self.close()  # what follows a torn line could not be read back
            self._on_error(self.name, error)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class NoSpool:
    """Keeps nothing (`SUPABASE_SPOOL_DIR = None`). Rows that are not stored go to `report`, by default the log."""

    folder: Path | None = None
    name = ""

    def __init__(self, report: Callable[[tuple[Rejection, ...]], None] | None = None) -> None:
        self._report = report or _log_rows

    def open(self, row: Row) -> ChunkFile:  # noqa: ARG002
        """Return a file that keeps nothing."""
        return self

    def append(self, data: bytes) -> None:
        """Keep nothing."""

    def reject(self, rejections: tuple[Rejection, ...]) -> None:
        """Report what was refused, since it is written nowhere else."""
        self._report(rejections)

    def settle(self, outcome: Outcome) -> Outcome:
        """Report what was refused or left."""
        if outcome.left:
            outcome = _not_kept(outcome, "there is no spool to keep it for the next run (SUPABASE_SPOOL_DIR)")
        self.reject(outcome.rejections)
        return outcome

    def close(self) -> None:
        """Nothing to do."""


def _not_kept(outcome: Outcome, why: str) -> Outcome:
    lost = tuple(
        Rejection(row.table, row.data, "not_kept", f"the row was not uploaded, and {why}") for row in outcome.left
    )
    return replace(outcome, left=(), rejections=outcome.rejections + lost)


def _log_rows(rejections: tuple[Rejection, ...]) -> None:
    for row in rejections:
        text = row.data.decode("utf-8", "replace")
        logger.error("Row not in table %s (%s: %s): %s", row.table, row.code, row.message, text)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _append(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]
    finally:
        os.close(fd)
