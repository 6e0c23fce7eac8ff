"""`scrapy supabase replay` and `load`, run as a person runs them, against a real server."""

from __future__ import annotations

import gzip
import json
import re
import signal
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from scrapy_supabase.spool.run_folders import note_run
from tests import fault_proxy as faults
from tests import fork_server
from tests.commands.test_commands_local import SCRAPY
from tests.fault_proxy import FaultProxy
from tests.fix_crawl import Crawler
from tests.fix_project import Project
from tests.polling import eventually

Sql = Callable[..., list[tuple[Any, ...]]]
Command = Callable[..., subprocess.CompletedProcess[str]]
TABLE = "create table t (id bigint primary key, title text, n int, price numeric); grant all on t to service_role"
DOWN = faults.answers(503, "<h1>down</h1>")


@pytest.fixture
def table(sql: Sql) -> Sql:
    """The table `t`."""
    sql(TABLE)
    return sql


@pytest.fixture
def command(project: Project, tmp_path: Path) -> Command:
    """Run `scrapy supabase …` in the test's folder, for its project."""

    def run(*arguments: str, text: str | bytes = b"", url: str = "", piped: str = "", **settings: str) -> Any:
        given = {
            "SUPABASE_URL": url or project.url,
            "SUPABASE_KEY": project.key,
            "SUPABASE_SPOOL_DIR": str(tmp_path / "spool"),
            "BATCH_RETRY_DELAY": "0.02",
            "SUPABASE_OPEN_TIMEOUT": "0",
            **settings,
        }
        options = [option for name, value in given.items() for option in ("-s", f"{name}={value}")]
        if piped:
            command = [*SCRAPY, *options, *arguments]
            done = subprocess.run(command, cwd=tmp_path, input=piped, capture_output=True, text=True, timeout=60)
        else:
            done = fork_server.scrapy("supabase", *options, *arguments, cwd=tmp_path, text=text)
        shown = done.stdout + done.stderr
        assert project.key not in shown
        assert "Traceback" not in shown, shown
        return done

    return run


@pytest.fixture
def left(crawl: Crawler, table: Sql, proxy: FaultProxy) -> Callable[..., None]:
    """Crawl so that the rows stay in the spool: `left(items, …)`."""

    def run(items: list[dict[str, Any]], tables: int = 1, **settings: Any) -> None:
        proxy.faults.extend([faults.passes] * (1 + tables))
        proxy.always = DOWN
        done = crawl({"items": items}, SUPABASE_URL=proxy.url, SUPABASE_CLOSE_TIMEOUT=0.2, **settings)
        assert done.counts("spooled") == (len(items),)
        proxy.always = faults.passes

    return run


def items(count: int, **more: Any) -> list[dict[str, Any]]:
    """Return items with the ids 0, 1, …"""
    return [{"id": number, "title": f"t{number}", **more} for number in range(count)]


def test_replay_uploads_what_is_left(
    left: Callable[..., None], command: Command, table: Sql, proxy: FaultProxy
) -> None:
    """Rows are listed, then uploaded, and the spool is empty."""
    left(items(250))
    listed = command("replay", "--dry-run")
    assert listed.returncode == 0
    assert "test0" in listed.stdout
    assert "(250 rows)" in listed.stdout
    done = command("replay", url=proxy.url)
    assert (done.returncode, done.stdout.splitlines()[0][:38]) == (0, "250 rows uploaded, 0 rejected, 0 left,"), done
    assert table("select count(*) from t") == [(250,)]
    again = command("replay", url=proxy.url)
    assert (again.returncode, again.stdout) == (0, again.stdout)
    assert again.stdout.startswith("Nothing to upload in ")
    assert command("replay", "--dry-run").stdout.endswith("(0 rows)\n")


def test_replay_of_one_table_and_of_one_run(
    left: Callable[..., None], command: Command, sql: Sql, tmp_path: Path, proxy: FaultProxy
) -> None:
    """Other rows stay in the spool."""
    sql("create table t_b (id bigint primary key, label text); grant all on t_b to service_role")
    mixed = [*items(3), {"_class": "Tag", "id": 9, "label": "x"}]
    tables: dict[str, Any] = {"*": "t", "tests.crawl.Tag": {"table": "t_b"}}
    left(mixed, 2, SUPABASE_TABLE=None, SUPABASE_TABLES=tables)
    (run,) = [path for path in (tmp_path / "spool").iterdir() if path.is_dir()]
    assert command("replay", "--table", "t_b", url=proxy.url).returncode == 0
    assert (sql("select count(*) from t_b"), sql("select count(*) from t")) == ([(1,)], [(0,)])
    assert command("replay", str(run), url=proxy.url).returncode == 0
    assert sql("select count(*) from t") == [(3,)]
    assert not run.exists()


