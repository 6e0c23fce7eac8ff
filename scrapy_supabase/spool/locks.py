"""Locks between processes: flock on POSIX, msvcrt on Windows."""

from __future__ import annotations

import errno
import time
from typing import Any

from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.messages import reason, sentence

fcntl: Any
try:
    import fcntl
except ImportError:
    fcntl = None

# Windows neither moves nor deletes a file that is open, nor a folder with such a file: the lock is a file beside it.
IS_BESIDE = fcntl is None
_TRIES_EVERY = 0.02  # seconds; on Windows, where the system cannot wait for longer than ten


class NotLockableError(OSError):
    """The file system has no locks."""


def lock(file: int, *, wait: bool) -> None:
    """Lock an open file until it is closed.

    Raises `BlockingIOError` if another process has locked it and this one does not `wait`, and `NotLockableError`.
    """
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError as error:
            raise NotLockableError(error.errno, error.strerror) from error
    else:
        _lock_windows(file, wait=wait)


def _lock_windows(file: int, *, wait: bool) -> None:
    from importlib import import_module

    msvcrt = import_module("msvcrt")
    while True:
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EDEADLK):
                raise NotLockableError(error.errno, error.strerror) from error
            if not wait:
                raise BlockingIOError(error.errno, error.strerror) from error
            time.sleep(_TRIES_EVERY)
        else:
            return


def not_lockable(folder: object, error: OSError) -> ConfigurationError:
    """Return the error about a spool `folder` whose file system has no locks."""
    return ConfigurationError(
        f"The spool folder {folder} cannot be locked: {sentence(reason(error))} Its file system has no file locks, "
        "which keep two crawls apart. Set SUPABASE_SPOOL_DIR to a folder on a local disk, or to None: rows that are "
        "not uploaded are then lost when the process ends."
    )
