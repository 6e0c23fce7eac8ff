"""A PgBouncer in transaction mode in front of the project's database: its clients share few sessions, by turns."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.fix_project import Project
from tests.polling import eventually

SIZE = 3  # sessions per database; they take turns
# A database of PgBouncer per role: it refuses `options` in a connection string. "statement" is in statement mode.
_DATABASES = {
    "postgres": "",
    "service_role": "connect_query='set role service_role'",
    "anon": "connect_query='set role anon; set statement_timeout = 3000'",
    "statement": "pool_mode=statement",
}


class Bouncer:
    """A `pgbouncer` in front of the database `db_url`. `options` change its settings; `upstream` is (host, port)."""

    def __init__(
        self, program: str, folder: Path, db_url: str, *, upstream: tuple[str, int] | None = None, **options: Any
    ) -> None:
        self._program = program
        self._folder = folder
        self._db_url = db_url
        # Bound, but not listening: PgBouncer cannot choose a free port by itself, and nobody else gets this one.
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind(("127.0.0.1", 0))
        self.port: int = self._reserved.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        at = conninfo_to_dict(db_url)
        host, port = upstream or (at["host"], at["port"])
        given = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": folder / "users",
            "admin_users": at["user"],
            "pool_mode": "transaction",
            "default_pool_size": SIZE,
            "server_round_robin": 1,
            "server_login_retry": 1,
            **({"user": "nobody"} if os.geteuid() == 0 else {}),  # it refuses to run as root
            **options,
        }
        databases = [
            f"{name} = host={host} port={port} dbname={at['dbname']} {own}" for name, own in _DATABASES.items()
        ]
        lines = ["[databases]", *databases, "[pgbouncer]", *(f"{name} = {value}" for name, value in given.items())]
        folder.mkdir()
        (folder / "ini").write_text("\n".join(lines) + "\n")
        (folder / "users").write_text(f'"{at["user"]}" "{at["password"]}"\n')

    def url(self, database: str = "postgres", **change: Any) -> str:
        """The connection string to one of its databases."""
        return make_conninfo(self._db_url, host="127.0.0.1", port=self.port, dbname=database, **change)

    def start(self) -> None:
        """Start it, and wait until it listens."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen([self._program, str(self._folder / "ini")], stdout=log, stderr=log)
        assert eventually(self._listens), (self._folder / "log").read_text()

    def stop(self, sign: int = signal.SIGTERM) -> None:
        """End it at once, with the connections of its clients."""
        if self._process is not None:
            self._process.send_signal(sign)
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """Stop it, and give its port back."""
        self.stop()
        self._reserved.close()

    def admin(self, command: str) -> None:
        """Run a command of its console, such as PAUSE."""
        with psycopg.connect(self.url("pgbouncer"), autocommit=True) as console:
            console.execute(command.encode())

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()
        except OSError:
            return False
        return True


MakeBouncer = Callable[..., Bouncer]


@pytest.fixture(scope="session")
def pgbouncer() -> str:
    """The program."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed (Debian: apt install pgbouncer)")
    return program


@pytest.fixture(scope="session")
def bouncer(pgbouncer: str, project: Project, open_folder: Path) -> Iterator[Bouncer]:
    """One for the whole run."""
    made = Bouncer(pgbouncer, open_folder / "bouncer", project.db_url)
    made.start()
    yield made
    made.close()


@pytest.fixture
def make_bouncer(pgbouncer: str, project: Project, open_folder: Path) -> Iterator[MakeBouncer]:
    """Start one of the test's own: `make_bouncer(default_pool_size=1, upstream=("127.0.0.1", 5432))`."""
    made: list[Bouncer] = []

    def make(**options: Any) -> Bouncer:
        folder = open_folder / f"bouncer {len(list(open_folder.iterdir()))}"
        made.append(Bouncer(pgbouncer, folder, project.db_url, **options))
        made[-1].start()
        return made[-1]

    yield make
    for each in made:
        each.close()
