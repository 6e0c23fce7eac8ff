"""Another user's spool: its owner and the remedy, for the message instead of a bare `PermissionError`."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.messages import reason, sentence
from scrapy_supabase.spool.locks import NotLockableError, not_lockable


@contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Turn an error of permissions or locks in the spool `folder` into a `ConfigurationError` with the remedy."""
    try:
        yield
    except NotLockableError as error:
        raise not_lockable(folder, error) from error
    except PermissionError as error:
        remedy = owner_remedy(folder, error) or f"Make it readable: chmod -R u+rwX {shlex.quote(str(folder))}"
        raise ConfigurationError(
            f"The spool folder {folder} cannot be read: {sentence(reason(error))} {remedy}"
        ) from error


def owner_remedy(folder: Path, error: OSError) -> str:
    """Return who owns what a `PermissionError` is about, with the remedy; empty for other errors and for own files.

    `folder` is the spool, or the file that the message is about.
    """
    if not isinstance(error, PermissionError):
        return ""
    return other_owner(folder, Path(os.fsdecode(error.filename)) if error.filename else folder)


def other_owner(folder: Path, path: Path) -> str:
    """Return the owner of `path` in the spool `folder`, with the remedy; empty if this user owns it."""
    nearest = nearest_visible(path)
    if not hasattr(os, "geteuid") or nearest.stat().st_uid == os.geteuid():
        return ""
    name, own = _user(nearest.stat().st_uid), _user(os.geteuid())
    if nearest in folder.absolute().parents and os.access(nearest, os.X_OK):  # the spool does not exist yet
        return (
            f"{nearest} belongs to user {name}, and this process runs as {own}: set SUPABASE_SPOOL_DIR to a folder of "
            f"{own}, or create this one (sudo install -d -o {own} -m 700 {shlex.quote(str(folder))})."
        )
    return (
        f"{nearest} belongs to user {name}, and this process runs as {own}: run it as {name}, give the folder to {own} "
        f"(sudo chown -R {own} {shlex.quote(str(folder))}), or set SUPABASE_SPOOL_DIR to another folder."
    )


def nearest_visible(path: Path) -> Path:
    """Return `path`, or its nearest parent that exists and can be seen."""
    for nearest in (path.absolute(), *path.absolute().parents):
        with suppress(OSError):
            nearest.stat()
            return nearest
    return Path(path.absolute().anchor)


def exists(path: Path) -> bool:
    """Return whether a path exists. Raises `PermissionError` on every version of Python if that cannot be seen."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _user(number: int) -> str:
    import pwd  # POSIX only

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:  # usual in containers
        return str(number)
