"""One PostgreSQL data folder: made once, checked, and the command that serves it."""

from __future__ import annotations

import contextlib
import os
import pwd
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
from scrapy_supabase.messages import sentence

# A laptop's stack: survives `kill -9` of any process (the kernel has the pages), not a power cut, and is twice as fast.
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

_STOP_TIMEOUT = 10.0  # seconds a signal may take


@dataclass(frozen=True, slots=True)
class Cluster:
    """The data folder `data` of a server, below a folder of ours."""

    server: Server
    data: Path

    def prepare(self, password: str) -> bool:
        """Make the cluster if it is not there. True if it was made. Raises `LocalSupabaseError`."""
        version = self.data / "PG_VERSION"
        if version.exists():
            found = version.read_text().strip()
            if found != self.server.major:
                raise LocalSupabaseError(
                    f"{self.data} was made by PostgreSQL {found} and PostgreSQL {self.server.major} is installed. Use "
                    f"another data folder, or install version {found} and name it in SCRAPY_SUPABASE_POSTGRES."
                )
            return False
        if self.data.exists():
            raise LocalSupabaseError(f"{self.data} is not a PostgreSQL data folder. Remove it, or use another folder.")
        self._check_reachable()
        # Into another folder first: a killed initdb leaves no half cluster behind.
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
        """The server's command line."""
        settings = {**_SETTINGS, "port": str(port)}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self.server.bin / "postgres"), "-D", str(self.data), *options]

    def stop_orphan(self) -> None:
        """Stop a server that outlived its owner. Only to be called by who holds the folder's lock."""
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
        raise LocalSupabaseError(f"A PostgreSQL that an earlier run left does not stop. Run: kill -9 {pid}")

    def _is_ours(self, pid: int) -> bool:
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        command = Path(f"/proc/{pid}/cmdline")
        with contextlib.suppress(OSError):
            words = command.read_bytes().split(b"\0")
            return bool(words) and b"postgres" in words[0] and os.fsencode(self.data) in words
        return not Path("/proc/self").exists()  # no /proc (macOS): the live process of our pid file it is

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
                f"initdb did not make {self.data}: {sentence((done.stderr or done.stdout)[-500:])}"
            )

    def _own(self, path: Path) -> None:
        """Hand what we made to the user the server runs as."""
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
                f"As root, PostgreSQL runs as user {self.server.user}, who may not enter {self.data.parent}. Use a "
                "data folder below one that everybody may enter, such as /var/tmp, or run as another user."
            )


def environment() -> dict[str, str]:
    """The environment for PostgreSQL's programs: theirs must not depend on ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


def identity(user: str | None) -> dict[str, Any]:
    """Arguments of `subprocess` that make the process run as `user`."""
    if user is None:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
