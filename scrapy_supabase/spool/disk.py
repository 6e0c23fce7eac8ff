"""Chunks on disk until the server has said yes, and the rows it refused for good.

    <folder>/rejected.jsonl                 one refused row a line, with the reason
    <folder>/<run>/<number>.jsonl           a chunk: a header line, then one row a line

A row is copied into its chunk's file (`spool_mapped.py`), or appended where that is not safe, before its item is handed
on, so that killing the process loses nothing. The file is emptied or deleted after its rows are stored; before that,
refused rows are in the reject file. What an earlier run left is adopted (`recover`) and uploaded like the rows of this
one.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import msgspec

from scrapy_supabase.backends.bounded_cache import BoundedCache
from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.messages import NOT_KEPT, reason, sentence
from scrapy_supabase.models import Chunk, Loaded, Mode, Origin, Outcome, Rejection, Row, Stored
from scrapy_supabase.rows.chunks import ChunkFile, one_version_each
from scrapy_supabase.rows.keys import key_form
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.spool.append_file import AppendFile
from scrapy_supabase.spool.chunk_file import (
    FORMAT,
    FORMAT_MIXED,
    Header,
    UnreadableError,
    cannot_read,
    count_rows,
    first_line,
    lines_in,
    now,
    read_chunk,
    read_header,
    row_of,
)
from scrapy_supabase.spool.file_io import append, append_shared, sync_folder
from scrapy_supabase.spool.later_runs import LaterRuns, StoredNotes
from scrapy_supabase.spool.mapped import MappedFiles, can_map
from scrapy_supabase.spool.recovery import RunFolder, chunk_files, dead_runs, runs_noted
from scrapy_supabase.spool.reject_file import REJECTED, printed_in, reject_line

logger = logging.getLogger(__name__)


class Spool(Protocol):
    """Where rows are kept. `settle` and `load` may be called in any thread, the others in the crawl's."""

    @property
    def folder(self) -> Path | None:
        """Where it is, for messages; None where nothing is kept."""

    def open(self, row: Row) -> ChunkFile:
        """Start the file of a chunk whose first row is `row`, without writing that row."""

    def reject(self, rejections: tuple[Rejection, ...], origin: Origin | None = None) -> None:
        """Keep rows that will not be tried again."""

    def settle(self, outcome: Outcome) -> None:
        """Keep what is rejected, then forget what is done with; rows left over or deferred stay."""

    def leave(self, chunk: Chunk) -> tuple[Rejection, ...]:
        """Keep a chunk for the next run. Rows that cannot be kept are reported in full, and returned."""

    def store(self, chunk: Chunk) -> Stored | None:
        """What `load` makes the chunk of again; None where it is not on disk as a whole."""

    def load(self, stored: Stored) -> Loaded:
        """Read a chunk back."""

    def count(self, stored: Stored) -> int:
        """How many rows it holds."""

    def close(self) -> None:
        """The run is over. What is left stays."""


