"""Small real-world cases, rebuilt from public bug reports: each over REST and over a database connection.

A case is a folder of tests/data/cases: `schema.sql`, `spider.py` (several are crawled one after the other), and
`check.sql`, which gives a line for each check: what must be true, and whether it is. It may read the tables
`crawl_stats` (key, value) of the last crawl, and `rejects` (line).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from scrapy_supabase.local import LocalSupabase
from tests import fork_server
from tests.fix_local import Connection

CASES = Path(__file__).parent / "data" / "cases"
EXTENSIONS = ("citext", "ltree", "hstore")


@dataclass(frozen=True)
class Server:
    """A local Supabase of these tests' own, with extensions where hosted projects have them."""

    stack: LocalSupabase
    db: Connection


@pytest.fixture(scope="module")
def server(open_folder: Path) -> Iterator[Server]:
    """Start it."""
    with (
        LocalSupabase(open_folder / "cases") as stack,
        psycopg.connect(stack.db_url, autocommit=True) as db,
    ):
        db.execute("create schema if not exists extensions; grant usage on schema extensions to public")
        for name in EXTENSIONS:
            db.execute(f"create extension if not exists {name} with schema extensions".encode())
        db.execute("alter database postgres set search_path = public, extensions")
        db.execute("set search_path = public, extensions")
        yield Server(stack, db)


@pytest.mark.parametrize("over", ["rest", "database"])
@pytest.mark.parametrize("case", sorted(path.name for path in CASES.iterdir()))
def test_a_case(server: Server, tmp_path: Path, case: str, over: str) -> None:
    """What is stored is what the case's `about.md` says."""
    folder, db = CASES / case, server.db
    db.execute((folder / "schema.sql").read_bytes())
    db.execute("notify pgrst, 'reload schema'")
    log = ""
    for spider in sorted(folder.glob("spider*.py")):
        log = crawl(server, spider, tmp_path, over)
    db.execute("drop table if exists crawl_stats, rejects")
    db.execute("create table crawl_stats (key text, value text); create table rejects (line jsonb)")
    found = re.findall(r"'(supabase/[^']+|finish_reason)': '?([^',}]+)", log)
    for key, value in dict(found).items():
        db.execute("insert into crawl_stats values (%s, %s)", (key.removeprefix("supabase/"), value))
    rejected = tmp_path / "spool" / "rejected.jsonl"
    for line in rejected.read_text().splitlines() if rejected.exists() else []:
        db.execute("insert into rejects values (%s)", (json.dumps(json.loads(line)),))
    checks = db.execute((folder / "check.sql").read_bytes()).fetchall()
    assert checks
    assert [what for what, holds in checks if not holds] == [], log[-4000:]


def crawl(server: Server, spider: Path, folder: Path, over: str) -> str:
    """Crawl; what it logged."""
    stack = server.stack
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SUPABASE_")}
    environment |= {"SUPABASE_URL": stack.url, "SUPABASE_KEY": stack.service_role_key}
    if over == "database":
        environment["SUPABASE_DB_URL"] = stack.db_url
    given = ["-s", "SUPABASE_SPOOL_DIR=spool"]
    done = fork_server.scrapy("runspider", str(spider), *given, cwd=folder, env=environment, timeout=100)
    return done.stdout + done.stderr
