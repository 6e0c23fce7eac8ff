"""Folders that PostgreSQL's user can enter.

For root (containers, CI), PostgreSQL runs as `nobody`. The permissions of existing folders are never changed.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from scrapy_supabase.local.errors import LocalSupabaseError
from scrapy_supabase.local.posix import is_root, pwd

SERVER_USER = "nobody"


def reachable(path: Path, user: str) -> bool:
    """Return whether `user` may enter every folder down to `path`."""
    entry = pwd.getpwnam(user)
    for folder in (path, *path.parents):
        found = folder.stat()
        if found.st_uid == entry.pw_uid:
            needed = stat.S_IXUSR
        else:
            needed = stat.S_IXGRP if found.st_gid == entry.pw_gid else stat.S_IXOTH
        if not found.st_mode & needed:
            return False
    return True


def own_folder(path: Path) -> Path:
    """Create and return the folder `path`, in a place where every user may create folders.

    Raises `LocalSupabaseError` if another user owns the folder or can write to it.
    """
    path.mkdir(mode=0o755, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise LocalSupabaseError(f"{path} is not used, because another user owns it or can write to it. Remove it.")
    return path


def default_folder(wanted: Path) -> Path:
    """Return `wanted`, or a folder in /var/tmp in its place for root if the server's user cannot enter `wanted`."""
    wanted = wanted.absolute()
    if not is_root():
        return wanted
    existing = next(folder for folder in (wanted, *wanted.parents) if folder.exists())
    if reachable(existing, SERVER_USER):
        return wanted
    mark = hashlib.sha256(os.fsencode(wanted)).hexdigest()[:16]
    return own_folder(Path("/var/tmp/scrapy-supabase-root")) / mark  # noqa: S108 (its owner is checked)
