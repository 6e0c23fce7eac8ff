"""What the local Supabase says: why it does not start, and that it did."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from scrapy_supabase.local import LocalSupabase, LocalSupabaseError, cluster
from scrapy_supabase.local.binaries import POSTGREST_VARIABLE, VARIABLE, find_postgrest, find_server
from scrapy_supabase.local.cluster import Cluster
from scrapy_supabase.local.migrations import apply_migrations, read_migrations
from scrapy_supabase.local.place import own_folder
from tests.fix_crawl import ROOT
from tests.fix_local import Connection
from tests.messages import Said

as_root = os.geteuid() == 0


@pytest.fixture
def folder(open_folder: Path, request: pytest.FixtureRequest, said: Said) -> Path:
    """A folder that everybody may enter."""
    made: Path = open_folder / request.node.name.replace("/", " ")
    made.mkdir(mode=0o755)
    said.hidden[str(made)] = "folder"
    return made


def why(call: Callable[[], object]) -> str:
    """What is said when it fails."""
    with pytest.raises(LocalSupabaseError) as raised:
        call()
    return f"LocalSupabaseError: {raised.value}"


def test_windows(said: Said, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The systems that have what it needs."""
    monkeypatch.setattr("scrapy_supabase.local.stack.fcntl", None)
    said("A local Supabase on Windows", why(lambda: LocalSupabase(folder)))


