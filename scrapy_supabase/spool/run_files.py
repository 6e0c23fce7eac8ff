"""The chunk files of one run: opened, named in upload order, rewritten, removed."""

from __future__ import annotations

import logging
import os
from collections import deque
from contextlib import suppress
from functools import partial
from pathlib import Path

from scrapy_supabase.messages import reason
from scrapy_supabase.models import Row
from scrapy_supabase.rows.chunks import ChunkFile
from scrapy_supabase.spool.append_file import AppendFile
from scrapy_supabase.spool.chunk_file import first_line
from scrapy_supabase.spool.file_io import OPEN_FLAGS, append, sync_folder
from scrapy_supabase.spool.headers import Headers
from scrapy_supabase.spool.mapped import MappedFiles, can_map

logger = logging.getLogger(__name__)


class RunFiles:
    """The chunk files in the folder `run` below `folder`. File names are relative to `folder`.

    `mapped` holds the files into which rows are copied; None if rows are appended, because `appends` is set or
    mapping is not safe.
    Raises `OSError`.
    """

    def __init__(self, folder: Path, run: str, headers: Headers, *, fsync: bool, appends: bool = False) -> None:
        self._folder = folder
        self._base = str(folder)  # a path object costs more than the system call it is for
        self._run = run
        self._headers = headers
        self._fsync = fsync
        self._opened = 0
        self._open_numbers: dict[int, None] = {}  # ascending
        self._renamed = 0
        self._reuses = appends and not fsync
        self._emptied: deque[str] = deque()  # files for other chunks
        self._incomplete: set[str] = set()  # files that lack rows because the disk was full
        self._has_logged_failure = False
        self.mapped = self.map_files() if not (fsync or appends) and can_map(folder) else None

    def map_files(self) -> MappedFiles:
        """Return mapped files for this run, whatever file system it is on."""
        return MappedFiles(self._base, seal=self._seal, append=partial(self._append_file, is_new=False))

    def open(self, header: bytes) -> ChunkFile:
        """Start a file with this header line."""
        self._opened += 1
        self._open_numbers[self._opened] = None
        file = self._new_file(f"{self._run}/{self._opened:08}.jsonl")
        file.append(header)
        return file

    def is_complete(self, name: str) -> bool:
        """Return whether every row of a file was written: False once the disk was full."""
        return name not in self._incomplete

    def remove(self, name: str) -> None:
        """Delete a file, or empty it for reuse. Raises `OSError`."""
        if self.mapped is not None and self.mapped.empty(name):
            return
        if self._reuses and name.startswith(f"{self._run}/"):
            # ext4 searches for the inode of a new file among those deleted in the last five seconds: with a new file
            # per chunk, that takes a quarter of the time of `load`.
            fd = os.open(f"{self._base}/{name}", os.O_WRONLY | OPEN_FLAGS)
            try:
                os.write(fd, b"\0")
                os.ftruncate(fd, 1)
            finally:
                os.close(fd)
            self._emptied.append(name)
        else:
            os.unlink(f"{self._base}/{name}")  # noqa: PTH108

    def cut(self, name: str) -> None:
        """Truncate a file that will stay for a while after its last line."""
        if self.mapped is not None:
            self.mapped.cut(name)

    def rewrite(self, name: str, rows: tuple[Row, ...]) -> None:
        """Reduce a file to `rows`, creating it if needed. Raises `OSError`."""
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
            shorter.unlink(missing_ok=True)  # other files need the space
            raise
        shorter.replace(path)
        if self._fsync:
            sync_folder(path.parent)
        self._incomplete.discard(name)

    def free_room(self) -> None:
        """Free the disk space that files occupy without using it."""
        if self.mapped is not None:
            self.mapped.close()
        while self._emptied:
            with suppress(OSError):
                os.unlink(f"{self._base}/{self._emptied.popleft()}")  # noqa: PTH108

    def _new_file(self, name: str) -> ChunkFile:
        if self.mapped is not None:
            with suppress(OSError):  # appending will meet and report the same error
                return self.mapped.open(name)
        while self._emptied:
            with suppress(OSError):
                os.rename(f"{self._base}/{self._emptied.popleft()}", f"{self._base}/{name}")  # noqa: PTH104
                return self._append_file(name, is_new=False)
        return self._append_file(name)

    def _append_file(self, name: str, *, is_new: bool = True) -> AppendFile:
        error = self._not_written
        return AppendFile(self._base, name, seal=self._seal, on_error=error, fsync=self._fsync, is_new=is_new)

    def _seal(self, name: str) -> str:
        """Rename a complete file to its place in upload order; return the new name.

        The place is after the files sealed before it, and before those that are still open. Names are numbered as files
        are opened; a file sealed while an older one is open gets a name right before that one:
        `00000005-00000001.jsonl` sorts before `00000005.jsonl`.
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
            if name not in self._incomplete:  # else the file was never created
                logger.warning(
                    "The spool file %s cannot be renamed: %s. A run that recovers it may upload its rows out of order.",
                    self._folder / name,
                    reason(error),
                )
                return name
        if name in self._incomplete:
            self._incomplete.remove(name)
            self._incomplete.add(sealed)
        return sealed

    def _not_written(self, name: str, error: OSError) -> None:
        if not self._has_logged_failure:
            self._has_logged_failure = True
            logger.error(
                "The spool in %s cannot be written: %s. Uploads continue from memory; until this is fixed, rows that "
                "are not uploaded are lost if this process is killed.",
                self._folder,
                reason(error),
            )
        self._incomplete.add(name)
