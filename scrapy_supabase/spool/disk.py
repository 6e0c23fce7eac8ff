"""Chunks on disk until the server confirms them, and the rows it rejected.

    <folder>/rejected.jsonl                 one rejected row per line, with the reason
    <folder>/<run>/<number>.jsonl           a chunk: a header line, then one row per line

A row is copied into its chunk's file (`mapped.py`), or appended where mapping is not safe, before `process_item`
returns, so that killing the process loses nothing. Once the rows are stored and rejected ones are in the reject file,
the chunk's file is emptied or deleted. `recover` adopts the chunks of earlier runs; they are uploaded like the rows of
this one.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.messages import reason, sentence
from scrapy_supabase.models import Chunk, Mode, Origin, Outcome, Rejection, Row
from scrapy_supabase.rows.chunks import ChunkFile
from scrapy_supabase.rows.keys import key_form
from scrapy_supabase.rows.versions import one_row_per_key
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.spool.access import owner_remedy
from scrapy_supabase.spool.base import Loaded, OnlyNew, Stored, is_only_new
from scrapy_supabase.spool.chunk_file import (
    Header,
    UnreadableError,
    cannot_read,
    count_rows,
    lines_in,
    read_chunk,
    row_of,
)
from scrapy_supabase.spool.headers import Headers
from scrapy_supabase.spool.later_runs import StoredNotes
from scrapy_supabase.spool.locks import NotLockableError, not_lockable
from scrapy_supabase.spool.lost_rows import log_rows, not_kept
from scrapy_supabase.spool.recovery import Recovery
from scrapy_supabase.spool.reject_file import RejectFile
from scrapy_supabase.spool.run_files import RunFiles
from scrapy_supabase.spool.run_folders import RunFolder

logger = logging.getLogger(__name__)


class DiskSpool:
    """The spool of one run, in its own folder `run` below `folder`.

    `facts` (run, spider, project) go into every header. With `fsync`, each row is on the disk itself before `append`
    returns. With `appends`, files are never mapped: a write of many rows at once costs less than a mapped page. Raises
    `ConfigurationError` if the folder is not writable.
    """

    def __init__(
        self,
        folder: Path,
        run: str,
        schema: Schema,
        facts: Mapping[str, str],
        *,
        fsync: bool = False,
        appends: bool = False,
    ) -> None:
        self.folder = folder
        self._schema = schema
        self._facts = facts
        self._run = run
        self._headers = Headers(schema, facts)
        self._rejects = RejectFile(folder, schema, facts, fsync=fsync)
        self._tables: set[str] = set()  # of the rows of this run
        self._mode: Mode | None = None
        try:
            self._own = RunFolder.make(folder, run)
            self._notes = StoredNotes(folder, facts.get("run", run), self.project)
            self._recovery = Recovery(folder, self.project, self._notes, self._tables, self.learn)
            self._files = RunFiles(folder, run, self._headers, fsync=fsync, appends=appends)
        except NotLockableError as error:
            raise not_lockable(folder, error) from error
        except OSError as error:
            remedy = owner_remedy(folder, error) or (
                "Set SUPABASE_SPOOL_DIR to a writable folder, or to None: rows that are not uploaded are then lost "
                "when the process ends."
            )
            raise ConfigurationError(
                f"The spool folder {folder} cannot be written: {sentence(reason(error))} {remedy}"
            ) from error

    @property
    def project(self) -> str:
        """The name of the project that the rows are uploaded to."""
        return self._facts.get("project", "")

    @property
    def own_folder(self) -> Path:
        """The folder of this run."""
        return self._own.path

    def recover(
        self,
        wanted: Callable[[Path, Header], bool] | None = None,
        *,
        mode: Mode | None = None,
        project: str | None = None,
        is_alive: bool = False,
    ) -> list[Stored]:
        """Adopt the folders of dead runs of the same project; return their chunks, oldest first, numbered from 1.

        `project` is another project, whose chunks are taken instead; `of_others` counts what stays. Only chunks for
        which `wanted(path, header)` is true are taken. `mode` overrides the mode of the files. Without
        it, chunks that may be older than the stored rows stay, too (`later_runs.LaterRuns`); `outdated` counts their
        rows. With mode IGNORE, which keeps stored rows, the newest chunks come first. No two spools adopt one folder.

        `is_alive`: this run has rows of its own; call it in any thread. Of plain upserts that may be older, also than
        those rows, only rows with new keys are then stored (`OnlyNew`).
        """
        self._mode = mode
        return self.numbered(self._recovery.find(wanted, mode, project, is_alive=is_alive))

    def learn(self, header: Header) -> None:
        """Add what the header of a chunk of an earlier run says about its table to the schema."""
        self._schema.stored.add(header.table)
        if (parent := header.options.parent) is not None:
            self._schema.families.add(header.table, parent)

    def numbered(self, *parts: list[Stored]) -> list[Stored]:
        """Number chunks from 1, in the order in which they will be uploaded: child tables after their parents."""
        chunks = [stored for part in parts for stored in part]
        chunks.sort(key=lambda stored: self._schema.families.generation(stored.table))
        return [msgspec.structs.replace(stored, number=number) for number, stored in enumerate(chunks, 1)]

    @property
    def outdated(self) -> Counter[str]:
        """The number of rows, by table, that `recover` did not take."""
        return self._recovery.outdated

    @property
    def of_others(self) -> dict[str, tuple[int, int]]:
        """The chunks and rows, by project, that `recover` left because they are of another project."""
        return self._recovery.of_others

    def open(self, row: Row) -> ChunkFile:
        """Start the file of a chunk whose first row is `row`."""
        self._tables.add(row.table)
        return self._files.open(self._headers.starting_with(row))

    def open_file(self, header: Header) -> ChunkFile:
        """Start a file in the folder of this run."""
        return self._files.open(msgspec.json.encode(header))

    def reject(self, rejections: tuple[Rejection, ...], origin: Origin | None = None) -> None:
        """Append rows to the reject file, or to the log if that file is not writable."""
        self._rejects.add(rejections, origin)

    def settle(self, outcome: Outcome) -> None:
        """Write the rejected rows, then delete the chunk's file, or reduce it to the rows to be sent again."""
        chunk = outcome.chunk
        if outcome.rejections:
            self.reject(outcome.rejections, chunk.origin)
        if outcome.uploaded:
            self._notes.stored(chunk.origin.run if chunk.origin else None, chunk.table)
        rest = outcome.left + outcome.deferred
        try:
            if not rest:
                self._files.remove(chunk.file)
            elif len(rest) < len(chunk.rows) or outcome.superseded:
                self._files.rewrite(chunk.file, rest)
        except FileNotFoundError:
            pass  # never created, because the disk was full
        except OSError as error:
            logger.warning(
                "The spool file %s cannot be changed: %s. Its rows are uploaded; the next run will upload them again.",
                self.folder / chunk.file,
                reason(error),
            )

    def leave(self, chunk: Chunk) -> tuple[Rejection, ...]:
        """Keep the chunk's file for the next run.

        If the file lacks rows, rewrite it; if that fails, log and return the rows it lacks.
        """
        self._files.cut(chunk.file)
        path = self.folder / chunk.file
        if self._files.is_complete(chunk.file) and path.exists():
            return ()
        self._files.free_room()  # mapped files occupy disk space they do not use
        try:
            self._files.rewrite(chunk.file, chunk.rows)
        except OSError as error:
            written = lines_in(path)
            rows = [row for row in chunk.rows if row.data not in written]
            lost = not_kept(rows, f"it cannot be written to disk: {reason(error)}")
            log_rows(lost)
            return lost
        return ()

    def store(self, chunk: Chunk) -> Stored | None:
        """Return a reference to the chunk on disk, from which `load` restores it; None if rows are missing there."""
        if not self._files.is_complete(chunk.file):
            return None
        self._files.cut(chunk.file)
        size = sum(len(row.data) + 1 for row in chunk.rows)
        rows, origin = len(chunk.rows) + chunk.superseded, chunk.origin
        is_recovered, only_new = origin is not None, is_only_new(chunk)
        return Stored(chunk.number, chunk.file, size, chunk.table, rows, chunk.tries, is_recovered, only_new)

    def load(self, stored: Stored) -> Loaded:
        """Read a chunk back. Delete a file without rows; log an ERROR for one that cannot be read, and keep it."""
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
        form = key_form(self._schema, header.table, header.key, header.mode, header.options.references)
        for line in lines:
            try:
                rows.append(row_of(header, line, form))
            except ValueError as error:
                text = msgspec.json.encode(line.decode("utf-8", "replace"))
                damaged.append(Rejection(header.table, text, "damaged", f"a line of {stored.file}: {error}"))
        mode = self._mode or header.mode
        sent = not stored.file.startswith(f"{self._run}/")  # else the rows come from the reject file
        kind = OnlyNew if stored.only_new else Origin
        origin: Origin | None = kind(
            header.run, header.spider, mode, header.on_conflict, header.key, sent, header.options
        )
        self.reject(tuple(damaged), origin)
        if not rows:
            path.unlink(missing_ok=True)
            return Loaded(None, torn, tuple(damaged), stored.recovered)
        if damaged:
            with suppress(OSError):
                self._files.rewrite(stored.file, tuple(rows))
        kept = one_row_per_key(rows, header.mode)
        origin = origin if stored.recovered else None
        mixed, superseded = header.mixed, len(rows) - len(kept)
        chunk = Chunk(stored.number, kept, stored.file, superseded, tries=stored.tries, origin=origin, mixed=mixed)
        return Loaded(chunk, torn, tuple(damaged), stored.recovered)

    def count(self, stored: Stored) -> int:
        """Return the number of rows in a chunk's file; 0 if it cannot be read."""
        if stored.rows is not None:
            return stored.rows
        try:
            return count_rows(self.folder / stored.file)
        except OSError:
            return 0

    def close(self) -> None:
        """Release the folders of this run and of recovered ones; remove the empty ones."""
        self._notes.close()
        self._files.free_room()
        self._recovery.close()
        with suppress(OSError):
            self._own.leave()