class DiskSpool:
    """The spool of one run, in a folder of its own, named `run`, below `folder`.

    `facts` (run, spider, project) go into every header. With `fsync`, each row is on the disk itself before `append`
    returns. Raises `ConfigurationError` at once where the folder cannot be written.
    """

    def __init__(
        self, folder: Path, run: str, schema: Schema, facts: Mapping[str, str], *, fsync: bool = False
    ) -> None:
        self.folder = folder
        self._schema = schema
        self._facts = facts
        self._fsync = fsync
        self._base = str(folder)  # a path object costs more than the call it is for
        self._run = run
        self._headers = BoundedCache[tuple[str, tuple[str, ...], tuple[str, ...]], list[bytes]]()
        self._opened = 0
        self._open_numbers: dict[int, None] = {}  # ascending
        self._renamed = 0
        self._recovered: list[RunFolder] = []
        self.outdated: Counter[str] = Counter()  # table → rows that `recover` left where they are
        self._mode: Mode | None = None
        self._incomplete: set[str] = set()  # files that lack rows because the disk was full
        self._said_unwritten = False
        try:
            self._own = RunFolder.make(folder, run)
            self._notes = StoredNotes(folder, facts.get("run", run), facts.get("project", ""))
            self._mapped = self._mapped_files() if not fsync and can_map(folder) else None
        except OSError as error:
            raise ConfigurationError(
                f"The spool folder {folder} cannot be written: {sentence(reason(error))} Set SUPABASE_SPOOL_DIR to a "
                "folder that can, or to None: then rows that are not uploaded yet are lost with the process."
            ) from error

    @property
    def own_folder(self) -> Path:
        """The folder of this run."""
        return self._own.path

    def recover(
        self, wanted: Callable[[Path, Header], bool] | None = None, *, mode: Mode | None = None
    ) -> list[Stored]:
        """Adopt the folders of dead runs of the same project; their chunks, oldest first, numbered from 1.

        Only chunks that are `wanted` are taken; the others stay. `mode` overrides that of the files. Without it, chunks
        that may be older than what is stored stay, too (`later_runs.LaterRuns`), and are counted in `outdated`. Where
        it keeps what is stored, the newest rows go first. Two spools never both adopt a folder.
        """
        self._mode = mode
        later = LaterRuns(runs_noted(self.folder) if mode is None else ())
        found: list[Stored] = []
        for folder in dead_runs(self.folder, self._facts.get("project")):
            before = len(found)
            for path in chunk_files(folder.path):
                header = _header_of(path)
                if wanted is not None and (header is None or not wanted(path, header)):
                    continue
                if header is not None:
                    if later.may_be_newer(header):
                        self.outdated[header.table] += count_rows(path)
                        continue
                    self._notes.recovered(header)
                name = f"{folder.path.name}/{path.name}"
                one = Stored(0, name, path.stat().st_size, recovered=True)
                is_reversed = mode is Mode.IGNORE and header is not None and header.mode is not Mode.IGNORE
                found.insert(0 if is_reversed else len(found), one)
            if len(found) > before:
                self._recovered.append(folder)
            else:
                folder.leave()  # nothing is taken from it: somebody else may
        return numbered(found)

    def open(self, row: Row) -> ChunkFile:
        """Start the file of a chunk whose first row is `row`."""
        return self._open(self._header(row))

    def _header(self, row: Row) -> bytes:
        """The header of a chunk's file that starts with `row`."""
        table, columns, key = row.table, row.columns, self._schema.key(row.table)
        header = self._headers.get((table, columns, key))
        if header is None:
            spec = self._schema.specs[table]
            form = FORMAT if columns else FORMAT_MIXED
            told = {"mode": spec.mode, "on_conflict": spec.on_conflict, "key": key}
            made = msgspec.convert(
                {"format": form, "table": table, "columns": columns, "opened": "", **told, **self._facts}, Header
            )
            header = self._headers[table, columns, key] = msgspec.json.encode(made).split(b'"opened":"', 1)
        return b'"opened":"'.join((header[0], now().encode() + header[1]))

    def open_file(self, header: Header) -> ChunkFile:
        """Start a file in the folder of this run."""
        return self._open(msgspec.json.encode(header))

    def _open(self, header: bytes) -> ChunkFile:
        self._opened += 1
        self._open_numbers[self._opened] = None
        file = self._new_file(f"{self._run}/{self._opened:08}.jsonl")
        file.append(header)
        return file

    def _new_file(self, name: str) -> ChunkFile:
        if self._mapped is not None:
            with suppress(OSError):  # the other way tells what is wrong
                return self._mapped.open(name)
        return self._append_file(name)

    def _append_file(self, name: str, *, is_new: bool = True) -> AppendFile:
        error = self._not_written
        return AppendFile(self._base, name, seal=self._seal, on_error=error, fsync=self._fsync, is_new=is_new)

    def _mapped_files(self) -> MappedFiles:
        return MappedFiles(self._base, seal=self._seal, append=partial(self._append_file, is_new=False))

    def reject(self, rejections: tuple[Rejection, ...], origin: Origin | None = None) -> None:
        """Append to the reject file; to the log, where that cannot be written."""
        if not rejections:
            return
        facts = {**self._facts, **({"run": origin.run, "spider": origin.spider} if origin else {})}
        lines = b"".join(reject_line(rejection, facts, self._described(rejection, origin)) for rejection in rejections)
        try:
            append_shared(self.folder / REJECTED, lines, fsync=self._fsync)
        except OSError as error:
            logger.error(  # noqa: TRY400 (a full disk needs no traceback)
                "The reject file %s cannot be written: %s. Rejected rows are in this log instead:",
                *(self.folder / REJECTED, reason(error)),
            )
            _log_rows(rejections)

    def settle(self, outcome: Outcome) -> None:
        """Write rejects, then delete the chunk's file, or leave in it only what is to be sent again."""
        chunk = outcome.chunk
        if outcome.rejections:
            self.reject(outcome.rejections, chunk.origin)
        if outcome.uploaded:
            self._notes.stored(chunk.origin.run if chunk.origin else None, chunk.table)
        rest = outcome.left + outcome.deferred
        try:
            if not rest:
                if self._mapped is None or not self._mapped.empty(chunk.file):
                    os.unlink(f"{self._base}/{chunk.file}")  # noqa: PTH108
            elif len(rest) < len(chunk.rows) or outcome.superseded:
                self._rewrite(chunk.file, rest)
        except FileNotFoundError:
            pass  # it was never made: the disk was full
        except OSError as error:
            logger.warning(
                "The spool file %s cannot be changed: %s. Its rows are uploaded; the next run uploads them once more.",
                *(self.folder / chunk.file, reason(error)),
            )

    def leave(self, chunk: Chunk) -> tuple[Rejection, ...]:
        """Leave the chunk's file as it is. Write it again if it lacks rows; if that fails, log the rows it lacks."""
        self._cut(chunk.file)
        path = self.folder / chunk.file
        if chunk.file not in self._incomplete and path.exists():
            return ()
        if self._mapped is not None:
            self._mapped.close()  # files that are not full hold room that is needed now
        try:
            self._rewrite(chunk.file, chunk.rows)
        except OSError as error:
            there = lines_in(path)
            rows = [row for row in chunk.rows if row.data not in there]
            lost = _not_kept(rows, f"the disk does not take it: {reason(error)}")
            _log_rows(lost)
            return lost
        return ()

    def store(self, chunk: Chunk) -> Stored | None:
        """What stands for the chunk while it is on disk only."""
        if chunk.file in self._incomplete:
            return None
        self._cut(chunk.file)
        size = sum(len(row.data) + 1 for row in chunk.rows)
        rows, recovered = len(chunk.rows) + chunk.superseded, chunk.origin is not None
        return Stored(chunk.number, chunk.file, size, chunk.table, rows, chunk.tries, recovered)

    def load(self, stored: Stored) -> Loaded:
        """Read a chunk back. A file without rows is deleted; one that cannot be read stays, with an ERROR."""
        path = self.folder / stored.file
        try:
            header, lines, torn = read_chunk(path)
        except (UnreadableError, OSError) as error:
            logger.error("%s Its rows are not uploaded.", cannot_read(path, error))  # noqa: TRY400
            return Loaded(None)
        rows: list[Row] = []
        damaged: list[Rejection] = []
        if header is None:
            path.unlink(missing_ok=True)
            return Loaded(None, torn)
        form = key_form(self._schema, header.table, header.key, header.mode)
        for line in lines:
            try:
                rows.append(row_of(header, line, form))
            except ValueError as error:
                text = msgspec.json.encode(line.decode("utf-8", "replace"))
                damaged.append(Rejection(header.table, text, "damaged", f"a line of {stored.file}: {error}"))
        mode = self._mode or header.mode
        sent = not stored.file.startswith(f"{self._run}/")  # else they come from the reject file
        origin: Origin | None = Origin(header.run, header.spider, mode, header.on_conflict, header.key, sent)
        self.reject(tuple(damaged), origin)
        if not rows:
            path.unlink(missing_ok=True)
            return Loaded(None, torn, tuple(damaged))
        if damaged:
            with suppress(OSError):
                self._rewrite(stored.file, tuple(rows))
        kept = one_version_each(rows, header.mode)
        origin = origin if stored.recovered else None
        mixed, superseded = header.format == FORMAT_MIXED, len(rows) - len(kept)
        chunk = Chunk(stored.number, kept, stored.file, superseded, tries=stored.tries, origin=origin, mixed=mixed)
        return Loaded(chunk, torn, tuple(damaged))

    def count(self, stored: Stored) -> int:
        """How many rows a chunk's file has."""
        if stored.rows is not None:
            return stored.rows
        try:
            return count_rows(self.folder / stored.file)
        except OSError:
            return 0

    def close(self) -> None:
        """Let go of the folders; remove those in which nothing is left."""
        self._notes.close()
        if self._mapped is not None:
            self._mapped.close()
        for folder in (*self._recovered, self._own):
            with suppress(OSError):
                folder.leave()
        self._recovered.clear()

    def _seal(self, name: str) -> str:
        """Return the name that says a file's place: after those sealed before it, and before all that are open still.

        Files are named as they are opened. One that is sealed while an older one is open takes a name right before
        that: `00000005-00000001.jsonl` sorts before `00000005.jsonl`.
        """
        number = int(name[-14:-6])
        oldest = next(iter(self._open_numbers))
        del self._open_numbers[number]
        if oldest == number:
            return name
        self._renamed += 1
        sealed = f"{self._run}/{oldest:08}-{self._renamed:08}.jsonl"
        try:
            os.rename(f"{self._base}/{name}", f"{self._base}/{sealed}")  # noqa: PTH104
            if self._fsync:
                sync_folder(self._own.path)
        except OSError as error:
            if name not in self._incomplete:  # it was never made
                logger.warning(
                    "The spool file %s cannot be renamed: %s. A run that recovers it may upload its rows too late.",
                    *(self.folder / name, reason(error)),
                )
                return name
        if name in self._incomplete:
            self._incomplete.remove(name)
            self._incomplete.add(sealed)
        return sealed

    def _cut(self, name: str) -> None:
        if self._mapped is not None:
            self._mapped.cut(name)

    def _rewrite(self, name: str, rows: tuple[Row, ...]) -> None:
        self._cut(name)
        path = self.folder / name
        header = first_line(path) if path.exists() or path.parent != self._own.path else b""
        if not header.endswith(b"\n"):  # the disk was full when the file was started
            header = self._header(rows[0]) + b"\n"
        shorter = path.with_suffix(".new")
        shorter.unlink(missing_ok=True)
        try:
            append(shorter, header + b"".join(row.data + b"\n" for row in rows), fsync=self._fsync)
        except OSError:
            shorter.unlink(missing_ok=True)  # others need the room
            raise
        shorter.replace(path)
        if self._fsync:
            sync_folder(path.parent)
        self._incomplete.discard(name)

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

    def _not_written(self, name: str, error: OSError) -> None:
        if not self._said_unwritten:
            self._said_unwritten = True
            logger.error(
                "The spool in %s cannot be written: %s. Uploading goes on from memory; until this is mended, rows that "
                "are not uploaded are lost if this process is killed.",
                *(self.folder, reason(error)),
            )
        self._incomplete.add(name)


