"""Findings and output of `scrapy supabase check`, provoked in this process."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import ssl
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from scrapy.settings import Settings

from scrapy_supabase.backends.merge_sql import function_sql
from scrapy_supabase.checkup.check import check
from scrapy_supabase.checkup.server import check_key
from scrapy_supabase.local import LocalSupabase
from scrapy_supabase.schema.ddl import ledger_sql, newest_sql
from scrapy_supabase.settings.config import Config
from scrapy_supabase.spool.run_folders import note_run
from tests.checkup.test_check import OPEN, TABLE, Look, Sql, look, token
from tests.delivery.test_sent_chunks import certified
from tests.fault_proxy import FaultProxy, answers, delays
from tests.fix_project import Project
from tests.messages import Said
from tests.test_messages_commands import Command, command, host, leave

__all__ = ["command", "look"]  # fixtures
Findings = Iterable[tuple[str, str, str, str]]


def shown(found: Findings, *subjects: str, level: str = "") -> list[str]:
    """Return findings as golden messages, limited to `subjects` and `level` if these are named."""
    found = list(found)
    kept = [one for one in found if (not subjects or one[1] in subjects) and level in (one[0], "")]
    assert kept, f"No finding is about {subjects} {level}: {found}"
    text = "\0".join(f"{level}: {subject}: {text}\n{remedy}".rstrip() for level, subject, text, remedy in kept)
    for pattern, name in (
        (r"\d+\.\d+ ms", "<milliseconds> ms"),
        (r"at most \d+ rows", "at most <n> rows"),
        (r"BATCH_CHUNK_SIZE to \d+", "BATCH_CHUNK_SIZE to <n>"),
        (r"answers: [^(]*", "answers: <server> "),
        (r"port \d{4,}", "port <port>"),
        (r"_ssl\.c:\d+", "_ssl.c:<n>"),
        # its name since OpenSSL 3.2
        (r"RECORD_LAYER_FAILURE\] record layer failure", "WRONG_VERSION_NUMBER] wrong version number"),
        (r"database connection to [^,]+", "database connection to <host>"),
        (r"\d\d:\d\d UTC", "<time> UTC"),
        (r"\d+ s ahead", "<n> s ahead"),
    ):
        text = re.sub(pattern, name, text)
    return text.split("\0")


@dataclasses.dataclass
class Fields:
    """Item class whose fields do not quite match table t."""

    id: int
    seen: datetime
    title: str
    price: list[str]
    isbn: str


ANY_SIZE: dict[str, Any] = {"BATCH_CHUNK_SIZE": "auto"}  # on a busy machine, a fixed one is warned of
FIELDS: dict[str, Any] = {"SUPABASE_TABLES": {"tests.test_messages_check.Fields": "t"}}


def test_all_is_well(said: Said, sql: Sql, look: Look, project: Project) -> None:
    """Findings for a project that is ready, over the REST API and over a database connection."""
    sql(TABLE)
    said("A project that is ready", shown(look(**ANY_SIZE)))
    said("A project that is ready, over a database connection", shown(look(**ANY_SIZE, SUPABASE_DB_URL=project.db_url)))
    sql(newest_sql("t", "id"))
    guarded = look(**ANY_SIZE, SUPABASE_DB_URL=project.db_url)
    said("A table that keeps the newest row, over a database connection", shown(guarded, "table t"))
    sql("drop function if exists scrapy_upsert; notify pgrst, 'reload schema'")
    said("A table with columns only for new rows", shown(look(**only(insert_only="title")), "table t"))
    sql(function_sql("public", "service_role"))
    said("A table of updates", shown(look(**only(mode="update")), "table t"))
    said("A table of inserts", shown(look(SUPABASE_MODE="insert"), "table t"))
    said("A table of new rows", shown(look(SUPABASE_MODE="ignore"), "table t"))


def only(**options: Any) -> dict[str, Any]:
    """Settings for the table `t` with these options."""
    return {"SUPABASE_TABLES": {"*": {"table": "t", **options}}}


def test_settings(said: Said, sql: Sql, look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each finding has the setting, the problem and the remedy."""
    sql(TABLE)
    said("A wrong setting", shown(look(SUPABASE_MODE="replace")))
    said("No table", shown(look(SUPABASE_TABLES=None)))
    said("A misspelt setting", shown(look(SUPABASE_TABEL="t"), "settings"))
    said("The pipeline is switched off", shown(look(SUPABASE_ENABLED=False), "settings"))
    odd = {"tests.test_messages_report.Odd": "t"}
    said("An item class whose metadata are wrong", shown(look(SUPABASE_TABLES=odd), level="error"))
    unreadable = {"tests.checkup.test_check.Unreadable": "t"}
    said("An item class that cannot be read", shown(look(SUPABASE_TABLES=unreadable), level="error"))
    monkeypatch.setenv("SCRAPY_SUPABASE_POSTGRES", "/nowhere")
    said("A local Supabase that does not start", shown(look(SUPABASE_URL="local"), level="error"))


