"""Memory-mapped chunk files: a row is copied into the page cache, which needs no system call.

Copied bytes survive the process, as written ones do: the kernel owns the page. A write and its share of creating and
removing a file cost a busy crawl 8 µs per row, a copy 2 µs.

A file whose chunk is uploaded is reused for another chunk, on the pages after the last one, up to its size. No page is
written twice, so that after a power cut a page holds what was copied to it or nothing, and no line is a mix of two.
Uploaded lines are overwritten with NUL bytes. Hence a file may have NUL bytes before, between and after its lines.
"""

from __future__ import annotations

import mmap
import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from scrapy_supabase.spool.append_file import AppendFile
from scrapy_supabase.spool.file_io import OPEN_FLAGS

# With appends instead of maps, a crawl without downloads takes 6 % more CPU; with maps that are not reused 11 %, or 4 %
# if they are of 64 KiB (docs/benchmarks/README.md).
_SIZE = 1024 * 1024  # bytes of a file: twenty chunks of a hundred small rows
# File systems on which posix_fallocate reserves the space: on others, a full disk can kill the process (SIGBUS).
_SAFE = frozenset({"ext4", "xfs", "tmpfs"})


class MappedFile:
    """A chunk's file that takes copies of rows. The first row without room, and all after it, are appended instead."""

    __slots__ = ("_files", "_map", "_rest", "_start", "name")

    def __init__(self, files: MappedFiles, name: str, mapped: mmap.mmap) -> None:
        self.name = name
        self._files = files
        self._map = mapped
        self._start = 0
        self._rest: AppendFile | None = None

    @property
    def direct(self) -> tuple[Callable[[bytes], object], int]:
        """Implement `chunks.ChunkFile.direct`; the limit is the room left in the file."""
        return self._rest.direct if self._rest else (self._map.write, len(self._map) - self._map.tell())

    def append(self, data: bytes) -> None:
        """Copy one row as a line."""
        if self._rest is None and self._map.tell() + len(data) < len(self._map):
            self._map.write(data + b"\n")
        else:
            if self._rest is None:
                self._rest = self._files.append_to(self)
            self._rest.append(data)

    def close(self) -> None:
        """Seal the file; its name is final from then on."""
        if self._rest is None:
            self._files.seal(self)
        else:
            self._rest.close()
            self.name = self._rest.name

    @property
    def length(self) -> int:
        """The bytes of the chunk's lines."""
        return self._map.tell() - self._start

    def empty(self) -> None:
        """Overwrite the lines of a closed file; the first byte comes first, because it makes readers skip them all."""
        self._map[self._start] = 0
        self._map[self._start : self._map.tell()] = bytes(self.length)

    def use_again(self, folder: str, name: str, room: int) -> bool:
        """Become the file `name` of another chunk; return False with less than `room` bytes left. Raises `OSError`."""
        start = -(-(self._map.tell() + 1) // mmap.PAGESIZE) * mmap.PAGESIZE
        if start + room > len(self._map):
            return False
        os.rename(f"{folder}/{self.name}", f"{folder}/{name}")  # noqa: PTH104
        self.name = name
        self._start = start
        self._map.seek(start)
        return True

    def release(self) -> int:
        """Unmap the file; return the offset at which its lines end."""
        end = self._map.tell()
        self._map.close()
        return end


class MappedFiles:
    """The mapped files of one run, below `folder`. `empty` and `cut` may be called in any thread.

    `seal` is that of `AppendFile`; `append(name)` opens an existing file for appending.
    """

    def __init__(self, folder: str, *, seal: Callable[[str], str], append: Callable[[str], AppendFile]) -> None:
        self._folder = folder
        self._seal = seal
        self._append = append
        self._sealed: dict[str, MappedFile] = {}
        self._done: deque[MappedFile] = deque()
        self._last_length = 0

    def open(self, name: str) -> MappedFile:
        """Return a file for a chunk, reused or new. Raises `OSError`."""
        while self._done:
            file = self._done.popleft()
            with suppress(OSError):
                if file.use_again(self._folder, name, max(self._last_length, mmap.PAGESIZE)):
                    return file
            self._remove(file)
        path = f"{self._folder}/{name}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | OPEN_FLAGS, 0o600)
        try:
            os.posix_fallocate(fd, 0, _SIZE)
            mapped = mmap.mmap(fd, _SIZE, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)  # cheaper than page by page
            return MappedFile(self, name, mapped)
        except BaseException:
            os.unlink(path)  # noqa: PTH108
            raise
        finally:
            os.close(fd)

    def seal(self, file: MappedFile) -> None:
        """Give a complete file its final name."""
        self._last_length = file.length
        file.name = self._seal(file.name)
        self._sealed[file.name] = file

    def append_to(self, file: MappedFile) -> AppendFile:
        """Return the file that takes the lines for which the mapped one has no room."""
        self._cut(file)
        return self._append(file.name)

    def empty(self, name: str) -> bool:
        """Empty a sealed file for reuse; return False if it is not a mapped file of this run."""
        file = self._sealed.pop(name, None)
        if file is None:
            return False
        file.empty()
        self._done.append(file)
        return True

    def cut(self, name: str) -> None:
        """Truncate a sealed file after its last line, because it will stay on disk for a while."""
        file = self._sealed.pop(name, None)
        if file is not None:
            self._cut(file)

    def close(self) -> None:
        """Remove the empty files, and truncate and unmap the others."""
        for name in list(self._sealed):
            self.cut(name)
        while self._done:
            self._remove(self._done.popleft())

    def _cut(self, file: MappedFile) -> None:
        end = file.release()
        with suppress(OSError):  # NUL bytes at the end are harmless
            os.truncate(f"{self._folder}/{file.name}", end)

    def _remove(self, file: MappedFile) -> None:
        file.release()
        with suppress(OSError):
            os.unlink(f"{self._folder}/{file.name}")  # noqa: PTH108


def can_map(folder: Path) -> bool:
    """Return whether `folder` is on a file system on which mapped files are safe."""
    if not hasattr(os, "posix_fallocate"):  # macOS, Windows
        return False
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = Path("/proc/self/mountinfo").read_bytes().decode("utf-8", "replace").splitlines()
    except OSError:  # not Linux
        return False
    kinds = [line.rpartition(" - ")[2].split()[0] for line in mounts if line.split()[2] == number]  # see man proc(5)
    return bool(kinds) and kinds[0] in _SAFE
