"""Output of the commands, and the progress bar of `load` and `replay`."""

from __future__ import annotations

import fcntl
import gzip
import io
import json
import logging
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from scrapy.cmdline import execute
from scrapy.settings import Settings

from scrapy_supabase.backends.merge_sql import function_sql
from scrapy_supabase.models import Mode
from scrapy_supabase.rows.builder import RowBuilder
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.schema.table_spec import TableSpec
from scrapy_supabase.spool.disk import DiskSpool
from scrapy_supabase.spool.run_folders import note_run
from tests import fault_proxy as faults
from tests.commands.test_commands_local import SCRAPY
from tests.fault_proxy import FaultProxy
from tests.fix_project import Project
from tests.messages import Said
from tests.polling import eventually

Sql = Callable[..., list[tuple[Any, ...]]]
TABLE = "create table t (id bigint primary key, title text, n int); grant all on t to service_role"


class Command:
    """Runner of `scrapy supabase …` in this process, in the test's folder and for its project."""

    def __init__(self, project: Project, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.project = project
        self.folder = folder
        self._capsys = capsys
        self.code: object = None

    def __call__(self, *arguments: str, text: bytes = b"", **settings: Any) -> list[str]:
        """Run the command with `text` as its standard input; return its output, one message per line."""
        given = {
            "SUPABASE_URL": self.project.url,
            "SUPABASE_KEY": self.project.key,
            "SUPABASE_SPOOL_DIR": str(self.folder / "spool"),
            "BATCH_RETRY_DELAY": 0.02,
            "SUPABASE_OPEN_TIMEOUT": 0,
            **settings,
        }
        self._capsys.readouterr()
        stdin, sys.stdin = sys.stdin, io.TextIOWrapper(io.BufferedReader(io.BytesIO(text)))
        root = logging.getLogger()
        handlers, level = root.handlers, root.level
        root.handlers = []  # pytest's, which commands would take for the user's
        try:
            with pytest.raises(SystemExit) as ended:
                execute(["scrapy", "supabase", *arguments], Settings({"SUPABASE_TABLE": "t", **given}))
        finally:
            sys.stdin, root.handlers = stdin, handlers
            root.setLevel(level)
        self.code = ended.value.code
        out, err = self._capsys.readouterr()
        assert self.project.key not in out + err
        # argparse's name for the program depends on how pytest was started
        said = [re.sub(r"^(?!scrapy).*?: error: ", "scrapy: error: ", line) for line in err.splitlines()]
        return [*_folded("stdout", out.splitlines()), *_folded("stderr", said[-1:] if ": error: " in err else said)]


def _folded(kind: str, lines: Sequence[str]) -> list[str]:
    """A message a line; lines that are indented belong to the one before."""
    found: list[str] = []
    for line in lines:
        if line.startswith("  "):
            found[-1] += f"\n{line}"
        else:
            found.append(f"{kind}: {line}")
    return found


@pytest.fixture
def command(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    """Run commands: `command("load", "-", text=b"…")`."""
    monkeypatch.chdir(tmp_path)
    for name in ("SUPABASE_URL", "SUPABASE_KEY", "SUPABASE_DB_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "1000")
    return Command(project, tmp_path, capsys)


def leave(folder: Path, project: str, *items: dict[str, Any], alive: bool = False) -> DiskSpool:
    """Leave rows in a spool, as a killed crawl does (or one that is `alive`)."""
    schema = Schema({"t": TableSpec("t", Mode.UPSERT, ("id",))})
    run = f"20260101T000000.00{len(list(folder.glob('2026*')))}Z-0123abcd"
    spool = DiskSpool(folder, run, schema, {"run": run, "spider": "books", "project": project})
    (folder / "runs.jsonl").unlink()
    builder = RowBuilder({None: schema.specs["t"]}, schema, {}, lambda _: None)
    for item in items:
        row = builder.build(item)
        file = spool.open(row)
        file.append(row.data)
        file.close()
    if not alive:
        spool.close()
    return spool


def host(url: str) -> str:
    """What names a project in the spool."""
    return url.removeprefix("http://")


WRONG: Sequence[tuple[str, Sequence[str], bytes]] = (
    ("No sub-command", [], b""),
    ("An unknown option", ["load", "-", "--nowhere"], b""),
    ("A file that is not there", ["load", "nowhere.csv"], b""),
    ("A file whose name tells no format", ["load", "rows.txt"], b""),
    ("A chunk size that is no number, for load", ["load", "-", "--chunk-size", "x"], b""),
    ("JSON that is no array", ["load", "-", "--format", "json"], b'{"id": 1}'),
    ("CSV with two columns of one name", ["load", "-", "--format", "csv"], b"id,id\n1,2\n"),
    ("CSV with blanks in its header", ["load", "-", "--format", "csv"], b"id, title\n1, a\n"),
    ("CSV without names", ["load", "-", "--format", "csv"], b",\n1,2\n"),
    ("CSV with a column without a name", ["load", "-", "--format", "csv"], b",id\n0,x\n"),
    ("A delimiter of two characters", ["load", "-", "--format", "csv", "--delimiter", ";;"], b"id\n1\n"),
    ("JSON nested too deeply", ["load", "-", "--format", "json"], b"[" * 10_000),
    ("UTF-16 that is cut off", ["load", "-"], '{"id": 1}\n'.encode("utf-16") + b"x"),
    ("Key columns that are none", ["load", "-", "--on-conflict", ","], b'{"id": 1}\n'),
    ("CSV with a quote that does not end", ["load", "-", "--format", "csv"], b'id,title\n1,a\n2,"b\n'),
    ("CSV in another encoding", ["load", "-", "--format", "csv"], "id,title\n1,é\n".encode("latin-1")),
    ("An unknown encoding", ["load", "-", "--format", "csv", "--encoding", "x"], b"id\n1\n"),
    ("A file that is cut off", ["load", "-"], gzip.compress(b'{"id": 1}\n' * 50)[:-9]),
    ("An invalid port", ["local", "--port", "99999"], b""),
    ("A spool folder that is not there", ["replay", "nowhere"], b""),
)  # fmt: skip


@pytest.mark.parametrize(("how", "arguments", "text"), WRONG, ids=[how for how, _, _ in WRONG])
def test_a_user_s_mistake(
    how: str, arguments: Sequence[str], text: bytes, said: Said, command: Command, sql: Sql, tmp_path: Path
) -> None:
    """The error is one line with the file or option, the problem and the remedy; the exit code is not 0."""
    sql(TABLE)
    (tmp_path / "rows.txt").write_text("")
    messages = command(*arguments, text=text)
    assert command.code
    said(how, [re.sub("use one of .*", "use one of <sub-commands>", message) for message in messages])


def test_a_mistake_in_the_middle(said: Said, command: Command, sql: Sql) -> None:
    """The error has the line, and whether the rows before it were uploaded."""
    sql(TABLE)
    text = b"id,title\n" + b"".join(b"%d,x\n" % number for number in range(5000)) + b"5000,\xe9\n"
    messages = command("load", "-", "--format", "csv", text=text)
    said(
        "CSV in another encoding, after many lines", [re.sub(r"\d+(?= rows)|(?<=line )\d+", "<n>", m) for m in messages]
    )


def test_no_table(said: Said, command: Command, sql: Sql) -> None:
    """A missing table is reported before anything is read."""
    said("load, and there is no table", command("load", "-", text=b'{"id": 1}\n'))


def test_without_a_spool(said: Said, command: Command) -> None:
    """`load` needs one, `replay` wants one named."""
    said("load without a spool", command("load", "-", SUPABASE_SPOOL_DIR=None))
    said("replay without a spool", command("replay", SUPABASE_SPOOL_DIR=None))


def test_load(said: Said, command: Command, sql: Sql, proxy: FaultProxy) -> None:
    """The output has the counts of rows, and the command that uploads rejected or spooled ones."""
    sql(TABLE)
    said("One row is loaded", command("load", "-", text=b'{"id": 1, "title": "a\\u0000b"}\n'))
    sql(function_sql("public", "service_role"))
    said("Rows whose key is not in the table", command("load", "-", text=b'{"id": 7}\n', SUPABASE_MODE="update"))
    bad = b'{"id": 2}\n[1]\ntrue\n5\n{"id": \n{"id": "x"}\n{"zz": 1}\n{"id": 4, "title": %b1%b}\n' % (
        b"[" * 10_000,
        b"]" * 10_000,
    )
    said("Bad rows are loaded", command("load", "-", text=bad))
    said("A cell too few in CSV", command("load", "-", "--format", "csv", text=b"id,n\n5\n"))
    rejected = (command.folder / "spool" / "rejected.jsonl").read_text().splitlines()
    said("Their reasons in the reject file", _reasons(rejected))
    (command.folder / "spool" / "rejected.jsonl").unlink()
    proxy.faults.extend([faults.passes] * 2)
    proxy.always = faults.answers(540, "<h1>Project paused</h1>")
    messages = command("load", "-", text=b'{"id": 3}\n', SUPABASE_URL=proxy.url)
    said("The project is paused while a file is loaded", messages)
    proxy.always = faults.passes
    assert command(*_printed(messages), SUPABASE_URL=proxy.url)[0].startswith("stdout: 1 row uploaded")
    assert sql("select count(*) from t where id = 3") == [(1,)]


def _reasons(lines: Sequence[str]) -> list[str]:
    found = [json.loads(line) for line in lines]
    return [f"rejected {one['code']}: {one['message']}" for one in found]


def _printed(messages: Sequence[str]) -> list[str]:
    """The arguments of the command that the last message says to run."""
    command = messages[-1].partition("run: scrapy supabase ")[2]
    assert command, messages
    return shlex.split(command)


def test_replay(said: Said, command: Command, sql: Sql, proxy: FaultProxy, tmp_path: Path) -> None:
    """The output has skipped rows with the reason, counts of rows, and the command that uploads the rest."""
    sql(TABLE)
    folder = tmp_path / "my spool"
    settings: dict[str, Any] = {"SUPABASE_SPOOL_DIR": str(folder), "SUPABASE_URL": proxy.url}
    leave(folder, "other.example.com", {"id": 1})
    said("Rows of another project are left", command("replay", **settings))
    said("Rows of a project that has none", command("replay", "--project", "nowhere.example.com", **settings))
    living = leave(folder, host(proxy.url), {"id": 2}, {"id": 3}, alive=True)
    said("Rows of another project and of a crawl that is running", command("replay", **settings))
    said("What there is", command("replay", "--dry-run", **settings)[-1:])
    living.close()
    note_run(folder, "a later run", host(proxy.url), ("t",))
    said("A later crawl may have stored newer rows", command("replay", **settings))
    proxy.always = faults.answers(503, "<h1>down</h1>")
    said("No server for a replay", command("replay", "--mode", "upsert", **settings))
    proxy.faults.extend([faults.passes])
    messages = command("replay", "--mode", "upsert", **settings, SUPABASE_MAX_OUTAGE=0.1, SUPABASE_CONCURRENT_UPLOADS=1)
    said("The server is unreachable for too long", messages)
    proxy.always = faults.passes
    again = command(*_printed(messages), "--mode", "upsert", **settings)
    said("Rows are replayed", again)
    assert sql("select count(*) from t") == [(2,)]


def test_replay_of_rejected_rows(said: Said, command: Command, sql: Sql, project: Project, tmp_path: Path) -> None:
    """They are mentioned; the printed command uploads them once they are fixed; invalid lines are counted."""
    sql(TABLE)
    said("Nothing is left", command("replay"))
    rejects = tmp_path / "spool" / "rejected.jsonl"
    command("load", "-", text=b'{"id": "x"}\n')
    messages = command("replay")
    said("Rejected rows are there", messages)
    rejects.write_text(rejects.read_text().replace('"row":{"id":"x"}', '"row":{"id":"7"}'))
    command(*_printed(messages))
    assert command.code == 0
    assert sql("select id from t") == [(7,)]
    rejects.write_text("not json\n")
    command("load", "-", text=b'{"id": "x"}\n')
    rejects.write_text("not json\n" + rejects.read_text().splitlines()[-1] + "\n")
    said("A line of the reject file is no row", command("replay", "--rejected", "--mode", "upsert"))
    line = {"time": "2026-01-01", "project": host(project.url), "table": "t", "code": "not_encodable", "message": "m"}
    line["row"] = {"id": 8, "title": "<Selector>"}  # type: ignore[assignment]
    lines = [line, {**line, "printed": {}, "table": "(none)"}, {**line, "printed": {"title": "<Selector>"}}]
    rejects.write_text("".join(json.dumps(one) + "\n" for one in lines))
    said("Lines of the reject file that are not what was scraped", command("replay", "--rejected"))


def test_sql(said: Said, command: Command, sql: Sql, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are printed as a table, errors as one line."""
    sql(TABLE)
    url = ["--db-url", project.db_url]
    said("No row", command("sql", "select * from t", *url)[-1:])
    said("One row", command("sql", "insert into t values (1) returning id", *url)[-1:])
    said("A query with a fault", command("sql", "select 1,\n titel from t", *url))
    said("A query with a hint", command("sql", "select t.titl from t", *url))
    said("Two columns with one name, as JSON", command("sql", "--json", "select 1 as a, 2 as a", *url))
    said("No database to query", command("sql", "select 1", SUPABASE_URL=None))
    said("A hosted project, and no connection string", command("sql", "select 1"))
    said("A database that is not there", command("sql", "select 1", "--db-url", "postgresql://me@127.0.0.1:9/shop"))
    monkeypatch.setitem(sys.modules, "psycopg", None)
    said("A query without psycopg", command("sql", "select 1", *url))


@pytest.mark.parametrize("what", ["load", "replay"])
def test_control_c(what: str, said: Said, sql: Sql, project: Project, proxy: FaultProxy, tmp_path: Path) -> None:
    """Rows that were read are in the table or in the spool, as the message says; the exit code is 130."""
    sql(TABLE)
    begins = 2 if what == "load" else 1  # the tables are asked for, and a load's is tried
    proxy.faults.extend([faults.passes] * begins)
    proxy.always = faults.hangs
    (tmp_path / "rows.jsonl").write_text('{"id": 1}\n')
    leave(tmp_path / "spool", host(proxy.url), {"id": 1})
    settings = [f"SUPABASE_URL={proxy.url}", f"SUPABASE_KEY={project.key}", f"SUPABASE_SPOOL_DIR={tmp_path / 'spool'}"]
    options = [option for setting in settings for option in ("-s", setting)]
    process = subprocess.Popen(
        [*SCRAPY, *options, *(["load", "rows.jsonl", "--table", "t"] if what == "load" else ["replay"])],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert eventually(lambda: len(proxy.seen) > begins)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    messages = [f"stderr: {line}" for line in errors.splitlines()]
    said("Ctrl-C in a load" if what == "load" else "Ctrl-C in a replay", messages)


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("what", ["load", "replay"])
def test_the_bar(what: str, terminal: bool, sql: Sql, project: Project, tmp_path: Path) -> None:
    """The bar is shown only if standard error is a terminal."""
    sql(TABLE)
    (tmp_path / "rows.jsonl").write_text('{"id": 1}\n')
    leave(tmp_path / "spool", host(project.url), {"id": 2})
    settings = [f"SUPABASE_URL={project.url}", f"SUPABASE_KEY={project.key}", f"SUPABASE_SPOOL_DIR={tmp_path}/spool"]
    options = [option for setting in settings for option in ("-s", setting)]
    arguments = ["load", "rows.jsonl", "--table", "t"] if what == "load" else ["replay"]
    ours, theirs = pty.openpty() if terminal else os.pipe()
    if terminal:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    with os.fdopen(ours, "rb", buffering=0) as reading:
        process = subprocess.Popen(
            [*SCRAPY, *options, *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=theirs, text=True
        )
        os.close(theirs)
        out, _ = process.communicate(timeout=30)
        shown = b""
        try:
            while part := reading.read(65536):
                shown += part
        except OSError:  # how a terminal whose last user has gone ends, on Linux
            pass
    assert process.returncode == 0, shown
    assert out.startswith("1 row uploaded, 0 rejected, 0 left, in ")
    if terminal:
        assert f"{what}: 100%|".encode() in shown
        assert (b", 1 row]" if what == "load" else b"1/1") in shown
    else:
        assert shown == b""
