"""Writes to files that several processes share; with `fsync`, the bytes survive a power cut."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path


def append(path: Path, data: bytes, *, fsync: bool) -> None:
    """Append `data` to a file, creating it if needed. Raises `OSError`."""
    fd = os.open(path, append_flags(fsync=fsync), 0o600)
    try:
        _write_all(fd, data)
    finally:
        os.close(fd)


def append_shared(path: Path, data: bytes, *, fsync: bool) -> None:
    """Append all of `data`, or nothing, to a file that another process may be moving (`take`).

    Raises `OSError`.
    """
    while True:
        fd = os.open(path, append_flags(fsync=fsync), 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if same_file(fd, path):
                size = os.fstat(fd).st_size
                try:
                    _write_all(fd, data)
                except OSError:  # the next line would be appended to a torn one
                    os.ftruncate(fd, size)
                    raise
                return
        finally:
            os.close(fd)


def take(path: Path, to: Path) -> bool:
    """Move a file to which other processes append (`append_shared`). Return False if it does not exist."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            path.replace(to)
            return True
        return False
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
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def append_flags(*, fsync: bool) -> int:
    """Return the `os.open` flags for appending to a file and creating it if needed."""
    return os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | (os.O_DSYNC if fsync else 0)


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
