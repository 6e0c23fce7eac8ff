"""A data folder: created, leased by the processes that use it, and its logs."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from pathlib import Path

from scrapy_supabase.local.errors import LocalSupabaseError
from scrapy_supabase.local.posix import fcntl, is_root
from scrapy_supabase.messages import reason, sentence


def prepare_folder(folder: Path) -> None:
    """Create the folder, closed to other users where the file system allows it. Raises `LocalSupabaseError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "leases").mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid == os.geteuid():
            # For root, the server's user must pass through to its own folder; other users cannot list it.
            folder.chmod(0o711 if is_root() else 0o700)
    except OSError as error:
        raise LocalSupabaseError(
            f"The data folder {folder} cannot be used: {sentence(reason(error))} Use another folder."
        ) from error


def take_lease(folder: Path) -> int:
    """Return the descriptor of a new lease; the stack is not stopped while it is open."""
    lease = os.open(folder / "leases" / uuid.uuid4().hex, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    fcntl.flock(lease, fcntl.LOCK_EX)
    return lease


def holder_of(folder: Path) -> str:
    """Return a phrase that names the process that uses the folder."""
    try:
        return f"process {json.loads((folder / 'state.json').read_text())['owner']}"
    except (OSError, ValueError, KeyError):
        return "a process that is starting"


def last_line(folder: Path, name: str) -> str:
    """Return the last line of a log in the folder, and the path of the log."""
    with contextlib.suppress(OSError, IndexError):
        last = (folder / name).read_text(errors="replace").strip().splitlines()[-1]
        return f"{sentence(last)} For more, see {folder / name}."
    return f"see {folder / name}."
