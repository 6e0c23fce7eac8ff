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
from scrapy_supabase.spool.base import Loaded, Stored
from scrapy_supabase.spool.chunk_file import (
    Header,
    UnreadableError,
    cannot_read,
    count_rows,
    lines_in,
    read_chunk,
    read_header,
    row_of,
)
from scrapy_supabase.spool.headers import Headers
from scrapy_supabase.spool.later_runs import LaterRuns, StoredNotes
from scrapy_supabase.spool.locks import NotLockableError, not_lockable
from scrapy_supabase.spool.lost_rows import log_rows, not_kept
from scrapy_supabase.spool.reject_file import RejectFile
from scrapy_supabase.spool.run_files import RunFiles
from scrapy_supabase.spool.run_folders import RunFolder, chunk_files, dead_runs, runs_noted

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
        self._recovered: list[RunFolder] = []
        self.outdated: Counter[str] = Counter()  # table → rows that `recover` did not take
        self.of_others: dict[str, tuple[int, int]] = {}  # other project → its chunks and rows, which `recover` leaves
        self._mode: Mode | None = None
        try:
            self._own = RunFolder.make(folder, run)
            self._notes = StoredNotes(folder, facts.get("run", run), self.project)
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
    ) -> list[Stored]:
        """Adopt the folders of dead runs of the same project; return their chunks, oldest first, numbered from 1.

        `project` is another project, whose chunks are taken instead; `of_others` counts what stays. Only chunks for
        which `wanted(path, header)` is true are taken. `mode` overrides the mode of the files. Without
        it, chunks that may be older than the stored rows stay, too (`later_runs.LaterRuns`); `outdated` counts their
        rows. With mode IGNORE, which keeps stored rows, the newest chunks come first. No two spools adopt one folder.
        """
        self._mode = mode
        project = self.project if project is None else project
        found: list[Stored] = []
        later = LaterRuns(runs_noted(self.folder) if mode is None else (), self.project)
        for folder in dead_runs(self.folder):
            before = len(found)
            if (other := folder.project()) not in (None, project):
                self._leave_to_others(folder, other or "")
                continue
            folder.tidy()
            for path in chunk_files(folder.path):
                header = _header_of(path)
                if wanted is not None and (header is None or not wanted(path, header)):
                    continue
                if header is not None:
                    if later.may_replace_newer(header):
                        self.outdated[header.table] += count_rows(path)
                        continue
                    self._notes.recovered(header)
                    self.learn(header)
                name, table = f"{folder.path.name}/{path.name}", header.table if header is not None else ""
                one = Stored(0, name, path.stat().st_size, table, recovered=True)
                is_reversed = mode is Mode.IGNORE and header is not None and header.mode is not Mode.IGNORE
                found.insert(0 if is_reversed else len(found), one)
            if len(found) > before:
                self._recovered.append(folder)
            else:
                folder.leave()  # nothing was taken from it: another process may adopt it
        return self.numbered(found)

    def learn(self, header: Header) -> None:
        """Add what the header of a chunk of an earlier run says about its table to the schema."""
        if (parent := header.options.parent) is not None:
            self._schema.families.add(header.table, parent)

    def numbered(self, *parts: list[Stored]) -> list[Stored]:
        """Number chunks from 1, in the order in which they will be uploaded: child tables after their parents."""
        chunks = [stored for part in parts for stored in part]
        chunks.sort(key=lambda stored: self._schema.families.generation(stored.table))
        return [msgspec.structs.replace(stored, number=number) for number, stored in enumerate(chunks, 1)]

    def _leave_to_others(self, folder: RunFolder, project: str) -> None:
        chunks, rows = self.of_others.get(project, (0, 0))
        for path in chunk_files(folder.path):
            with suppress(OSError):
                chunks, rows = chunks + 1, rows + count_rows(path)
        self.of_others[project] = chunks, rows
        folder.leave()

    def open(self, row: Row) -> ChunkFile:
        """Start the file of a chunk whose first row is `row`."""
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
        rows, recovered = len(chunk.rows) + chunk.superseded, chunk.origin is not None
        return Stored(chunk.number, chunk.file, size, chunk.table, rows, chunk.tries, recovered)

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
        origin: Origin | None = Origin(
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
        for folder in (*self._recovered, self._own):
            with suppress(OSError):
                folder.leave()
        self._recovered.clear()


def _header_of(path: Path) -> Header | None:
    """Return the header of a chunk's file, or None if it cannot be read: `DiskSpool.load` logs that."""
    with suppress(UnreadableError, OSError):
        return read_header(path)
    return None
