"""Messages of `ddl`, `report`, item classes and the record of the last run, provoked in this process."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import scrapy

from scrapy_supabase.monitoring.last_run import FILE, Fatal, LastRun, LastRunFile, Rejects, Rows
from scrapy_supabase.report import page_of
from scrapy_supabase.report.verdict import findings
from tests.fix_project import Project
from tests.messages import Said, of_records
from tests.monitoring.test_record import new_record
from tests.report.test_report import made
from tests.test_messages_commands import Command, Sql, command

__all__ = ["command"]  # a fixture


@dataclasses.dataclass
class Empty:
    """No field."""


@dataclasses.dataclass
class Loose:
    """No key, and a field that may hold anything."""

    what: Any


class Numbered(scrapy.Item):
    """A field whose name is a number."""


Numbered.fields = {5: scrapy.Field()}  # type: ignore[dict-item]


@dataclasses.dataclass
class Odd:
    """A type that is none."""

    a: int = dataclasses.field(metadata={"sql_type": 5})


HERE = "tests.test_messages_report"
DDL: Sequence[tuple[str, Sequence[str], bytes]] = (
    ("ddl of nothing", [], b""),
    ("ddl of a class and a file", [f"{HERE}.Loose", "--from", "-"], b""),
    ("ddl of two classes for one table", [f"{HERE}.Loose", f"{HERE}.Empty", "--table", "t"], b""),
    ("ddl of the newest row of no table", ["--newest", "seen"], b""),
    ("ddl of the history of no table", ["--history", "price"], b""),
    ("ddl of a history with a comma too many", ["--history", "price,", "books"], b""),
    ("ddl of the history of a table without a key", ["--history", "price", "nowhere"], b""),
    ("ddl of a class in no module", ["nowhere.Item"], b""),
    ("ddl of a class that is not there", [f"{HERE}.Nothing"], b""),
    ("ddl of dicts", ["builtins.dict"], b""),
    ("ddl of a class without fields", [f"{HERE}.Empty"], b""),
    ("ddl of a class with a wrong type", [f"{HERE}.Odd"], b""),
    ("ddl of a class that cannot be read", ["tests.checkup.test_check.Unreadable"], b""),
    ("A key with a comma too many", [f"{HERE}.Loose", "--key", "what,"], b""),
    ("A key that is no column", [f"{HERE}.Loose", "--key", "isbn"], b""),
    ("ddl of a table without a name", [f"{HERE}.Loose", "--table", ""], b""),
    ("ddl of a table whose name is too long", [f"{HERE}.Loose", "--table", "t" * 64], b""),
    ("ddl of a column whose name is too long", ["--from", "-", "--format", "csv"], b"%b\n1\n" % (b"x" * 64)),
    ("ddl of a column that every table has", ["--from", "-", "--format", "csv"], b"ctid\n1\n"),
    ("ddl of a field whose name is no text", [f"{HERE}.Numbered"], b""),
    ("ddl of a file that is not there", ["--from", "nowhere.csv"], b""),
    ("ddl of no row", ["--from", "-"], b""),
    ("ddl of a bad line", ["--from", "-"], b'{"id": 1}\n[2]\n'),
    ("ddl of JSON that is no array", ["--from", "-", "--format", "json"], b'{"id": 1}'),
    ("ddl of CSV in another encoding", ["--from", "-", "--format", "csv"], "id,title\n1,é\n".encode("latin-1")),
    ("ddl of CSV with two columns of one name", ["--from", "-", "--format", "csv"], b"id,id\n1,2\n"),
    ("ddl of CSV with a quote that does not end", ["--from", "-", "--format", "csv"], b'id,title\n1,a\n2,"b\n'),
)


@pytest.mark.parametrize(("how", "arguments", "text"), DDL, ids=[how for how, _, _ in DDL])
def test_ddl(how: str, arguments: Sequence[str], text: bytes, said: Said, command: Command) -> None:
    """Each error is one line with the argument, the problem and the remedy, without a word about uploads."""
    messages = command("ddl", *arguments, text=text, SUPABASE_TABLE=None)
    assert command.code == 1
    assert "uploaded" not in str(messages)
    said(how, messages)


def test_ddl_of_several_tables(said: Said, command: Command) -> None:
    """The tables among which items of a class choose, are named."""
    tables = {"*": {"by": "kind", "tables": {"book": "books", "pen": "pens"}}}
    said("ddl of several tables", command("ddl", f"{HERE}.Loose", SUPABASE_TABLE=None, SUPABASE_TABLES=tables))
    command("ddl", f"{HERE}.Loose", "--table", "pens", SUPABASE_TABLE=None, SUPABASE_TABLES=tables)
    assert command.code == 0


def test_ddl_of_a_wrong_history(said: Said, command: Command, sql: Sql) -> None:
    """Columns that the table lacks, and columns that never change."""
    sql("create table t (id int primary key, price numeric); grant all on t to service_role")
    sql("notify pgrst, 'reload schema'")
    said("ddl of the history of a column that is not there", command("ddl", "--history", "cost", "t"))
    said("ddl of the history of the key", command("ddl", "--history", "id", "t"))
    messages = command("ddl", "--history", "price", "t")
    said("ddl of a history", [message for message in messages if message.startswith("stdout: -- ")])


def test_what_ddl_notes(said: Said, command: Command) -> None:
    """Comments above the SQL; the SQL is in tests/schema/test_ddl.py."""
    messages = command("ddl", f"{HERE}.Loose", SUPABASE_TABLE=None)
    said("ddl of a class that says little", [message for message in messages if message.startswith("stdout: -- ")])
    messages = command("ddl", f"{HERE}.Loose", SUPABASE_TABLE="books")
    said("ddl of a second class", [message for message in messages if message.startswith("stdout: -- For")])
    messages = command("ddl", "--from", "-", text=b'{"id": 1}\n', SUPABASE_TABLE=None)
    said("ddl of one row", [message for message in messages if message.startswith("stdout: -- ")])
    messages = command("ddl", "--newest", "seen", "t")
    said("ddl of the newest row", [message for message in messages if message.startswith("stdout: -- ")])
    encoded = command("ddl", "--from", "-", "--format", "csv", "--encoding", "latin-1", text=b"a\n\xe9\n")
    assert command.code == 0, encoded


def test_ddl_that_is_applied(said: Said, command: Command, sql: Sql, project: Project) -> None:
    """The statements with their results, and the reason why nothing was applied."""
    given: dict[str, Any] = {"SUPABASE_DB_URL": project.db_url, "SUPABASE_TABLE": None}
    arguments = ["ddl", "--apply", f"{HERE}.Loose", "--table", "t_applied", "--key", "what"]

    def results(messages: list[str]) -> list[str]:
        return [message for message in messages if message.startswith("stdout: -- ")]

    said("ddl is applied", results(command(*arguments, **given)))
    said("ddl is applied once more", results(command(*arguments, **given)))
    said("ddl that the database refuses", command(*arguments, SUPABASE_SCHEMA="t_nowhere", **given)[-1:])
    said("ddl for a hosted project, and no connection string", command(*arguments, SUPABASE_TABLE=None))


def test_report(said: Said, command: Command, tmp_path: Path) -> None:
    """No run, no folder, no spool, a file that cannot be read or written: each with what to do."""
    folder = tmp_path / "spool"
    folder.mkdir()
    said("report before the first crawl", command("report"))
    said("report of a folder that is not there", command("report", "--spool", "nowhere"))
    said("report without a spool", command("report", SUPABASE_SPOOL_DIR=None))
    (folder / FILE).mkdir()
    said("report of a run that cannot be read", command("report"))
    (folder / FILE).rmdir()
    (folder / FILE).write_text("{}")
    said("report of a run that is damaged", command("report"))
    (folder / FILE).write_text('{"format": 9}')
    said("report of a run of another version", command("report"))
    (folder / FILE).write_bytes(new_record().encoded("spool", reason="finished"))
    said("report into a folder", command("report", str(tmp_path)))


def _faulty(run: LastRun) -> str:
    raise ZeroDivisionError(run.run)


def test_the_record_of_a_run(said: Said, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """The messages have the path of the report, or the reason why it was not written."""
    data = new_record().encoded("spool", reason="finished")
    with caplog.at_level(logging.INFO):
        LastRunFile(None, tmp_path / "report.html", "run-id", page_of).end(data)
        said("A report is written", [f"INFO: {record.getMessage()}" for record in caplog.records])
    (tmp_path / "file").touch()
    caplog.clear()
    LastRunFile(tmp_path / "file", tmp_path / "file" / "report.html", "run-id", page_of).end(data)
    said("Neither record nor report can be written", of_records(caplog))
    caplog.clear()
    os.mkfifo(tmp_path / "pipe.html")
    LastRunFile(None, tmp_path / "pipe.html", "run-id", page_of).end(data)
    said("A report into a pipe that nobody reads", of_records(caplog))
    caplog.clear()
    LastRunFile(None, tmp_path / "report.html", "run-id", _faulty).end(data)
    said("A report that has a fault", of_records(caplog))


RUNS: Sequence[tuple[str, dict[str, Any]]] = (
    ("A run without a row", {"crawl": {"pages fetched": 1}}),
    ("A run of one row", {"tables": {"t": Rows(1, 1)}}),
    ("A run of many rows", {"tables": {"t": Rows(2000, 1999, 1), "u": Rows(1, 1, recovered=1)}}),
    ("A run with rejected rows", {"tables": {"t": Rows(2000, 1998, rejected=2)}}),
    ("A run of one row, which was rejected", {"tables": {"t": Rows(1, rejected=1)}}),
    ("A run with rejected rows, and no spool", {"tables": {"t": Rows(2, 1, rejected=1)}, "spool": None}),
    (
        "A run of which the log alone has rows, though there is a spool",
        {"tables": {"t": Rows(2, 1, rejected=1)}, "rejects": [Rejects("t", "not_kept", 1)]},
    ),
    (
        "A run with rejected rows, and others that the log alone has",
        {
            "tables": {"t": Rows(5, 2, rejected=3)},
            "rejects": [Rejects("t", "not_kept", 2), Rejects("t", "23514", 1)],
        },
    ),
    ("A run that left rows", {"tables": {"t": Rows(3, 1, left=2)}, "spool": "my spool"}),
    ("A run that left one row", {"tables": {"t": Rows(1, left=1)}}),
    (
        "A run that found rows that may be older",
        {"tables": {"t": Rows(1, 1, recovered_outdated=2)}, "spool": "my spool"},
    ),
    ("A run that was killed", {"ended": None, "reason": None}),
    (
        "A run that was killed while the server was unreachable",
        {"ended": None, "reason": None, "offline": True, "spool": None},
    ),
    ("A run that was closed early", {"tables": {"t": Rows(2, 2)}, "reason": "closespider_timeout"}),
    ("A run of a spider that raised", {"tables": {"t": Rows(2, 2)}, "crawl": {"exceptions in the spider": 1}}),
    (
        "A run that was closed",
        {
            "fatal": Fatal(
                "supabase_no_table", "PGRST205: none.", "Create it. If it is new, run: NOTIFY pgrst, 'reload';"
            ),
            "reason": "supabase_no_table",
        },
    ),
)


@pytest.mark.parametrize(("how", "more"), RUNS, ids=[how for how, _ in RUNS])
def test_the_verdict(said: Said, how: str, more: dict[str, Any]) -> None:
    """Findings on the page of a run: title, text and commands."""
    said(how, ["\n".join([f"page: {found.title}", *found.parts]) for found in findings(made(**more))])
