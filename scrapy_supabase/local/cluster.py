"""One PostgreSQL data folder: created once, checked, and the command line of its server."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scrapy_supabase.local.binaries import Server
from scrapy_supabase.local.errors import LocalSupabaseError
from scrapy_supabase.local.posix import pwd
from scrapy_supabase.messages import sentence

# For development: data survives `kill -9` (the kernel has the pages) but not a power cut; twice as fast.
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "64MB",
    "max_connections": "100",
    "logging_collector": "off",
    "log_min_messages": "warning",
    "log_statement": "none",  # statements carry data, and those that set passwords carry secrets
    "log_min_error_statement": "panic",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "max_wal_size": "512MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
}

_STOP_TIMEOUT = 10.0  # seconds to wait after a signal


@dataclass(frozen=True, slots=True)
class Cluster:
    """The data folder `data` of a PostgreSQL server."""

    server: Server
    data: Path

    def prepare(self, password: str) -> bool:
        """Create the cluster if it does not exist; return whether it was created. Raises `LocalSupabaseError`."""
        version = self.data / "PG_VERSION"
        if version.exists():
            found = version.read_text().strip()
            if found != self.server.major:
                raise LocalSupabaseError(
                    f"{self.data} was created by PostgreSQL {found}, but PostgreSQL {self.server.major} is installed. "
                    f"Use another data folder, or install PostgreSQL {found} and set SCRAPY_SUPABASE_POSTGRES to its "
                    "folder."
                )
            return False
        if self.data.exists():
            raise LocalSupabaseError(f"{self.data} is not a PostgreSQL data folder. Remove it, or use another folder.")
        self._check_reachable()
        # A killed initdb must not leave half a cluster: it works in another folder, which is renamed at the end.
        for half in self.data.parent.glob(".initdb-*"):
            shutil.rmtree(half, ignore_errors=True)
        making = Path(tempfile.mkdtemp(prefix=".initdb-", dir=self.data.parent))
        self._own(making)
        password_file = making.with_suffix(".password")
        descriptor = os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(password)
            self._own(password_file)
            self._initdb(making, password_file)
        except BaseException:
            shutil.rmtree(making, ignore_errors=True)
            raise
        finally:
            password_file.unlink(missing_ok=True)
        making.rename(self.data)
        return True

    def command(self, port: int) -> list[str]:
        """Return the server's command line."""
        settings = {**_SETTINGS, "port": str(port)}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self.server.bin / "postgres"), "-D", str(self.data), *options]

    def stop_orphan(self) -> None:
        """Stop a server that outlived its owner. The caller must hold the folder's lock.

        Raises `LocalSupabaseError` if the server does not stop.
        """
        try:
            pid = int((self.data / "postmaster.pid").read_text().splitlines()[0])
        except (OSError, ValueError, IndexError):
            return
        if not self._is_ours(pid):
            return  # a stale file: the server removes it itself
        for sign in (signal.SIGINT, signal.SIGQUIT):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sign)
            deadline = time.monotonic() + _STOP_TIMEOUT
            while time.monotonic() < deadline:
                if not self._is_ours(pid):
                    return
                time.sleep(0.02)
        raise LocalSupabaseError(f"A PostgreSQL server left by an earlier run does not stop. Run: kill -9 {pid}")

    def _is_ours(self, pid: int) -> bool:
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        command = Path(f"/proc/{pid}/cmdline")
        with contextlib.suppress(OSError):
            words = command.read_bytes().split(b"\0")
            return bool(words) and b"postgres" in words[0] and os.fsencode(self.data) in words
        return not Path("/proc/self").exists()  # no /proc (macOS): trust the pid file

    def _initdb(self, folder: Path, password_file: Path) -> None:
        done = subprocess.run(
            [
                self.server.bin / "initdb",
                "--pgdata",
                folder,
                "--username=postgres",
                "--auth=scram-sha-256",
                f"--pwfile={password_file}",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            **identity(self.server.user),
        )
        if done.returncode:
            raise LocalSupabaseError(
                f"initdb could not create {self.data}: {sentence((done.stderr or done.stdout)[-500:])}"
            )

    def _own(self, path: Path) -> None:
        """Make the server's user the owner of `path`."""
        if self.server.user is not None:
            entry = pwd.getpwnam(self.server.user)
            os.chown(path, entry.pw_uid, entry.pw_gid)

    def _check_reachable(self) -> None:
        if self.server.user is None:
            return
        done = subprocess.run(
            ["/bin/sh", "-c", 'cd "$1"', "sh", str(self.data.parent)], check=False, **identity(self.server.user)
        )
        if done.returncode:
            raise LocalSupabaseError(
                f"For root, PostgreSQL runs as user {self.server.user}, who cannot enter {self.data.parent}. Use a "
                "data folder below one that every user can enter, such as /var/tmp, or run as another user."
            )


def environment() -> dict[str, str]:
    """Return the environment for PostgreSQL's programs, without variables that would change their behavior."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


def identity(user: str | None) -> dict[str, Any]:
    """Return the arguments of `subprocess` that make a process run as `user` (None: the current one)."""
    if user is None:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
