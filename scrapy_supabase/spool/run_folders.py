"""Ownership of the runs' folders in a spool, and the notes on what each run stored.

    <folder>/runs.jsonl                     run, tables, and the time until which their rows are stored
    <folder>/<time>-<id>/lock               locked while the run is alive; on Windows <folder>/<time>-<id>.lock

A folder whose lock is free belongs to a dead run; the process that gets the lock owns the folder's content. A run
creates its folder under another name and renames it once it holds the lock, so that the folder of a live run is never
visible with a free lock.
"""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from scrapy_supabase.spool.access import exists, readable
from scrapy_supabase.spool.chunk_file import UnreadableError, cannot_read, cut, now, read_header
from scrapy_supabase.spool.file_io import OPEN_FLAGS, append, append_shared, same_file
from scrapy_supabase.spool.locks import IS_BESIDE, lock
from scrapy_supabase.spool.reject_file import REJECTED

logger = logging.getLogger(__name__)

RUNS = "runs.jsonl"
_LOCK = "lock"
_MAKING = ".making-"
_MAKING_TAKES = 600.0  # seconds; in practice a millisecond
_MOST_RUNS = 1024 * 1024  # bytes of runs.jsonl; beyond that, its older half is dropped


class RunFolder:
    """A run's folder in the spool, owned until `leave`.

    A forked child does not own it: the child's copy of the lock is closed, because it would keep the folder locked
    after the death of its parent.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock: int | None = lock
        _owned.add(self)

    @classmethod
    def make(cls, folder: Path, name: str) -> RunFolder:
        """Create and lock the folder of a new run. Raises `OSError`."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if IS_BESIDE:  # the folder cannot be renamed while a file in it is open, and need not be
            held = _open_lock(folder / name)
            lock(held, wait=False)
            (folder / name).mkdir(mode=0o700)
            return cls(folder / name, held)
        making = folder / f"{_MAKING}{name}"
        making.mkdir(mode=0o700)
        held = _open_lock(making)
        lock(held, wait=False)
        return cls(making.rename(folder / name), held)

    @classmethod
    def adopt(cls, path: Path) -> RunFolder | None:
        """Lock the folder of a dead run; return None if another process holds the lock. Raises `OSError`."""
        held = None
        try:
            held = _open_lock(path)
            lock(held, wait=False)
        except (BlockingIOError, FileNotFoundError, NotADirectoryError):
            if held is not None:
                os.close(held)
            return None
        if path.is_dir() and same_file(held, _lock_of(path)):
            return cls(path, held)
        os.close(held)  # the previous owner has just removed the folder
        if IS_BESIDE:
            with suppress(OSError):
                _lock_of(path).unlink()
        return None

    def tidy(self) -> None:
        """Clean up after a killed run: half-written files, unused space, and rejects that a replay had taken."""
        for path in self.path.glob("*.new"):
            path.unlink(missing_ok=True)
        for path in chunk_files(self.path):
            with suppress(OSError):
                cut(path)
        taken = self.path / REJECTED
        if taken.exists():
            append_shared(self.path.parent / REJECTED, taken.read_bytes(), fsync=True)
            taken.unlink()

    def project(self) -> str | None:
        """Return the project whose rows the folder holds; None without rows: any project may remove the folder."""
        for path in chunk_files(self.path):
            try:
                header = read_header(path)
            except (UnreadableError, OSError) as error:
                logger.warning("%s", cannot_read(path, error))
                continue
            if header is not None:
                return header.project
        return None

    def release(self) -> None:
        """Unlock the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def leave(self) -> None:
        """Unlock the folder, and remove it if it holds nothing else."""
        if self._lock is None:
            return
        try:
            if all(entry.name == _LOCK for entry in self.path.iterdir()):
                (self.path / _LOCK).unlink(missing_ok=IS_BESIDE)
                with suppress(OSError):  # another process is looking at it, and will remove it
                    self.path.rmdir()
        except FileNotFoundError:
            pass
        finally:
            self.release()
        if IS_BESIDE and not self.path.exists():
            with suppress(OSError):  # another process is looking at it, and will remove it
                _lock_of(self.path).unlink()


_owned: weakref.WeakSet[RunFolder] = weakref.WeakSet()


def _disown_all() -> None:
    """Close this process's copies of all locks. Their owner keeps them."""
    for folder in list(_owned):
        folder.release()
    _owned.clear()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_disown_all)