def test_rejected_rows_are_replayed_when_mended(crawl: Crawler, command: Command, table: Sql, tmp_path: Path) -> None:
    """After a fix of the table or the file; rows rejected again stay, with the new reason."""
    table("alter table t add constraint short check (length(title) < 4)")
    bad = [{"id": 1, "title": "too long"}, {"id": 2, "title": "longer"}, {"id": 3, "title": "long", "n": 2**40}]
    done = crawl({"items": [*bad, {"id": 4, "title": "ok"}]})
    assert done.counts("uploaded", "failed") == (1, 3)
    path = tmp_path / "spool" / "rejected.jsonl"
    mentioned = command("replay")
    assert mentioned.returncode == 0
    assert (
        f"In {path}: 3 rejected rows. After fixing the table or the rows, run: scrapy supabase replay --rejected"
        in mentioned.stdout
    )
    assert "23514" in command("replay", "--rejected", "--dry-run").stdout
    table("alter table t drop constraint short")
    path.write_text(path.read_text().replace("longer", "mended"))
    replayed = command("replay", "--rejected")
    assert replayed.returncode == 1
    assert "2 rows uploaded, 1 rejected, 0 left" in replayed.stdout
    assert table("select id, title from t order by id") == [(1, "too long"), (2, "mended"), (4, "ok")]
    (line,) = [json.loads(text) for text in path.read_text().splitlines()]
    assert (line["code"], line["spider"], line["row"]["id"]) == ("22003", "test0", 3)
    table("alter table t alter n type bigint; notify pgrst, 'reload schema'")
    assert command("replay", "--rejected").returncode == 0
    assert not path.exists()
    assert table("select n from t where id = 3") == [(2**40,)]


def test_lines_that_are_no_rows_stay_in_the_reject_file(
    crawl: Crawler, command: Command, table: Sql, tmp_path: Path
) -> None:
    """Items that were no row are sent with their fields; damaged lines are reported and kept."""
    crawl({"items": [{"zz": 1}, {"id": 5, "yy": 1}]}, SUPABASE_UNKNOWN_COLUMNS="reject")
    path = tmp_path / "spool" / "rejected.jsonl"
    with path.open("a") as file:
        file.write("not json\n")
    table("alter table t add column yy int, add column zz int; notify pgrst, 'reload schema'")
    done = command("replay", "--rejected")
    assert done.returncode == 1
    assert f"Left in {path}: 1 line without a row." in done.stderr
    assert table("select id, yy from t") == [(5, 1)]
    lines = path.read_text().splitlines()
    assert [line for line in lines if "not json" in line] == ["not json"]
    assert json.loads(next(line for line in lines if "not json" not in line))["code"] == "23502"  # no id


def test_replay_asks_where_newer_rows_may_be_stored(
    left: Callable[..., None], crawl: Crawler, command: Command, table: Sql, tmp_path: Path, proxy: FaultProxy
) -> None:
    """After a later run of the same table, `--mode upsert` or `--mode ignore` is required."""
    left(items(5, n=1))
    note_run(tmp_path / "spool", "a later run", proxy.url.removeprefix("http://"), ("t",))
    table("insert into t values (0, 'newer', 2)")
    asked = command("replay", url=proxy.url)
    assert asked.returncode == 1
    assert "Nothing was uploaded: 5 rows for table t may be older than the stored rows" in asked.stderr
    assert "--mode upsert" in asked.stderr
    assert table("select count(*) from t") == [(1,)]
    assert command("replay", "--mode", "ignore", url=proxy.url).returncode == 0
    assert table("select n, count(*) from t group by n order by n") == [(1, 4), (2, 1)]


