"""The chunk files of one run, from the first row to the last: opened, named by their order, rewritten, removed."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from functools import partial
from pathlib import Path

from scrapy_supabase.messages import reason
from scrapy_supabase.models import Row
from scrapy_supabase.rows.chunks import ChunkFile
from scrapy_supabase.spool.append_file import AppendFile
from scrapy_supabase.spool.chunk_file import first_line
from scrapy_supabase.spool.file_io import append, sync_folder
from scrapy_supabase.spool.headers import Headers
from scrapy_supabase.spool.mapped import MappedFiles, can_map

logger = logging.getLogger(__name__)


class RunFiles:
    """The files in the folder `run` below `folder`. Names are relative to `folder`, as those of recovered files are.

    `mapped` are the files that rows are copied into; None where that is not safe, and rows are appended.
    Raises `OSError`.
    """

    def __init__(self, folder: Path, run: str, headers: Headers, *, fsync: bool) -> None:
        self._folder = folder
        self._base = str(folder)  # a path object costs more than the call it is for
        self._run = run
        self._headers = headers
        self._fsync = fsync
        self._opened = 0
        self._open_numbers: dict[int, None] = {}  # ascending
        self._renamed = 0
        self._incomplete: set[str] = set()  # files that lack rows because the disk was full
        self._said_unwritten = False
        self.mapped = self.map_files() if not fsync and can_map(folder) else None

    def map_files(self) -> MappedFiles:
        """Return mapped files for this run, on whatever disk it is."""
        return MappedFiles(self._base, seal=self._seal, append=partial(self._append_file, is_new=False))

    def open(self, header: bytes) -> ChunkFile:
        """Start a file."""
        self._opened += 1
        self._open_numbers[self._opened] = None
        file = self._new_file(f"{self._run}/{self._opened:08}.jsonl")
        file.append(header)
        return file

    def is_complete(self, name: str) -> bool:
        """Whether every row of a file was written: False once the disk was full."""
        return name not in self._incomplete

    def remove(self, name: str) -> None:
        """Delete a file, or empty it to use it again. Raises `OSError`."""
        if self.mapped is None or not self.mapped.empty(name):
            os.unlink(f"{self._base}/{name}")  # noqa: PTH108

    def cut(self, name: str) -> None:
        """Have a file that stays for a while end where its lines do."""
        if self.mapped is not None:
            self.mapped.cut(name)

    def rewrite(self, name: str, rows: tuple[Row, ...]) -> None:
        """Leave only `rows` in a file, which is made if need be. Raises `OSError`."""
        self.cut(name)
        path = self._folder / name
        header = first_line(path) if path.exists() or path.parent != self._folder / self._run else b""
        if not header.endswith(b"\n"):  # the disk was full when the file was started
            header = self._headers.starting_with(rows[0]) + b"\n"
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

    def free_room(self) -> None:
        """Give back the room that files hold without using it."""
        if self.mapped is not None:
            self.mapped.close()

    def _new_file(self, name: str) -> ChunkFile:
        if self.mapped is not None:
            with suppress(OSError):  # the other way tells what is wrong
                return self.mapped.open(name)
        return self._append_file(name)

    def _append_file(self, name: str, *, is_new: bool = True) -> AppendFile:
        error = self._not_written
        return AppendFile(self._base, name, seal=self._seal, on_error=error, fsync=self._fsync, is_new=is_new)

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
                sync_folder(self._folder / self._run)
        except OSError as error:
            if name not in self._incomplete:  # it was never made
                logger.warning(
                    "The spool file %s cannot be renamed: %s. A run that recovers it may upload its rows too late.",
                    self._folder / name,
                    reason(error),
                )
                return name
        if name in self._incomplete:
            self._incomplete.remove(name)
            self._incomplete.add(sealed)
        return sealed

    def _not_written(self, name: str, error: OSError) -> None:
        if not self._said_unwritten:
            self._said_unwritten = True
            logger.error(
                "The spool in %s cannot be written: %s. Uploading goes on from memory; until this is mended, rows that "
                "are not uploaded are lost if this process is killed.",
                self._folder,
                reason(error),
            )
        self._incomplete.add(name)
