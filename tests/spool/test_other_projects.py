"""Rows of a project whose name has changed: over REST before, over a database connection now, or through a pooler."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scrapy_supabase.spool.run_folders import note_run
from tests.checkup.test_check import Look, look
from tests.fault_proxy import FaultProxy
from tests.fix_crawl import Crawler
from tests.fix_project import Project
from tests.spool.test_replay import Command, Sql, command, items, left, table

__all__ = ["command", "left", "look", "table"]  # fixtures


@pytest.fixture
def by_database(project: Project) -> dict[str, Any]:
    """The settings of a crawl over a database connection."""
    return {"SUPABASE_URL": None, "SUPABASE_DB_URL": project.db_url}


def name_of(proxy: FaultProxy) -> str:
    """The project's name in crawls over REST."""
    return proxy.url.removeprefix("http://")


@pytest.mark.rest_only
def test_a_crawl_warns_and_the_printed_command_uploads(
    left: Callable[..., None],
    crawl: Crawler,
    command: Command,
    table: Sql,
    proxy: FaultProxy,
    project: Project,
    by_database: dict[str, Any],
) -> None:
    """The warning has the other name, chunks, rows and the command."""
    left(items(250))
    done = crawl({"items": [{"id": 900}]}, **by_database)
    assert done.counts("uploaded", "recovered") == (1, 0)
    (said,) = [line for line in done.log.splitlines() if "Not uploaded" in line]
    assert "WARNING" in said
    assert f"3 chunks with 250 rows of the project {name_of(proxy)} in " in said
    printed = shlex.split(said.partition("run: scrapy supabase ")[2])
    assert printed[:3] == ["replay", "--project", name_of(proxy)]
    listed = command(*printed, "--dry-run")
    assert "(250 rows)" in listed.stdout
    database = {"SUPABASE_URL": "None", "SUPABASE_DB_URL": project.db_url}
    refused = command(*printed, **database)
    assert "may be older than the stored rows" in refused.stderr  # the crawl with the new name stored rows later
    replayed = command(*printed, "--mode", "ignore", **database)
    assert replayed.stdout.startswith("250 rows uploaded, 0 rejected, 0 left"), replayed
    assert table("select count(*) from t") == [(251,)]
    assert "Not uploaded" not in crawl({"items": []}, **by_database).log


def test_rows_of_the_settings_project_are_not_touched(
    left: Callable[..., None], command: Command, table: Sql, proxy: FaultProxy, tmp_path: Path
) -> None:
    """`--project` uploads the rows of that project alone."""
    left(items(5))
    there = tmp_path / "spool"
    (run,) = [path for path in there.iterdir() if path.is_dir()]
    for path in run.glob("*.jsonl"):
        path.write_text(path.read_text().replace(name_of(proxy), "old.example.com"))
    left([{"id": 50}])
    done = command("replay", "--project", "old.example.com", url=proxy.url)
    assert done.stdout.startswith("5 rows uploaded"), done
    assert table("select count(*) from t") == [(5,)]
    assert command("replay", url=proxy.url).stdout.startswith("1 row uploaded")


def test_rejected_rows_of_the_other_name(command: Command, table: Sql, tmp_path: Path) -> None:
    """`--rejected` with `--project` uploads them; rejected again, they belong to the settings' project."""
    line = '{"time":"2026-01-01","project":"old","table":"t","code":"23514","message":"m","columns":["id","n"],'
    line += '"mode":"upsert","on_conflict":["id"],"key":["id"],"row":{"id":%s,"n":1}}\n'
    rejects = tmp_path / "spool" / "rejected.jsonl"
    rejects.parent.mkdir()
    rejects.write_text(line % 1 + line % '"x"')
    assert "2 rows of another project, old" in command("replay", "--rejected").stdout
    done = command("replay", "--rejected", "--project", "old")
    assert done.stdout.startswith("1 row uploaded, 1 rejected"), done
    assert '"project":"old"' not in rejects.read_text()
    wrong = command("replay", "--rejected", "--project", "old")
    assert wrong.returncode == 1
    assert "There are no rows of the project 'old' in " in wrong.stderr
    assert "Projects with rows there: 127.0.0.1:" in wrong.stderr


def test_check_names_the_other_project(
    left: Callable[..., None], look: Look, proxy: FaultProxy, project: Project, tmp_path: Path
) -> None:
    """Its rows are not "kept for the next crawl"."""
    left(items(3))
    found = [(level, text, remedy) for level, subject, text, remedy in look(SUPABASE_SPOOL_DIR=str(tmp_path / "spool"))
             if subject == "spool"]  # fmt: skip
    assert [level for level, _, _ in found] == ["ok", "warning"]
    assert f"1 chunk with 3 rows of the project {name_of(proxy)} in " in found[1][1]
    assert f"replay --project {name_of(proxy)}" in found[1][2]


def test_a_note_of_the_old_name_counts(
    left: Callable[..., None], command: Command, table: Sql, proxy: FaultProxy, tmp_path: Path
) -> None:
    """A later crawl under either name may have stored newer rows."""
    left(items(2))
    note_run(tmp_path / "spool", "a later run", name_of(proxy), ("t",))
    assert "may be older" in command("replay", "--project", name_of(proxy)).stderr
