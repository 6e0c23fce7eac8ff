"""`scrapy supabase sql` and `scrapy supabase ddl --apply`: what they print, and what they change."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scrapy_supabase.backends.statements import statements
from scrapy_supabase.schema.ddl import ledger_sql, newest_sql, snapshots_sql
from tests.commands.test_commands_local import SCRAPY, run
from tests.fix_project import Project
from tests.test_messages_commands import Command, Sql, command

__all__ = ["command"]  # a fixture
HERE = __name__
LONG = "x" * 200


@dataclasses.dataclass
class TBook:
    """An item class."""

    url: str
    price: float | None = None


def out(lines: list[str]) -> str:
    """Standard output of a command of `command`; nothing was on standard error."""
    assert not [line for line in lines if not line.startswith("stdout: ")], lines
    return "\n".join(line.removeprefix("stdout: ") for line in lines)


VALUES = (
    "select 1 as n, 0.10::numeric as price, 'NaN'::float8 as odd, null as nothing, '' as empty, true as yes, "
    """'{"b": 1.10, "a": ["ü", 12345678901234567890]}'::jsonb as more, array['a', null] as tags, """
    "timestamptz '2026-01-02 03:04:05Z' as seen, date '2026-01-02' as day, '\\x00ff'::bytea as raw, "
    "E'two\\nlines, \"quoted\"' as text, interval '26 h' as took, '10.0.0.1'::inet as host"
)


def test_json_has_every_value_exactly(command: Command, project: Project) -> None:
    """One object per line: numbers have all their digits, JSON is JSON, and what JSON lacks is a text."""
    text = out(
        command(
            "sql", "--json", f"set time zone 'UTC'; {VALUES} from generate_series(1, 2)", f"--db-url={project.db_url}"
        )[:2]
    )
    lines = text.splitlines()
    assert lines[0] == lines[1]
    assert '"price":0.10,' in lines[0]
    assert '"more":{"a": ["ü", 12345678901234567890], "b": 1.10}' in lines[0]
    found = json.loads(lines[0])
    assert {name: found[name] for name in found if name not in ("price", "more")} == {
        "n": 1,
        "odd": "nan",
        "nothing": None,
        "empty": "",
        "yes": True,
        "tags": ["a", None],
        "seen": "2026-01-02T03:04:05+00:00",
        "day": "2026-01-02",
        "raw": "\\x00ff",
        "text": 'two\nlines, "quoted"',
        "took": "1 day, 2:00:00",
        "host": "10.0.0.1",
    }


def test_csv_tells_null_from_empty(command: Command, project: Project) -> None:
    """Python reads it back; the status of other statements is not in it."""
    done = run("sql", "--csv", f"set time zone 'UTC'; {VALUES}", "--db-url", project.db_url, cwd=command.folder)
    header, row = csv.reader(io.StringIO(done.stdout))
    found = dict(zip(header, row, strict=True))
    assert done.stdout.splitlines()[1].startswith('1,0.10,nan,,"",true,')
    assert (found["text"], found["tags"]) == ('two\nlines, "quoted"', '["a",null]')
    assert json.loads(found["more"])["b"] == 1.1
    assert done.stderr == "SET\n"


def test_json_of_two_columns_with_one_name_is_an_error(command: Command, project: Project) -> None:
    """One of the two values would be lost."""
    lines = command("sql", "--json", "select 1 as a, 2 as a", "--db-url", project.db_url)
    assert command.code == 1
    assert lines == ["stderr: scrapy supabase sql: Two columns of the result are named 'a': rename one with AS."]


def test_what_sql_prints_as_json_is_loaded(command: Command, sql: Sql, project: Project) -> None:
    """`sql --json | load -` copies rows."""
    sql("create table t (id int primary key, more jsonb, tags text[]); grant all on t to service_role")
    text = out(
        command(
            "sql",
            "--json",
            "select 7 as id, '{\"a\": [1]}'::json as more, array['x'] as tags",
            "--db-url",
            project.db_url,
        )
    )
    command("load", "-", text=text.encode())
    assert command.code == 0
    assert sql("select id, more, tags from t") == [(7, {"a": [1]}, ["x"])]


@pytest.mark.parametrize("where", ["pipe", "terminal", "terminal, --full"])
def test_cells_are_cut_on_a_terminal_only(where: str, project: Project, tmp_path: Path) -> None:
    """A pipe or a file gets all of a value; so does a terminal with `--full`."""
    query = [*SCRAPY, "sql", f"select '{LONG}' as text", "--db-url", project.db_url]
    if "full" in where:
        query.append("--full")
    ours, theirs = os.pipe() if where == "pipe" else pty.openpty()
    with subprocess.Popen(query, stdout=theirs, cwd=tmp_path) as process:
        os.close(theirs)
        shown = b""
        with os.fdopen(ours, "rb", buffering=0) as reading:
            try:
                while part := reading.read(65536):
                    shown += part
            except OSError:  # how a terminal whose last user has gone ends, on Linux
                pass
    assert process.returncode == 0
    assert (LONG in shown.decode()) == (where != "terminal")
    assert ("…" in shown.decode()) == (where == "terminal")


def test_json_in_a_table_is_json(command: Command, project: Project) -> None:
    """Not a Python object: `{"a": null}`, and arrays too."""
    text = out(command("sql", "select '{\"a\": null}'::jsonb as more, array['b'] as tags", "--db-url", project.db_url))
    assert text.splitlines()[2] == '{"a": null} | ["b"]'


def test_ddl_is_applied(command: Command, sql: Sql, project: Project) -> None:
    """Each statement is printed with its result; the crawl's role can then write to the table."""
    url: dict[str, Any] = {"SUPABASE_DB_URL": project.db_url, "SUPABASE_TABLE": None}
    first = out(command("ddl", "--apply", f"{HERE}.TBook", "--table", "t_books", "--key", "url", **url))
    assert command.code == 0
    assert "create table if not exists public.t_books (" in first
    assert first.count("-- CREATE TABLE\n") == first.count("-- GRANT\n") == 1
    assert first.endswith("notify pgrst, 'reload schema';\n-- NOTIFY")
    command("load", "-", "--table", "t_books", text=b'{"url": "u", "price": 1.5}')
    assert sql("select * from t_books") == [("u", 1.5)]
    again = out(command("ddl", "--apply", f"{HERE}.TBook", "--table", "t_books", "--key", "url", **url))
    assert '-- CREATE TABLE (relation "t_books" already exists, skipping)' in again
    assert sql("select count(*) from t_books") == [(1,)]


