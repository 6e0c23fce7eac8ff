"""Writes to files that several processes share; with `fsync`, the bytes survive a power cut."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from scrapy_supabase.spool.locks import IS_BESIDE, lock

# Without O_BINARY, Windows writes CRLF; without O_CLOEXEC, Python does the same with one more call.
OPEN_FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
HAS_SYNCED_WRITES = hasattr(os, "O_DSYNC")
"""Whether a file can be opened so that each write waits for the disk; else each needs an `os.fsync`."""


def append(path: Path, data: bytes, *, fsync: bool) -> None:
    """Append `data` to a file, creating it if needed. Raises `OSError`."""
    fd = os.open(path, append_flags(fsync=fsync), 0o600)
    try:
        _write_all(fd, data, fsync=fsync)
    finally:
        os.close(fd)


def append_shared(path: Path, data: bytes, *, fsync: bool) -> None:
    """Append all of `data`, or nothing, to a file that another process may be moving (`take`).

    Raises `OSError`.
    """
    while True:
        with _locked_beside(path) if IS_BESIDE else nullcontext():
            fd = os.open(path, append_flags(fsync=fsync), 0o600)
            try:
                if not IS_BESIDE:
                    lock(fd, wait=True)
                if same_file(fd, path):
                    size = os.fstat(fd).st_size
                    try:
                        _write_all(fd, data, fsync=fsync)
                    except OSError:  # the next line would be appended to a torn one
                        os.ftruncate(fd, size)
                        raise
                    return
            finally:
                os.close(fd)


def take(path: Path, to: Path) -> bool:
    """Move a file to which other processes append (`append_shared`). Return False if it does not exist."""
    if IS_BESIDE:
        with _locked_beside(path), suppress(FileNotFoundError):
            path.replace(to)
            return True
        return False
    try:
        fd = os.open(path, os.O_RDWR | OPEN_FLAGS)
    except FileNotFoundError:
        return False
    try:
        lock(fd, wait=True)
        with suppress(FileNotFoundError):
            path.replace(to)
            return True
        return False
    finally:
        os.close(fd)


@contextmanager
def _locked_beside(path: Path) -> Iterator[None]:
    """Hold the lock of a file that may be moved meanwhile."""
    fd = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | OPEN_FLAGS, 0o600)
    try:
        lock(fd, wait=True)
        yield
    finally:
        os.close(fd)


def same_file(fd: int, path: Path) -> bool:
    """Return whether `path` still is the file that is open as `fd`."""
    try:
        named, opened = path.stat(), os.fstat(fd)
    except FileNotFoundError:
        return False
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that new file names survive a power cut. Raises `OSError`."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows opens no folders
        return
    fd = os.open(folder, os.O_RDONLY | OPEN_FLAGS)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def append_flags(*, fsync: bool) -> int:
    """Return the `os.open` flags for appending to a file and creating it if needed."""
    return os.O_WRONLY | os.O_CREAT | os.O_APPEND | OPEN_FLAGS | (getattr(os, "O_DSYNC", 0) if fsync else 0)


def _write_all(fd: int, data: bytes, *, fsync: bool) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
    if fsync and not HAS_SYNCED_WRITES:
        os.fsync(fd)
