"""Writes to files that several processes share, and that survive the process, or with `fsync` the machine."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path


def append(path: Path, data: bytes, *, fsync: bool) -> None:
    """Add `data` to a file, which is made if need be. Raises `OSError`."""
    fd = os.open(path, append_flags(fsync=fsync), 0o600)
    try:
        _write_all(fd, data)
    finally:
        os.close(fd)


def append_shared(path: Path, data: bytes, *, fsync: bool) -> None:
    """Add `data` to a file that another process may be about to take away (`take`): all of it, or nothing.

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
                except OSError:  # a torn line would spoil the next one as well
                    os.ftruncate(fd, size)
                    raise
                return
        finally:
            os.close(fd)


def take(path: Path, to: Path) -> bool:
    """Move a file that others append to. False where there is none."""
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
    """Whether `path` still is the file that is open as `fd`."""
    try:
        there, opened = path.stat(), os.fstat(fd)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (opened.st_dev, opened.st_ino)


def sync_folder(folder: Path) -> None:
    """Make new names in a folder survive the machine."""
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def append_flags(*, fsync: bool) -> int:
    """Return the flags for `os.open` of a file that is appended to, and made if need be."""
    return os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | (os.O_DSYNC if fsync else 0)


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
