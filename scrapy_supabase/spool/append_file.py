"""A chunk's file while rows are appended to it."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

from scrapy_supabase.spool.file_io import append_flags, sync_folder


class AppendFile:
    """A chunk's file while rows are written to it, one unbuffered write each (1.5 µs).

    What cannot be written is told to `on_error` (once, with the file's name) and never raised. `seal` is given the name
    when no row follows, and returns the one that the file has from then on.
    """

    __slots__ = ("_fd", "_on_error", "_seal", "name")

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
        """See `chunks.ChunkFile`."""
        return self._write, sys.maxsize

    def append(self, data: bytes) -> None:
        """Write one line."""
        self._write(data + b"\n")

    def _write(self, line: bytes) -> None:
        if self._fd < 0:
            return
        try:
            if os.write(self._fd, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._end()  # what follows a torn line could not be read back
            self._on_error(self.name, error)

    def close(self) -> None:
        """No line follows."""
        self._end()
        self.name = self._seal(self.name)

    def _end(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
