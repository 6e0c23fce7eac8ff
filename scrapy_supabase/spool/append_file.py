"""A chunk's file to which rows are appended with system calls."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

from scrapy_supabase.spool.file_io import HAS_SYNCED_WRITES, append_flags, sync_folder


class AppendFile:
    """A chunk's file that takes one unbuffered write per row (1.5 µs).

    `on_error(name, error)` is called once if the file cannot be written; nothing is raised. `close` calls
    `seal(name)`, which returns the file's final name.
    """

    __slots__ = ("_fd", "_on_error", "_seal", "_syncs", "name")

    def __init__(
        self,
        folder: str,
        name: str,
        *,
        seal: Callable[[str], str],
        on_error: Callable[[str, OSError], None],
        fsync: bool,
        is_new: bool = True,
    ) -> None:
        self.name = name
        self._seal = seal
        self._on_error = on_error
        self._fd = -1
        self._syncs = fsync and not HAS_SYNCED_WRITES
        path = f"{folder}/{name}"
        try:
            self._fd = os.open(path, append_flags(fsync=fsync) | (os.O_EXCL if is_new else 0), 0o600)
            if fsync:
                sync_folder(Path(path).parent)
        except OSError as error:
            self._end()
            on_error(self.name, error)

    @property
    def direct(self) -> tuple[Callable[[bytes], object], int]:
        """Implement `chunks.ChunkFile.direct`: there is no limit."""
        return self._write_synced if self._syncs else self._write, sys.maxsize

    def append(self, data: bytes) -> None:
        """Write one row as a line."""
        write, _ = self.direct
        write(data + b"\n")

    def _write(self, line: bytes) -> None:
        if self._fd < 0:
            return
        try:
            if os.write(self._fd, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._end()  # lines after a torn one could not be read back
            self._on_error(self.name, error)

    def _write_synced(self, line: bytes) -> None:
        self._write(line)
        try:
            if self._fd >= 0:
                os.fsync(self._fd)
        except OSError as error:
            self._end()
            self._on_error(self.name, error)

    def close(self) -> None:
        """Close the file and give it its final name."""
        self._end()
        self.name = self._seal(self.name)

    def _end(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
