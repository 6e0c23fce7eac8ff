"""`scrapy supabase local` and `scrapy supabase sql`, run from the command line."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from postgrest.exceptions import APIError

from scrapy_supabase.commands.results import table
from scrapy_supabase.local import LocalSupabase
from tests import fork_server
from tests.backends.test_supabase_client import connected

SCRAPY = [sys.executable, "-m", "scrapy", "supabase"]


def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `scrapy supabase …` and wait for its end."""
    return fork_server.scrapy("supabase", *arguments, cwd=cwd, env={**os.environ, **environment})


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_local_prints_what_a_shell_can_source_and_stays(open_folder: Path, sign: signal.Signals) -> None:
    """It prints only NAME=value lines and `ready`; a signal ends it with exit code 0."""
    folder = open_folder / "command data"
    command = [*SCRAPY, "local", "--data-dir", str(folder), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(7)]
    assert lines[5:] == ["# ready\n", "ready=1\n"]
    script = (
        "".join(lines) + 'echo "$SUPABASE_URL|$SUPABASE_KEY|$SUPABASE_ANON_KEY|$SUPABASE_DB_URL|$SUPABASE_JWT_SECRET"'
    )
    sourced = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.strip().split("|")
    assert sourced[0].startswith("http://127.0.0.1:")
    assert sourced[3].startswith("postgresql://postgres:")
    assert all(sourced)
    asked = run("sql", "select 1 as one", cwd=open_folder, SUPABASE_DB_URL=sourced[3])
    assert asked.stdout == "one\n---\n1\n(1 row)\n"
    process.send_signal(sign)
    rest, errors = process.communicate(timeout=20)
    assert (process.returncode, rest) == (0, ""), errors


def test_local_with_sql_prints_a_table_and_ends(open_folder: Path) -> None:
    """The stack is started for one query."""
    done = run(
        "local", "--data-dir", str(open_folder / "command data"), "--sql", "select 'ä' as a, null as b", cwd=open_folder
    )
    assert (done.returncode, done.stdout) == (0, "a | b\n--+-----\nä | NULL\n(1 row)\n"), done.stderr


def test_local_exposes_the_requested_schemas(open_folder: Path, tmp_path: Path) -> None:
    """With `--schemas public,shop`, a request selects either schema by its profile."""
    (tmp_path / "1_shop.sql").write_text(
        "create schema shop; create table shop.books (id int primary key); grant usage on schema shop to service_role; "
        "grant all on shop.books to service_role; insert into shop.books values (7)"
    )
    command = [*SCRAPY, "local", "--data-dir", str(open_folder / "two"), "--port", "0", "--migrations", str(tmp_path)]
    process = subprocess.Popen([*command, "--schemas", "public, shop"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(6)]
    found = dict(shlex.split(line)[0].split("=", 1) for line in lines[:5])
    try:
        with connected(found["SUPABASE_URL"], found["SUPABASE_KEY"]) as client:
            assert client.schema("shop").table("books").select("id").execute().data == [{"id": 7}]
            with pytest.raises(APIError, match="Only the following schemas are exposed: public, shop"):
                client.schema("auth").table("books").select("id").execute()
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)


def test_local_without_a_schema_is_an_error(open_folder: Path) -> None:
    """The error is one line, with exit code 1."""
    done = run("local", "--data-dir", str(open_folder / "two"), "--port", "0", "--schemas", "public,", cwd=open_folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert "it must be names of schemas to expose" in done.stderr
    assert "Traceback" not in done.stderr


def test_local_on_a_taken_port_is_an_error(open_folder: Path, local_stack: LocalSupabase) -> None:
    """The message has the remedy."""
    port = local_stack.url.rpartition(":")[2]
    done = run("local", "--data-dir", str(open_folder / "command data"), "--port", port, cwd=open_folder)
    assert done.returncode == 1
    assert f"Cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr


def test_sql_errors_are_one_line(open_folder: Path, local_stack: LocalSupabase) -> None:
    """The error has the server's message and the line of the query, and no password."""
    done = run("sql", "select\n nothing", "--db-url", local_stack.db_url, cwd=open_folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == 'scrapy supabase sql: column "nothing" does not exist (line 2).\n'
    refused = run("sql", "select 1", "--db-url", "postgresql://postgres:hunter2@127.0.0.1:1/x", cwd=open_folder)
    assert refused.returncode == 1
    assert "hunter2" not in refused.stderr
    assert "Connection refused" in refused.stderr


def test_sql_without_a_database_is_an_error(tmp_path: Path) -> None:
    """Without SUPABASE_DB_URL and a local stack, the error has the remedy."""
    done = run("sql", "select 1", cwd=tmp_path, SUPABASE_DB_URL="")
    assert done.returncode == 1
    assert "Set SUPABASE_DB_URL, or start a local one: scrapy supabase local" in done.stderr


def test_sql_prints_the_status_of_statements(open_folder: Path, local_stack: LocalSupabase) -> None:
    """The output has the status of statements without rows, and the results of several statements."""
    query = "create temp table t (a int); insert into t values (1), (2); select count(*) from t"
    done = run("sql", query, "--db-url", local_stack.db_url, cwd=open_folder)
    assert done.stdout == "CREATE TABLE\nINSERT 0 2\ncount\n-----\n2\n(1 row)\n"


@pytest.mark.parametrize("arguments", [["--help"], ["local", "--help"], ["sql", "--help"]])
def test_help(tmp_path: Path, arguments: list[str]) -> None:
    """`--help` works at every level."""
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 0
    assert "usage" in done.stdout.lower()


def test_no_sub_command_is_an_error_that_lists_them(tmp_path: Path) -> None:
    """`scrapy supabase` without a sub-command, or with an unknown one, lists them."""
    assert "check, ddl, load, replay, report, local, sql" in run(cwd=tmp_path).stderr
    assert run("nonsense", cwd=tmp_path).returncode == 2


def test_wide_characters_are_aligned() -> None:
    """East Asian characters count as two columns, combining characters as none."""
    drawn = table(["名", "b"], [["漢字", "1"], ["e\u0301", "2"]]).splitlines()
    assert drawn == ["名   | b", "-----+--", "漢字 | 1", "e\u0301    | 2"]