def test_a_later_crawl_that_had_no_row_does_not_matter(
    left: Callable[..., None], crawl: Crawler, command: Command, table: Sql, tmp_path: Path, proxy: FaultProxy
) -> None:
    """It was closed before its first page."""
    left(items(5))
    proxy.always = faults.answers(401, {"code": "PGRST301", "message": "no"})
    closed = crawl({"items": items(5, n=9)}, SUPABASE_URL=proxy.url)
    assert closed.stats["finish_reason"] == "supabase_unauthorized"
    proxy.always = faults.passes
    done = command("replay", url=proxy.url)
    assert (done.returncode, done.stdout.splitlines()[0][:17]) == (0, "5 rows uploaded, "), done


def test_replay_leaves_others_alone(
    left: Callable[..., None], crawl: Crawler, command: Command, table: Sql, proxy: FaultProxy, site: Any
) -> None:
    """Rows of another project and of a running crawl stay."""
    left(items(5))
    assert "Skipped: 5 rows of another project" in command("replay").stdout
    assert table("select count(*) from t") == [(0,)]
    proxy.faults.extend([faults.passes] * 2)
    proxy.always = faults.hangs
    pages = [[{"id": 100 + page}] for page in range(300)]
    plan = {"pages": 300, "site": site(pages)}
    process = crawl.start(plan, SUPABASE_URL=proxy.url, DOWNLOAD_DELAY=0.02, SUPABASE_CLOSE_TIMEOUT=0.2)
    assert eventually(lambda: "running" in command("replay", "--dry-run").stdout)
    assert re.search(r"Skipped: \d+ rows? of running crawls\.", command("replay", url=proxy.url).stdout)
    process.send_signal(signal.SIGINT)
    crawl.finish(process)


def test_replay_without_a_server_leaves_everything(
    left: Callable[..., None], command: Command, table: Sql, proxy: FaultProxy
) -> None:
    """The exit code is not 0, and no row is lost."""
    left(items(120))
    proxy.always = DOWN
    done = command("replay", url=proxy.url)
    assert done.returncode == 1
    assert "http_503" in done.stderr
    proxy.faults.extend([faults.passes])
    proxy.always = DOWN
    done = command("replay", url=proxy.url, SUPABASE_MAX_OUTAGE="0.5")
    assert done.returncode == 1
    assert "0 rows uploaded, 0 rejected, 120 left" in done.stdout
    assert "To upload them now, run: scrapy supabase replay" in done.stderr
    proxy.always = faults.passes
    assert command("replay", url=proxy.url).returncode == 0
    assert table("select count(*) from t") == [(120,)]


def test_wrong_paths_and_options(command: Command, tmp_path: Path) -> None:
    """The error is one line, with the remedy."""
    assert "is not a folder" in command("replay", "nowhere").stderr
    assert "invalid choice" in command("replay", "--mode", "x").stderr
    assert command("replay", "--help").returncode == command("load", "--help").returncode == 0
    assert "No table is named" in command("load", "-").stderr
    assert "cannot be read" in command("load", "nowhere.csv", "--table", "t").stderr
    (tmp_path / "rows.txt").write_text("")
    assert "Add --format" in command("load", "rows.txt", "--table", "t").stderr
    assert "BATCH_CHUNK_SIZE is 'x'" in command("load", "-", "--table", "t", "--chunk-size", "x").stderr


ROWS: list[dict[str, Any]] = [
    {"id": 1, "title": 'Ä, "b"\nc', "n": 5},
    {"id": 2, "title": None, "n": None},
    {"id": 3, "title": "x", "n": 7},
]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
FILES: dict[str, bytes] = {
    "rows.jsonl": LINES.encode(),
    "rows.jl.gz": gzip.compress(LINES.encode()),
    "rows.json": json.dumps(ROWS, indent=1).encode(),
    "rows.csv": b'\xef\xbb\xbfid,title,n\r\n1,"\xc3\x84, ""b""\nc",5\r\n2,,\r\n3,x,7\r\n',
    "semicolons.csv": 'id;title;n\r\n1;"Ä, ""b""\nc";5\r\n2;;\r\n3;x;7\r\n'.encode(),
    "rows.tsv": 'id\ttitle\tn\n1\t"Ä, ""b""\nc"\t5\n2\t\t\n3\tx\t7\n'.encode("utf-16"),
    "pandas.csv": ',id,title,n\n0,1,"Ä, ""b""\nc",5\n1,2,,\n2,3,x,7\n'.encode("utf-16-le"),
    "wide.jsonl": LINES.encode("utf-16"),
    "wide.json.gz": gzip.compress(json.dumps(ROWS, indent=1, ensure_ascii=False).encode("utf-16-be")),
    "bom.jsonl": b"\xef\xbb\xbf" + LINES.encode(),
    "rows.csv.gz": gzip.compress('id,title,n\n1,"Ä, ""b""\nc",5\n2,,\n3,x,7\n'.encode()),
}


