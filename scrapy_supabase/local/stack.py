"""`LocalSupabase`: PostgreSQL and the REST API of one data folder, to be started, joined and stopped."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, Self

from scrapy_supabase.local.binaries import find_postgrest, find_server, require_packages
from scrapy_supabase.local.cluster import Cluster
from scrapy_supabase.local.data_folder import holder_of, last_line, prepare_folder, take_lease
from scrapy_supabase.local.errors import LocalSupabaseError
from scrapy_supabase.local.keys import Keys, load_keys, write_private
from scrapy_supabase.local.launch import start_supervisor
from scrapy_supabase.local.migrations import apply_migrations, read_migrations
from scrapy_supabase.local.posix import fcntl

logger = logging.getLogger(__name__)

_START_TIMEOUT = 30.0  # seconds; a start takes one second on an idle machine
_HOST = "127.0.0.1"
_left_running: list[subprocess.Popen[bytes]] = []  # supervisors that other processes still need


class LocalSupabase:
    """A Supabase on this machine, with its data below `data_dir`; a context manager.

    `migrations` is a folder of numbered SQL files, or the files; `port` is that of the REST API (0: a free one);
    `schemas` are the exposed ones, the first of them the default. A data folder has one user: a second one is refused,
    unless it passes `join=True`. It then shares the running stack (its `port` and `schemas` are ignored), and the last
    one to stop it ends it. Raises `LocalSupabaseError`.
    """

    def __init__(
        self,
        data_dir: str | Path,
        *,
        migrations: str | Path | Iterable[str | Path] = (),
        port: int = 0,
        schemas: Iterable[str] = ("public",),
        join: bool = False,
    ) -> None:
        if fcntl is None:
            raise LocalSupabaseError(
                "A local Supabase needs Linux or macOS. On Windows, use WSL, or set SUPABASE_URL to a hosted project."
            )
        self._folder = Path(data_dir).absolute()
        self._migrations = migrations
        self._port = port
        self._schemas = schemas.split(",") if isinstance(schemas, str) else list(schemas)
        if not all(self._schemas) or not self._schemas:
            raise LocalSupabaseError(
                f"schemas is {schemas!r}: it must be names of schemas to expose, such as public,shop."
            )
        self._join = join
        self._lease: int | None = None
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._keys: Keys | None = None
        self._state: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"<LocalSupabase {self._folder} {self._state.get('url', 'not running')}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The project's URL, for supabase-py and `SUPABASE_URL`."""
        return str(self._running()["url"])

    @property
    def rest(self) -> str:
        """The name of the REST server: the gateway of this package, or PostgREST."""
        return str(self._running()["rest"])

    @property
    def db_url(self) -> str:
        """A connection string for the superuser `postgres`."""
        return self._db_url("postgres", self._secrets().postgres_password)

    @property
    def anon_key(self) -> str:
        """The key for the role `anon`, which row-level security restricts."""
        return self._secrets().anon_key

    @property
    def service_role_key(self) -> str:
        """The key for the role `service_role`, which bypasses row-level security."""
        return self._secrets().service_role_key

    @property
    def jwt_secret(self) -> str:
        """The secret that signs the keys."""
        return self._secrets().jwt_secret

    def start(self) -> None:
        """Start the stack or join a running one; return when the REST API answers. Raises `LocalSupabaseError`."""
        if self._lease is not None:
            raise LocalSupabaseError(f"The local Supabase in {self._folder} is already started.")
        migrations = read_migrations(self._migrations)
        prepare_folder(self._folder)
        deadline = time.monotonic() + _START_TIMEOUT
        try:
            while not (self._try_own() or self._try_join()):
                if time.monotonic() > deadline:
                    raise LocalSupabaseError(
                        f"The local Supabase in {self._folder} neither starts nor stops: see supervisor.log there."
                    )
                time.sleep(0.05)
            if migrations:
                with self._connect() as connection:
                    for name in apply_migrations(connection, migrations, self._folder):
                        logger.info("Local Supabase: applied migration %s", name)
        except BaseException:
            self.stop()
            raise
        logger.info("Local Supabase in %s: %s, REST API by %s", self._folder, self.url, self.rest)

    def stop(self) -> None:
        """Release the stack; if no other process uses it, stop it and wait until it has ended."""
        if self._lease is not None:
            os.close(self._lease)
            self._lease = None
        supervisor, self._supervisor = self._supervisor, None
        self._state = {}
        if supervisor is None:
            return
        assert supervisor.stdin is not None  # noqa: S101 (for the type checker)
        assert supervisor.stdout is not None  # noqa: S101
        with contextlib.suppress(OSError):
            supervisor.stdin.close()
        while (line := supervisor.stdout.readline()) and line.strip() not in (b"stopped", b"shared"):
            pass
        supervisor.stdout.close()
        if line.strip() == b"shared":
            _left_running.append(supervisor)
        else:
            supervisor.wait()

    def _try_own(self) -> bool:
        lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            if self._join:
                return False
            raise LocalSupabaseError(
                f"The local Supabase in {self._folder} is in use by {holder_of(self._folder)}. Stop that process, or "
                "use another data folder."
            ) from None
        try:
            (self._folder / "state.json").unlink(missing_ok=True)
            self._lease = take_lease(self._folder)
            self._keys = load_keys(self._folder)
            self._launch(lock)
        finally:
            os.close(lock)  # the supervisor has inherited it
        return True

    def _try_join(self) -> bool:
        """Take a lease on a running stack; return False while it is starting or stopping."""
        guard = os.open(self._folder / "leases.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
                state = self._folder / "state.json"
                if not state.exists():
                    return False
                self._state = json.loads(state.read_text())
                self._keys = load_keys(self._folder)
                self._lease = take_lease(self._folder)
                return True
        finally:
            os.close(guard)
        return False

    def _launch(self, lock: int) -> None:
        require_packages()
        server = find_server()
        cluster = Cluster(server, self._folder / "postgres")
        cluster.stop_orphan()
        cluster.prepare(self._secrets().postgres_password)
        port = _free_port()
        self._state = {"db_port": port, "owner": os.getpid()}
        gateway = {
            "db_url": self._db_url("authenticator", self._secrets().authenticator_password),
            "host": _HOST,
            "port": self._port,
            "jwt_secret": self._secrets().jwt_secret,
            "schemas": self._schemas,
            "postgrest": find_postgrest(),
        }
        self._supervisor = start_supervisor(self._folder, cluster, port, gateway, lock)
        self._wait_for_postgres(cluster, port)
        self._make_roles()
        _, rest_port, name = self._ready_line(self._supervisor.stdout).split(maxsplit=2)
        self._state |= {"url": f"http://{_HOST}:{rest_port}", "rest": name}
        write_private(self._folder / "state.json", json.dumps(self._state))

    def _wait_for_postgres(self, cluster: Cluster, port: int) -> None:
        assert self._supervisor is not None  # noqa: S101
        status = cluster.data / "postmaster.pid"
        deadline = time.monotonic() + _START_TIMEOUT
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, IndexError):
                lines = status.read_text().splitlines()
                if lines[3] == str(port) and lines[7].strip() == "ready":
                    return
            if self._supervisor.poll() is not None:
                break
            time.sleep(0.005)
        raise LocalSupabaseError(f"PostgreSQL did not start: {last_line(self._folder, 'postgres.log')}")

    def _make_roles(self) -> None:
        done = self._folder / "roles-made"
        if done.exists():
            return
        with self._connect() as connection, connection.transaction():
            exists = connection.execute("select 1 from pg_roles where rolname = 'authenticator'").fetchone()
            if not exists:
                connection.execute(Path(__file__).with_name("roles.sql").read_bytes())
                from psycopg import sql

                password = sql.Literal(self._secrets().authenticator_password)
                connection.execute(sql.SQL("alter role authenticator password {}").format(password))
        done.touch(mode=0o600)

    def _ready_line(self, stream: IO[bytes] | None) -> str:
        """Wait for the gateway's line `ready PORT NAME`, which the supervisor passes on, and return it."""
        assert stream is not None  # noqa: S101
        ready, _, _ = select.select([stream], [], [], _START_TIMEOUT)
        line = stream.readline().decode().strip() if ready else ""
        if line.startswith("ready "):
            return line
        raise LocalSupabaseError(f"The REST API did not start: {last_line(self._folder, 'gateway.log')}")

    def _connect(self) -> Any:
        import psycopg

        return psycopg.connect(self.db_url, autocommit=True)

    def _db_url(self, user: str, password: str) -> str:
        return f"postgresql://{user}:{password}@{_HOST}:{self._state['db_port']}/postgres"

    def _running(self) -> dict[str, Any]:
        if "url" not in self._state:
            raise LocalSupabaseError("The local Supabase is not running: use it in a with statement, or call start().")
        return self._state

    def _secrets(self) -> Keys:
        if self._keys is None:
            raise LocalSupabaseError("The local Supabase is not running: use it in a with statement, or call start().")
        return self._keys


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])