def test_starting_and_stopping(said: Said, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where it is; what was applied; that another one is refused."""
    caplog.set_level("INFO", "scrapy_supabase.local")
    migration = folder / "001_t.sql"
    migration.write_text("create table t (id int)")
    stack = LocalSupabase(folder / "data", migrations=[migration])
    said("An empty schema name", why(lambda: LocalSupabase(folder, schemas="public,,shop")))
    said("Asked for its URL before it is started", why(lambda: stack.url), why(lambda: stack.anon_key))
    with stack:
        said("It starts, with a migration", [f"{r.levelname}: {r.getMessage()}" for r in caplog.records])
        said("Started twice", why(stack.start))
        said("In use by another process", why(LocalSupabase(folder / "data").start))
        state = folder / "data" / "state.json"
        kept = state.read_text()
        state.write_text("{}")
        said("In use by one that is starting", why(LocalSupabase(folder / "data").start))
        state.write_text(kept)
        port = int(stack.url.rpartition(":")[2])
        said("The port of its REST API is taken", why(LocalSupabase(folder / "other", port=port).start))


def test_programs(said: Said, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable that names them, and what to install."""
    monkeypatch.setenv(VARIABLE, "/nowhere")
    said("A variable that names no PostgreSQL", why(find_server))
    monkeypatch.setenv(POSTGREST_VARIABLE, "/nowhere/postgrest")
    said("A variable that names no PostgREST", why(find_postgrest))
    monkeypatch.setenv(VARIABLE, str(folder))
    for name in ("initdb", "postgres"):
        (folder / name).write_text("#!/bin/sh\necho 'wrong machine' >&2; exit 1\n")
        (folder / name).chmod(0o755)
    said("A PostgreSQL that does not run", why(find_server))
    code = (
        "from scrapy_supabase.local import binaries as b\nb.find_spec = lambda _: None\n"
        "b._has_programs = lambda _: False\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SCRAPY_SUPABASE")}
    done = subprocess.run(
        [sys.executable, "-c", f"{code}b.find_server()"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    said("No PostgreSQL at all", "LocalSupabaseError: " + done.stderr.splitlines()[-1].partition(": ")[2])


def test_a_postgresql_without_the_extra(said: Said, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to install, before a data folder of the system's PostgreSQL is made."""
    monkeypatch.setitem(sys.modules, "jwt", None)
    said("A PostgreSQL, and a package is missing", why(LocalSupabase(folder / "data").start))
    monkeypatch.setitem(sys.modules, "psycopg", None)
    said("A PostgreSQL, and the extra is missing", why(LocalSupabase(folder / "data").start))
    assert not (folder / "data" / "postgres").exists()


def test_data_folders(said: Said, folder: Path) -> None:
    """What is in the way, and that it is not touched."""
    (folder / "file").write_text("")
    said("A data folder that is a file", why(LocalSupabase(folder / "file").start))
    (folder / "old" / "postgres").mkdir(parents=True)
    (folder / "old" / "postgres" / "PG_VERSION").write_text("9\n")
    message = why(LocalSupabase(folder / "old").start).replace(
        f"PostgreSQL {find_server().major}", "PostgreSQL <major>"
    )
    said("A data folder of another version", message)
    (folder / "diary" / "postgres").mkdir(parents=True)
    said("A data folder of something else", why(LocalSupabase(folder / "diary").start))
    (folder / "public").mkdir()
    (folder / "public").chmod(0o777)
    said("A folder that others may write to", why(lambda: own_folder(folder / "public")))


def test_servers_that_fail(said: Said, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their last words, and the file that has more of them."""
    real = find_server()
    broken = folder / "broken"
    shutil.copytree(real.bin.parent, broken, symlinks=True, ignore=shutil.ignore_patterns("include"))
    libraries = real.bin.parent.parent.with_name(real.bin.parent.parent.name + ".libs")
    if libraries.is_dir():
        shutil.copytree(libraries, folder.parent / libraries.name, dirs_exist_ok=True)
    monkeypatch.setenv(VARIABLE, str(broken / "bin"))
    script = '#!/bin/sh\n[ "$1" = --version ] && {{ echo "postgres (PostgreSQL) {major}.1"; exit; }}\n{rest}\n'
    for name in ("initdb", "postgres"):
        (broken / "bin" / name).unlink()
        (broken / "bin" / name).write_text(script.format(major=real.major, rest="echo 'out of luck' >&2; exit 1"))
        (broken / "bin" / name).chmod(0o755)
    said("initdb fails", why(LocalSupabase(folder / "data").start))
    (broken / "bin" / "initdb").write_text("#!/bin/sh\nexit 0\n")
    said("PostgreSQL does not start", why(LocalSupabase(folder / "data").start))


def test_an_orphan_that_does_not_stop(said: Said, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which process to end."""
    monkeypatch.setattr(cluster, "_STOP_TIMEOUT", 0.2)
    data = folder / "postgres"
    data.mkdir()
    command = ["postgres", "-c", "trap '' INT QUIT; echo deaf; read wait", "-D", str(data)]
    with subprocess.Popen(
        command, executable="/bin/sh", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as deaf:
        assert deaf.stdout
        assert deaf.stdout.readline() == "deaf\n"
        (data / "postmaster.pid").write_text(f"{deaf.pid}\n")
        said("An orphan that does not stop", why(Cluster(find_server(), data).stop_orphan))
        deaf.kill()


def test_a_folder_that_the_server_cannot_enter(said: Said, folder: Path) -> None:
    """Why, and where to put it. Only root's server runs as somebody else."""
    assert (find_server().user is not None) == as_root
    if not as_root:
        return
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    closed.chmod(0o700)
    said("Root's data folder in a closed folder", why(LocalSupabase(closed / "data").start))


FILES: Sequence[tuple[str, dict[str, bytes]]] = (
    ("A migration without a number", {"books.sql": b""}),
    ("Two migrations with one number", {"1_a.sql": b"", "01_b.sql": b""}),
    ("A migration that is not text", {"001_a.sql": b"\xff"}),
)


@pytest.mark.parametrize(("how", "files"), FILES, ids=[how for how, _ in FILES])
def test_migrations_that_cannot_be_used(said: Said, tmp_path: Path, how: str, files: dict[str, bytes]) -> None:
    """Which file, and what is wrong with it."""
    for name, text in files.items():
        (tmp_path / name).write_bytes(text)
    said(how, why(lambda: read_migrations(tmp_path)))


def test_migrations(said: Said, tmp_path: Path, db: Connection) -> None:
    """The file, the line, and that nothing of it was applied."""
    said("A folder of migrations that is not there", why(lambda: read_migrations(tmp_path / "nowhere")))
    said("A migration that is not there", why(lambda: read_migrations([tmp_path / "001_a.sql"])))
    db.execute("drop schema if exists scrapy_supabase_local cascade; drop table if exists t")
    path = tmp_path / "001_t.sql"
    path.write_text("create table t (id int);\nselect titel from (select 1 as title) s;\n")
    said("A migration with an error", why(lambda: apply_migrations(db, read_migrations(tmp_path), tmp_path)))
    path.write_text("create table t (id int)")
    apply_migrations(db, read_migrations(tmp_path), tmp_path)
    path.write_text("create table t (id bigint)")
    said("A migration that was changed", why(lambda: apply_migrations(db, read_migrations(tmp_path), tmp_path)))
    db.execute("drop schema scrapy_supabase_local cascade; drop table t")


def test_the_gateway(said: Said, local_stack: LocalSupabase) -> None:
    """What it cannot do, it says, and what can."""
    import urllib.error
    import urllib.request

    def answer(method: str, path: str) -> dict[str, Any]:
        headers = {"apikey": local_stack.service_role_key, "Content-Type": "application/json"}
        request = urllib.request.Request(f"{local_stack.url}/rest/v1{path}", b"{}", headers, method=method)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=10)
        with refused.value as error:
            found: dict[str, Any] = json.loads(error.read())
            return found

    refused = answer("PATCH", "/t?select=id,author(name)")
    said("A request that the gateway does not support", f"{refused['code']}: {refused['message']} {refused['hint']}")