def test_ddl_is_applied_completely_or_not(command: Command, sql: Sql, project: Project) -> None:
    """If a statement fails, those before it are rolled back."""
    lines = command(
        "ddl",
        "--apply",
        f"{HERE}.TBook",
        "--table",
        "t_books",
        "--runs",
        "pg_catalog_x",
        "-s",
        "SUPABASE_ON_CONFLICT=url",
        SUPABASE_DB_URL=project.db_url,
        SUPABASE_TABLE=None,
        SUPABASE_KEY="sb_secret_x",
        SUPABASE_SCHEMA="t_nowhere",
    )
    assert command.code == 1
    assert lines[-1] == 'stderr: scrapy supabase ddl: schema "t_nowhere" does not exist. Nothing was applied.'
    sql("create view t_view as select 1 as n")
    try:
        lines = command(
            "ddl",
            "--apply",
            f"{HERE}.TBook",
            "--table",
            "t_books",
            "--key",
            "url",
            "--runs",
            "t_view",
            SUPABASE_DB_URL=project.db_url,
            SUPABASE_TABLE=None,
        )
        assert command.code == 1
        assert lines[-1].endswith("Nothing was applied.")
        assert sql("select to_regclass('t_books')") == [(None,)]
    finally:
        sql("drop view t_view")