def dead_runs(folder: Path) -> Iterator[RunFolder]:
    """Adopt the folders of dead runs, oldest first. Raises `ConfigurationError` if another user owns the spool."""
    with readable(folder):
        paths = sorted(folder.iterdir()) if exists(folder) else []
    for path in paths:
        if not path.is_dir() or (path.name.startswith(_MAKING) and not _is_old(path)):
            continue
        try:
            found = RunFolder.adopt(path)
        except OSError as error:
            logger.warning("%s", cannot_read(path, error))
            continue
        if found is not None:
            yield found


def count_live_runs(folder: Path) -> int:
    """Count the runs that are alive. Raises `ConfigurationError`, like `dead_runs`."""
    number = 0
    with readable(folder):
        for path in folder.iterdir() if exists(folder) else ():
            number += is_run(path) and is_alive(path)
    return number


def is_alive(run: Path) -> bool:
    """Return whether a run's folder is locked. Raises `OSError`."""
    owned = RunFolder.adopt(run)
    if owned is not None:
        owned.release()  # at once: a crawl that starts now must be able to adopt it
    return owned is None


def chunk_files(run: Path) -> list[Path]:
    """Return the chunk files in a run's folder, oldest first."""
    return sorted(path for path in run.glob("*.jsonl") if path.name != REJECTED)


def is_run(folder: Path) -> bool:
    """Return whether a folder is that of a run. Raises `PermissionError`."""
    return exists(_lock_of(folder))


class RunNote(msgspec.Struct, frozen=True):
    """A line of runs.jsonl: a run, and the tables in which its rows up to `time` may be stored."""

    run: str
    time: str
    project: str
    tables: tuple[str, ...]


def note_run(folder: Path, run: str, project: str, tables: tuple[str, ...], time: str = "") -> None:
    """Note that the rows of a run up to `time` (default: now) are stored in `tables`.

    Without tables, only check that the file is writable. Raises `OSError`.
    """
    path, note = folder / RUNS, RunNote(run, time or now(), project, tables)
    append(path, msgspec.json.encode(note) + b"\n" if tables else b"", fsync=False)
    if path.stat().st_size > _MOST_RUNS:
        lines = path.read_bytes().splitlines(keepends=True)
        shorter = path.with_suffix(f".{os.getpid()}")
        shorter.unlink(missing_ok=True)
        append(shorter, b"".join(lines[len(lines) // 2 :]), fsync=False)
        shorter.replace(path)


def runs_noted(folder: Path) -> list[RunNote]:
    """Return the notes of a spool, oldest first; skip damaged lines. Raises `ConfigurationError`, like `dead_runs`."""
    path = folder / RUNS
    notes: list[RunNote] = []
    with readable(folder):
        lines = path.read_bytes().splitlines() if exists(path) else []
    for line in lines:
        with suppress(msgspec.MsgspecError, UnicodeDecodeError):
            notes.append(msgspec.json.decode(line, type=RunNote))
    return notes


def _is_old(path: Path) -> bool:
    """Return whether a folder under its first name is too old to belong to a run that is just starting."""
    with suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime > _MAKING_TAKES
    return False


def _open_lock(folder: Path) -> int:
    return os.open(_lock_of(folder), os.O_RDWR | os.O_CREAT | OPEN_FLAGS, 0o600)


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.{_LOCK}") if IS_BESIDE else folder / _LOCK