PIPELINE = {"scrapy_supabase.SupabasePipeline": 300}
SWITCHED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("A project without the pipeline", {}),
    ("A project with the add-on", {"ADDONS": {"scrapy_supabase.Addon": 300}}),
    ("A project with the pipeline alone", {"ITEM_PIPELINES": PIPELINE}),
    ("A project that lacks the middleware", {"ITEM_PIPELINES": PIPELINE, "SUPABASE_STAMPS": {"page": "url"}}),
)


@pytest.mark.parametrize(("how", "settings"), SWITCHED, ids=[how for how, _ in SWITCHED])
def test_the_pipeline(said: Said, how: str, settings: dict[str, Any]) -> None:
    """Findings for a project with and without the pipeline."""
    found = check(Settings({"SUPABASE_MODE": "replace", **settings}), in_project=True)
    pipeline = [f for f in found if "SUPABASE_" not in f.text]  # these are wrong, so that no server is asked
    said(how, shown((f.level.value, f.subject, f.text, f.remedy) for f in pipeline))


def test_outside_of_a_project(said: Said) -> None:
    """Missing settings may be those of a project in another folder."""
    found = check(Settings({"SUPABASE_KEY": "sb_secret_x", "SUPABASE_TABLE": "t"}), in_project=False)
    said("Outside of a project", shown((f.level.value, f.subject, f.text, f.remedy) for f in found))


def test_the_spool(said: Said, sql: Sql, look: Look, project: Project, tmp_path: Path) -> None:
    """Findings for rows that wait or were rejected, with the commands for this spool."""
    sql(TABLE)
    said("No spool", shown(look(SUPABASE_SPOOL_DIR=None), "spool"))
    (tmp_path / "file").touch()
    said("A spool that cannot be written", shown(look(SUPABASE_SPOOL_DIR=str(tmp_path / "file" / "x")), "spool"))
    leave(tmp_path / "spool", host(project.url), {"id": 1})
    rejected = {"time": "2026-01-01", "table": "t", "code": "23505", "message": "m", "row": {"id": 1}, "mode": "upsert"}
    rejected |= {"project": host(project.url), "run": "early", "columns": ["id"], "key": ["id"]}
    (tmp_path / "spool" / "rejected.jsonl").write_text(json.dumps(rejected) + "\n")
    said("Rows of earlier crawls", shown(look(), "spool"))
    leave(tmp_path / "spool", "old.example.com", {"id": 7}, {"id": 8})
    said("Rows of another project", shown(look(), "spool"))
    shutil.rmtree(
        next(path for path in (tmp_path / "spool").glob("*/*.jsonl") if b"old.ex" in path.read_bytes()).parent
    )
    leave(tmp_path / "spool", host(project.url), {"id": 2})
    said("Rows of two earlier crawls", shown(look(), "spool"))
    note_run(tmp_path / "spool", "a later run", host(project.url), ("t",))
    said("Rows of two earlier crawls, and a later one that stored some", shown(look(), "spool"))