def test_ddl_by_a_pipe(command: Command, sql: Sql, project: Project) -> None:
    """`ddl … | sql -` creates the table as well."""
    text = out(command("ddl", f"{HERE}.TBook", "--table", "t_books", "--key", "url", SUPABASE_TABLE=None))
    assert "CREATE TABLE" in out(command("sql", "-", text=text.encode(), SUPABASE_DB_URL=project.db_url))
    assert sql("select count(*) from t_books") == [(0,)]


def test_ddl_is_applied_to_a_new_local_supabase(open_folder: Path) -> None:
    """`SUPABASE_URL = "local"` is enough, with the migrations of `SUPABASE_MIGRATIONS`; `sql` finds the tables."""
    folder = open_folder / "ddl of a new one"
    (folder / "migrations").mkdir(parents=True)
    (folder / "migrations" / "001_shops.sql").write_text("create table shops (id int primary key);")
    (folder / "rows.jsonl").write_text('{"id": 1, "shop": 2}\n')
    environment: dict[str, Any] = {"SUPABASE_URL": "local", "SUPABASE_DB_URL": "", "SUPABASE_MIGRATIONS": "migrations"}
    done = run("ddl", "--apply", "--from", "rows.jsonl", "--table", "offers", cwd=folder, **environment)
    assert done.returncode == 0, done.stderr
    assert "-- CREATE TABLE\n" in done.stdout
    counted = run("sql", "select count(*) from shops, offers", cwd=folder, **environment)
    assert counted.stdout.splitlines()[2] == "0"


def test_sql_starts_a_local_supabase_that_is_new(open_folder: Path) -> None:
    """As the first command of a project: with the migrations. A later query does not apply new ones."""
    folder = open_folder / "new"
    migrations = folder / "migrations"
    migrations.mkdir(parents=True)
    (migrations / "001_a.sql").write_text("create table a (n int)")
    settings = ["-s", "SUPABASE_URL=local", "-s", "SUPABASE_MIGRATIONS=migrations"]
    first = run("sql", "create table b (n int); select count(*) from a", *settings, cwd=folder)
    assert (first.returncode, first.stdout.splitlines()[-1]) == (0, "(1 row)"), first.stderr
    (migrations / "002_b.sql").write_text("this is no SQL")
    second = run("sql", "select count(*) from b", *settings, cwd=folder)
    assert (second.returncode, second.stdout.splitlines()[-1]) == (0, "(1 row)"), second.stderr


def test_settings_on_both_sides_of_the_sub_command(open_folder: Path) -> None:
    """Both are used; of two values for one setting, the later one."""
    scrapy = [sys.executable, "-m", "scrapy", "supabase", "-s", "SUPABASE_URL=https://x.supabase.co", "-s"]
    arguments = ["SUPABASE_MODE=ignore", "check", "--json", "-s", "SUPABASE_MODE=often", "-s", "SUPABASE_TABLE=t"]
    done = subprocess.run([*scrapy, *arguments], cwd=open_folder, capture_output=True, text=True, timeout=60)
    found = {f["text"] for f in json.loads(done.stdout)["findings"] if f["level"] == "error"}
    assert len(found) == 2, found
    assert all("SUPABASE_KEY" in text or "SUPABASE_MODE is 'often'" in text for text in found), found


def test_statements() -> None:
    """A semicolon in a comment, a name, a text or a function's body ends no statement."""
    text = "-- a; b\ncreate table \"x;y\" (a text check (a in (';', E'\\';')));\n\nselect 1;\n-- end; of it"
    assert list(statements(text)) == [text.split("\n\n")[0], "select 1;"]
    for sql in (newest_sql('we;ird"t', "a'b"), snapshots_sql(), ledger_sql("runs")):
        assert all(one.endswith(";") for one in statements(sql))
    assert len(list(statements(newest_sql("t", "id")))) == 2
    assert len(list(statements("select 1"))) == 1