@pytest.mark.parametrize("name", FILES)
def test_load_every_format(command: Command, table: Sql, tmp_path: Path, name: str) -> None:
    """Each format gives the same rows."""
    (tmp_path / name).write_bytes(FILES[name])
    done = command("load", name, "--table", "t")
    assert done.returncode == 0, done
    assert done.stdout.startswith("3 rows uploaded, 0 rejected, 0 left, in ")
    assert table("select id, title, n from t order by id") == [tuple(row.values()) for row in ROWS]


def test_load_standard_input_and_several_files(command: Command, table: Sql, tmp_path: Path) -> None:
    """In their order: the last version wins; compressed or not."""
    (tmp_path / "a.jsonl").write_text('{"id": 1, "n": 1}\n{"id": 2, "n": 1}\n')
    text = gzip.compress(b'{"id": 2, "n": 2}\n\n{"id": 3, "n": 2}\n')
    done = command("load", "a.jsonl", "-", text=text, SUPABASE_TABLE="t")
    assert done.returncode == 0, done
    assert table("select id, n from t order by id") == [(1, 1), (2, 2), (3, 2)]
    assert (
        command("load", "-", "--format", "csv", "--mode", "ignore", "--table", "t", text="id,n\n1,9\n").returncode == 0
    )
    assert table("select n from t where id = 1") == [(1,)]


def test_load_a_pipe(command: Command, table: Sql) -> None:
    """Of more than a pipe holds at once. Its position is not known."""
    long = "x" * 90
    rows = "".join(f'{{"id": {number}, "title": "{long}"}}\n' for number in range(2000))
    assert command("load", "-", "--table", "t", piped=rows).returncode == 0
    assert table("select count(*), count(title) from t") == [(2000, 2000)]


def test_load_keeps_numbers_as_they_are_written(command: Command, table: Sql) -> None:
    """A numeric of forty digits, nested ones too; NaN as Python writes it is NULL."""
    table("alter table t add column data jsonb; notify pgrst, 'reload schema'")
    long = "0.1234567890123456789012345678901234567890"
    text = f'{{"id": 1, "price": {long}, "data": {{"a": [{long}, 1e400]}}}}\n{{"id": 2, "price": NaN}}\n'
    done = command("load", "-", "--table", "t", text=text)
    assert done.returncode == 0, done
    stored = table("select price::text, data #>> '{a,0}' from t order by id")
    assert stored == [(long, long), (None, None)]


def test_load_rejects_what_is_no_row_and_goes_on(command: Command, table: Sql, tmp_path: Path) -> None:
    """Rejects have file and line; the other rows are stored."""
    text = '{"id": 1}\n{"id": \nnull\n[1]\n{"id": "x"}\n{"id": 2, "title": "a\\u0000b"}\n'
    done = command("load", "-", "--table", "t", text=text)
    assert done.returncode == 1
    assert "2 rows uploaded, 4 rejected" in done.stdout
    assert "PostgreSQL cannot store (NUL, lone surrogates) were removed from 1 row." in done.stdout
    assert re.search(r"Rejected: 4 rows: 3 x bad_line \(t\): .+; 1 x 22P02 \(t\): .+ Each is in", done.stderr)
    lines = [json.loads(line) for line in (tmp_path / "spool" / "rejected.jsonl").read_text().splitlines()]
    assert lines[0]["message"].startswith("standard input, line 2: ")
    assert {line["location"] for line in lines} == {f"standard input, line {number}" for number in (2, 3, 4, 5)}
    assert [line["row"] for line in lines if line["code"] == "bad_line"] == ['{"id": ', "null", "[1]"]
    ragged = command("load", "-", "--table", "t", "--format", "csv", text="id,n\n5\n6,1\n")
    assert "it has 1 cell, the header has 2" in (tmp_path / "spool" / "rejected.jsonl").read_text()
    assert ragged.returncode == 1
    latin = command("load", "-", "--table", "t", "--format", "csv", text="id,title\n7,é\n".encode("latin-1"))
    assert "--encoding latin-1" in latin.stderr
    good = ["load", "-", "--table", "t", "--format", "csv", "--encoding", "latin-1"]
    assert command(*good, text="id,title\n7,é\n".encode("latin-1")).returncode == 0
    assert table("select title from t where id = 7") == [("é",)]