def test_keys(said: Said, sql: Sql, look: Look, local_stack: LocalSupabase, project: Project) -> None:
    """Findings for each kind of key: role, expiry and rights."""
    sql(TABLE)
    until = 4_000_000_000
    for how, key in {
        "A secret key": "sb_secret_nonsense",
        "A publishable key": "sb_publishable_nonsense",
        "An unknown kind of key": "nonsense",
        "A key that has expired": token(local_stack, exp=1_700_000_000),
        "A key of a custom role": token(local_stack, role="t_writer", exp=until),
        "A key without a role": token(local_stack, role="", exp=until),
        "A public key that is a JWT": token(local_stack, role="anon", exp=until),
        "A secret key that is a JWT": token(local_stack, exp=until),
    }.items():
        said(how, shown(look(SUPABASE_KEY=key), "key"))
    hosted = {"SUPABASE_URL": "https://abcdefgh.supabase.co", "SUPABASE_KEY": token(local_stack, exp=until)}
    found = check_key(Config.from_settings(Settings({**hosted, "SUPABASE_TABLE": "t"}), {}), time.time())
    legacy = [(one.level.value, one.subject, one.text, one.remedy) for one in found]
    said("A legacy secret key of a hosted project", shown(legacy))
    soon = look(SUPABASE_KEY=token(local_stack, exp=int(time.time()) + 3600))
    said("A key that expires soon", shown(soon, "key"))