class NoSpool:
    """Keeps nothing (`SUPABASE_SPOOL_DIR = None`). Rows that are not stored go to `report`, by default the log."""

    folder: Path | None = None
    name = ""
    direct = (len, sys.maxsize)  # what takes a line and does nothing

    def __init__(self, report: Callable[[tuple[Rejection, ...]], None] | None = None) -> None:
        self._report = report or _log_rows

    def open(self, row: Row) -> ChunkFile:  # noqa: ARG002
        """Return a file that keeps nothing."""
        return self

    def append(self, data: bytes) -> None:
        """Keep nothing."""

    def reject(self, rejections: tuple[Rejection, ...], origin: Origin | None = None) -> None:  # noqa: ARG002
        """Report what was refused, since it is written nowhere else."""
        self._report(rejections)

    def settle(self, outcome: Outcome) -> None:
        """Report what was refused."""
        self.reject(outcome.rejections)

    def leave(self, chunk: Chunk) -> tuple[Rejection, ...]:
        """Report the rows: there is no place for them."""
        lost = _not_kept(chunk.rows, "there is no spool to keep it for the next run (SUPABASE_SPOOL_DIR)")
        self._report(lost)
        return lost

    def store(self, chunk: Chunk) -> Stored | None:  # noqa: ARG002
        """It is in memory only."""
        return None

    def load(self, stored: Stored) -> Loaded:
        """Never asked for: nothing is stored."""
        raise NotImplementedError(stored.file)

    def count(self, stored: Stored) -> int:
        """How many rows there are."""
        return stored.rows or 0

    def close(self) -> None:
        """Nothing to do."""


def numbered(*parts: list[Stored]) -> list[Stored]:
    """Chunks in the order in which they are to be uploaded."""
    chunks = [stored for part in parts for stored in part]
    return [msgspec.structs.replace(stored, number=number) for number, stored in enumerate(chunks, 1)]


def _header_of(path: Path) -> Header | None:
    """The header of a chunk's file; None where it has none that can be read, which `DiskSpool.load` reports."""
    with suppress(UnreadableError, OSError):
        return read_header(path)
    return None


def _not_kept(rows: Iterable[Row], why: str) -> tuple[Rejection, ...]:
    text = f"the row was not uploaded, and {why}"
    return tuple(Rejection(row.table, row.data, NOT_KEPT, text, columns=row.columns) for row in rows)


def _log_rows(rejections: tuple[Rejection, ...]) -> None:
    for row in rejections:
        text = row.data.decode("utf-8", "replace")
        logger.error("Not in table %s (%s): %s The row: %s", row.table, row.code, sentence(row.message), text)