@pytest.mark.parametrize("damage", ["cut off", "overwritten"])
def test_load_of_a_damaged_file_uploads_what_can_be_read(
    command: Command, table: Sql, tmp_path: Path, damage: str
) -> None:
    """An error reports that the file is not complete."""
    whole = gzip.compress("".join(f'{{"id": {n}, "title": "{n**40}"}}\n' for n in range(5000)).encode())
    half = len(whole) // 2
    (tmp_path / "rows.jsonl.gz").write_bytes(whole[:half] + (b"" if damage == "cut off" else b"\xff" * half))
    done = command("load", "rows.jsonl.gz", "--table", "t")
    assert done.returncode == 1
    assert "rows.jsonl.gz cannot be read completely" in done.stderr
    assert "0 rejected, 0 left" in done.stdout
    (count,) = table("select count(*) from t")[0]
    assert f"{count} rows uploaded" in done.stdout
    assert 1000 < count < 5000


def test_load_goes_by_the_settings_of_the_table(command: Command, sql: Sql, tmp_path: Path) -> None:
    """Mapping, stamps and key of `SUPABASE_TABLES`; a page's URL is not made up."""
    sql("create table t (id bigint, name text, spider text, page text, unique (id)); grant all on t to service_role")
    sql("insert into t values (1, 'old', 'x', 'its page')")
    (tmp_path / "scrapy.cfg").write_text("[settings]\ndefault = project_settings\n")
    (tmp_path / "project_settings.py").write_text(
        "SUPABASE_TABLES = {'a.B': 'other', 'c.D': {'table': 't', 'on_conflict': ['id'], 'columns': {'title': 'name'}, "
        "'stamps': {'spider': 'spider', 'page': 'url'}}}\n"
    )
    done = command("load", "-", "--table", "t", text='{"id": 1, "title": "new"}\n')
    assert done.returncode == 0, done
    assert sql("select name, spider, page from t") == [("new", "load", "its page")]


def test_load_without_a_table_or_a_grant_says_so_before_it_reads(command: Command, sql: Sql) -> None:
    """The error has the SQL that fixes it."""
    sql("create table t (id bigint primary key)")
    done = command("load", "-", "--table", "t", text='{"id": 1}\n')
    assert done.returncode == 1
    assert "GRANT select, insert, update ON public.t TO service_role;" in done.stderr
    assert "PGRST205" in command("load", "-", "--table", "t_nowhere", text='{"id": 1}\n').stderr


def test_control_c_during_a_load_loses_nothing(table: Sql, proxy: FaultProxy, project: Project, tmp_path: Path) -> None:
    """Rows already read are stored or in the spool; the exit code is that of an interrupt."""
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"id": {n}}}\n' for n in range(5000)))
    proxy.faults.extend([faults.passes] * 4)
    proxy.always = faults.hangs
    settings = [f"SUPABASE_URL={proxy.url}", f"SUPABASE_KEY={project.key}", f"SUPABASE_SPOOL_DIR={tmp_path / 'spool'}"]
    options = [option for setting in settings for option in ("-s", setting)]
    process = subprocess.Popen(
        [*SCRAPY, *options, "load", "rows.jsonl", "--table", "t"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        # What a shell starts in the background ignores Ctrl-C, and so do the tests that are started there.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert eventually(lambda: len(proxy.seen) > 6)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=10)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, said
    assert "interrupted. Rows that were read but not uploaded are in the spool" in said
    kept = [line for path in (tmp_path / "spool").glob("*/*.jsonl") for line in path.read_text().splitlines()[1:]]
    stored = table("select count(*) from t")[0][0]
    assert len(kept) + stored >= 200