def test_servers(said: Said, sql: Sql, look: Look, proxy: FaultProxy, project: Project, tmp_path: Path) -> None:
    """Findings for no answer, a wrong answer, a skewed clock and a distant server."""
    sql(TABLE)
    said("No server", shown(look(SUPABASE_URL="http://127.0.0.1:1"), "server"))
    there = "postgresql://postgres:x@127.0.0.1:1/postgres"
    said("No database server", shown(look(SUPABASE_DB_URL=there), "server"))
    said("A schema that is not exposed", shown(look(SUPABASE_SCHEMA="private"), "server"))
    said("A clock that is wrong", shown(look(clock=lambda: time.time() + 120, **ANY_SIZE), "server", level="warning"))
    without_tls = look(SUPABASE_URL=proxy.url.replace("http://", "https://"))
    said("A server without TLS", shown(without_tls, "server"))
    certificate, key = certified(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with FaultProxy(project.url, tls) as server:
        said("A certificate of an unknown authority", shown(look(SUPABASE_URL=server.url), "server"))
    proxy.always = delays(0.05)
    far = look(SUPABASE_URL=proxy.url, BATCH_CHUNK_SIZE=1, SUPABASE_CONCURRENT_UPLOADS=1)
    said("A server far away", shown(far, "server", level="warning"))
    said("A server far away and chunks of any size", shown(look(SUPABASE_URL=proxy.url, BATCH_CHUNK_SIZE="auto"))[-1:])
    proxy.always = answers(540, "<h1>Project paused</h1>")
    said("A project that is paused", shown(look(SUPABASE_URL=proxy.url), "server"))
    proxy.always = answers(405, "<h1>Not Allowed</h1>")
    said("A web server that is no project", shown(look(SUPABASE_URL=proxy.url), "server"))


def test_tables(said: Said, sql: Sql, look: Look) -> None:
    """Findings for table, grants, key and unique index; the printed SQL fixes them."""
    said("A table that is not there", shown(look(), "table t"))
    dicts: dict[str, Any] = {"SUPABASE_TABLES": None, "SUPABASE_TABLE": "public.t"}
    said("A table's name with its schema", shown(look(**dicts), "table public.t"))
    sql(
        "create table t (id bigint generated by default as identity primary key, title text); "
        "grant all on t to service_role; notify pgrst, 'reload schema'"
    )
    dicts["SUPABASE_TABLE"] = "t"
    said("Items without the key that the database generates", shown(look(**dicts), "table t", level="warning"))
    of_inserts = shown(look(**dicts, SUPABASE_MODE="insert"), "table t")
    said("The same, in mode insert", [one for one in of_inserts if "second crawl" in one])
    sql("drop table t")
    sql(f"{TABLE}; revoke all on t from service_role")
    said("A table without grants", shown(look(), "table t"))
    sql("grant all on t to service_role")
    refused = look(SUPABASE_ON_CONFLICT="title")
    said("A key without a unique index", shown(refused, "table t"))
    said("A key that the table lacks", shown(look(SUPABASE_ON_CONFLICT="nowhere"), "table t"))
    sql("alter table t drop constraint t_pkey; notify pgrst, 'reload schema'")
    said("A table without a primary key", shown(look(), "table t"))


def test_row_level_security(said: Said, sql: Sql, look: Look, project: Project) -> None:
    """Findings of the test of row-level security."""
    sql(TABLE + OPEN)
    said("Row-level security without a policy", shown(look(SUPABASE_KEY=project.anon_key), "table t"))
    nothing_known = look(SUPABASE_KEY=project.anon_key, SUPABASE_TABLES={"*": "t"})
    said("Row-level security, and no column is known", shown(nothing_known, "table t"))
    sql("create policy p on t for insert to anon with check (true)")
    said("A policy for inserts only", shown(look(SUPABASE_KEY=project.anon_key), "table t"))
    sql("create policy q on t for all to anon using (true)")
    said("A policy for all", shown(look(SUPABASE_KEY=project.anon_key), "table t"))
    sql(
        "create or replace function t_raise() returns trigger language plpgsql as $$ begin raise exception 'no title'; "
        "end $$; create trigger t_raise before insert on t for each row execute function t_raise()"
    )
    said("A trigger that refuses rows of defaults", shown(look(SUPABASE_KEY=project.anon_key), "table t"))


def test_a_trial_that_is_outwitted(said: Said, sql: Sql, look: Look, project: Project) -> None:
    """A trigger that drops the second of two equal rows leaves one, which PostgREST stores."""
    sql(
        "create table t (number bigint generated always as identity primary key, id bigint unique, title text, price "
        "numeric); grant all on t to anon; alter table t enable row level security; create policy p on t for all to "
        "anon using (true); create or replace function t_once() returns trigger language plpgsql as $$ begin if exists "
        "(select from t where title is not distinct from new.title) then return null; end if; return new; end $$; "
        "create trigger t_once before insert on t for each row execute function t_once(); notify pgrst, 'reload schema'"
    )
    given = {"SUPABASE_KEY": project.anon_key, "SUPABASE_ON_CONFLICT": "id"}
    said("A test that stores a row", [one for one in shown(look(**given), "table t") if "the test of" in one])
    assert sql("select count(*) from t") == [(1,)]
    sql("truncate t; grant all on t to service_role")
    of_upserts = shown(look(SUPABASE_ON_CONFLICT="id"), "table t")
    said("A test of upserts that stores a row", [one for one in of_upserts if "the test of" in one])
    assert sql("select count(*) from t") == [(1,)]
    sql("truncate t; alter table t alter number set generated by default; notify pgrst, 'reload schema'")
    of_default = shown(look(SUPABASE_TABLES=None, SUPABASE_TABLE="t"), "table t")
    said("A test of a default that stores a row", [one for one in of_default if "the test of" in one])
    assert sql("select count(*) from t") == [(1,)]


def test_columns_that_the_database_makes(said: Said, sql: Sql, look: Look) -> None:
    """Values for generated columns are not stored; if the key is generated, rows may be stored twice."""
    sql(
        "create table t (id bigint generated always as identity primary key, title text generated always as ('x') "
        "stored, price numeric); grant all on t to service_role; notify pgrst, 'reload schema'"
    )
    said("Columns that the database generates", [one for one in shown(look(), "table t") if "generated by" in one])


def test_items(said: Said, sql: Sql, look: Look) -> None:
    """Findings for columns by name and type, with SQL."""
    sql(
        "create table t (id bigint, seen date, title integer, price numeric, number bigint not null, n bigint "
        "generated by default as identity, made text primary key); grant all on t to service_role; "
        "notify pgrst, 'reload schema'"
    )
    said("Items that do not fit", shown(look(**FIELDS, SUPABASE_ON_CONFLICT="made"), "table t"))
    rejecting = look(**FIELDS, SUPABASE_ON_CONFLICT="made", SUPABASE_UNKNOWN_COLUMNS="reject")
    said("A field without a column", [message for message in shown(rejecting, "table t") if "isbn" in message])
    stamped = look(SUPABASE_TABLES=None, SUPABASE_TABLE="t", SUPABASE_STAMPS={"page": "spider"})
    said("A stamp without a column", [message for message in shown(stamped, "table t") if "'page'" in message])
    sql("alter table t add column more jsonb; notify pgrst, 'reload schema'")
    for how, column in {
        "A column for unknown fields": "more",
        "A column for unknown fields, of a wrong type": "title",
    }.items():
        found = look(**FIELDS, SUPABASE_ON_CONFLICT="made", SUPABASE_UNKNOWN_COLUMNS=column)
        said(
            how,
            [message for message in shown(found, "table t") if "isbn" in message or "that have no column" in message],
        )


def test_what_a_run_needs(said: Said, sql: Sql, snapshots: Sql, look: Look) -> None:
    """Findings for snapshots and the ledger."""
    sql(
        "create table t (id bigint, title text, price numeric, snapshot_date date, snapshot_version int, primary key "
        "(id, snapshot_date, snapshot_version)); grant all on t to service_role; notify pgrst, 'reload schema'"
    )
    given = {"SUPABASE_DAILY_SNAPSHOTS": True, "SUPABASE_RUNS_TABLE": "t_runs"}
    said("A function for snapshots, and no ledger", shown(look(**given), "snapshots", "ledger"))
    ledger = (Path(__file__).parents[1] / "migrations" / "009_scrapy_runs.sql").read_text()
    sql(
        f"{ledger.replace('scrapy_runs', 't_runs')}; drop function next_snapshot_version; notify pgrst, 'reload schema'"
    )
    said("A ledger of an older version, and no function for snapshots", shown(look(**given), "snapshots", "ledger"))
    sql(f"{ledger_sql('t_runs')}; notify pgrst, 'reload schema'")
    said("A ledger", shown(look(**given), "ledger"))


def test_a_server_that_is_busy(said: Said, sql: Sql, look: Look, proxy: FaultProxy) -> None:
    """The check does not wait for long."""
    sql(TABLE)
    proxy.always = answers(429, {"message": "slow down"})
    said("A server that is busy", shown(look(SUPABASE_URL=proxy.url, SUPABASE_OPEN_TIMEOUT=0.1), "server"))


def test_what_is_printed(said: Said, sql: Sql, command: Command) -> None:
    """Findings are one per line, with the remedy indented, and a summary."""
    sql(TABLE)
    said("The summary without findings", command("check", **ANY_SIZE)[-1:])
    said("The summary of a warning", command("check", **ANY_SIZE, SUPABASE_SPOOL_DIR=None)[-1:])
    said(
        "The summary of errors and warnings", command("check", SUPABASE_SPOOL_DIR=None, SUPABASE_TABLE="t_missing")[-1:]
    )
    said("A spider, and no project", command("check", "books"))


def test_a_spider_that_there_is_none(
    said: Said, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The error lists the project's spiders."""
    (tmp_path / "t_spiders.py").write_text(
        "import scrapy\nclass Books(scrapy.Spider):\n    name = 'books'\n"
        "    @classmethod\n    def update_settings(cls, settings): raise KeyError('no such shop')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    said("An unknown spider", command("check", "boks", SPIDER_MODULES=["t_spiders"]))
    said("A spider whose settings have a fault", command("check", "books", SPIDER_MODULES=["t_spiders"]))
