"""Files of chunks in memory that is shared with the disk's cache: a row is copied there, which needs no system call.

What is copied is the system's when the copy is done, as with a write: it survives the process. A write and its share of
making and removing a file cost a busy crawl 8 µs a row, a copy 2 µs.

So that a page is never written twice, a file that is done with is used for another chunk behind where the last one
ended, up to its size: after a power cut a page then holds what was copied to it or nothing, and no line is made of two.
What is done with is overwritten with NUL bytes. Hence a file may have NUL bytes before, between and after its lines.
"""

from __future__ import annotations

import mmap
import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from scrapy_supabase.spool.append_file import AppendFile

_SIZE = 1024 * 1024  # bytes of a file; twenty chunks of a hundred small rows
# Where room that was promised (posix_fallocate) is there: on others a full disk can end the process.
_SAFE = frozenset({"ext4", "xfs", "tmpfs"})


class MappedFile:
    """A chunk's file, see `append_file.AppendFile`. A line that it has no room for is appended, and all that follow."""

    __slots__ = ("_files", "_map", "_rest", "_start", "name")

    def __init__(self, files: MappedFiles, name: str, mapped: mmap.mmap) -> None:
        self.name = name
        self._files = files
        self._map = mapped
        self._start = 0
        self._rest: AppendFile | None = None

    @property
    def direct(self) -> tuple[Callable[[bytes], object], int]:
        """See `chunks.ChunkFile`."""
        return self._rest.direct if self._rest else (self._map.write, len(self._map) - self._map.tell())

    def append(self, data: bytes) -> None:
        """Copy one line."""
        if self._rest is None and self._map.tell() + len(data) < len(self._map):
            self._map.write(data + b"\n")
        else:
            if self._rest is None:
                self._rest = self._files.append_to(self)
            self._rest.append(data)

    def close(self) -> None:
        """No line follows."""
        if self._rest is None:
            self._files.seal(self)
        else:
            self._rest.close()
            self.name = self._rest.name

    @property
    def length(self) -> int:
        """Bytes of the lines."""
        return self._map.tell() - self._start

    def empty(self) -> None:
        """Overwrite the lines of a closed file: the first byte first, so that they do not count any more."""
        self._map[self._start] = 0
        self._map[self._start : self._map.tell()] = bytes(self.length)

    def use_again(self, folder: str, name: str, room: int) -> bool:
        """Become the file of another chunk, with so many bytes of room; False where there is less. Raises `OSError`."""
        start = -(-(self._map.tell() + 1) // mmap.PAGESIZE) * mmap.PAGESIZE
        if start + room > len(self._map):
            return False
        os.rename(f"{folder}/{self.name}", f"{folder}/{name}")  # noqa: PTH104
        self.name = name
        self._start = start
        self._map.seek(start)
        return True

    def release(self) -> int:
        """Let go of the memory; return where the lines end."""
        end = self._map.tell()
        self._map.close()
        return end


class MappedFiles:
    """The mapped files of one run, below `folder`. `empty` and `cut` may be called in any thread.

    `seal` is as for `AppendFile`; `append(name)` opens a file that is there already.
    """

    def __init__(self, folder: str, *, seal: Callable[[str], str], append: Callable[[str], AppendFile]) -> None:
        self._folder = folder
        self._seal = seal
        self._append = append
        self._sealed: dict[str, MappedFile] = {}
        self._done: deque[MappedFile] = deque()
        self._last_length = 0

    def open(self, name: str) -> MappedFile:
        """A file for a chunk. Raises `OSError`."""
        while self._done:
            file = self._done.popleft()
            with suppress(OSError):
                if file.use_again(self._folder, name, max(self._last_length, mmap.PAGESIZE)):
                    return file
            self._remove(file)
        path = f"{self._folder}/{name}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, _SIZE)
            mapped = mmap.mmap(fd, _SIZE, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)  # all at once is cheaper
            return MappedFile(self, name, mapped)
        except BaseException:
            os.unlink(path)  # noqa: PTH108
            raise
        finally:
            os.close(fd)

    def seal(self, file: MappedFile) -> None:
        """No line follows."""
        self._last_length = file.length
        file.name = self._seal(file.name)
        self._sealed[file.name] = file

    def append_to(self, file: MappedFile) -> AppendFile:
        """What takes the rest of a file's lines."""
        self._cut(file)
        return self._append(file.name)

    def empty(self, name: str) -> bool:
        """Take the lines of a sealed file away, to use it again; False where it is not one of these."""
        file = self._sealed.pop(name, None)
        if file is None:
            return False
        file.empty()
        self._done.append(file)
        return True

    def cut(self, name: str) -> None:
        """Have a sealed file end where its lines do: it stays for a while."""
        file = self._sealed.pop(name, None)
        if file is not None:
            self._cut(file)

    def close(self) -> None:
        """Remove the files that are done with, and let go of the others."""
        for name in list(self._sealed):
            self.cut(name)
        while self._done:
            self._remove(self._done.popleft())

    def _cut(self, file: MappedFile) -> None:
        end = file.release()
        with suppress(OSError):  # NUL bytes at its end do no harm
            os.truncate(f"{self._folder}/{file.name}", end)

    def _remove(self, file: MappedFile) -> None:
        file.release()
        with suppress(OSError):
            os.unlink(f"{self._folder}/{file.name}")  # noqa: PTH108


def can_map(folder: Path) -> bool:
    """Whether `folder` is on a file system on which files are safe to be mapped."""
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = Path("/proc/self/mountinfo").read_bytes().decode("utf-8", "replace").splitlines()
    except OSError:  # no Linux
        return False
    kinds = [line.rpartition(" - ")[2].split()[0] for line in mounts if line.split()[2] == number]  # see man proc(5)
    return bool(kinds) and kinds[0] in _SAFE
