"""The lowest version of each dependency that pyproject.toml allows: `.venv-oldest` is made of them (tests/oldest.txt).

Other tests crawl with them in all modes (`test_every_mode_and_version_of_scrapy`) and show wrong settings.
"""

from __future__ import annotations

import json
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests import fault_proxy as faults
from tests.fault_proxy import FaultProxy
from tests.fix_crawl import OLDEST, ROOT, Crawler
from tests.fix_project import Project
from tests.polling import eventually

Sql = Callable[..., list[tuple[Any, ...]]]

SCRIPT = """
import json, sys
from scrapy_supabase import init_supabase, upload_to_supabase
client = init_supabase(sys.argv[1], sys.argv[2])
result = upload_to_supabase(client, [{"id": n, "title": "t"} for n in range(250)], "t")
print(json.dumps([result.uploaded, result.failed]))
"""


@pytest.fixture
def table(sql: Sql) -> Sql:
    """The table `t`."""
    sql("create table t (id bigint primary key, title text); grant all on t to service_role")
    return sql


def rows(count: int) -> list[dict[str, Any]]:
    """Rows 0, 1, …"""
    return [{"id": number, "title": f"t{number}"} for number in range(count)]


def test_oldest_txt_has_the_floors_of_pyproject() -> None:
    """Each package with a lowest version, and no other."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted: dict[str, Version] = {}
    for text in (*project["dependencies"], *extras["postgres"], *extras["redis"], *extras["spidermon"]):
        requirement = Requirement(text)
        floors = [part.version for part in requirement.specifier if part.operator == ">="]
        wanted.update((requirement.name, Version(floor)) for floor in floors)
    lines = (ROOT / "tests" / "oldest.txt").read_text().splitlines()
    pinned = [Requirement(line) for line in lines if not line.startswith("#")]
    assert {each.name: Version(next(iter(each.specifier)).version) for each in pinned} == wanted


def test_oldest_txt_is_what_is_installed() -> None:
    """Else the other tests here would show nothing."""
    listed = subprocess.run(
        [str(OLDEST), "-m", "pip", "list", "--format", "json"], check=True, capture_output=True, text=True
    ).stdout
    installed = {each["name"].lower(): Version(each["version"]) for each in json.loads(listed)}
    lines = (ROOT / "tests" / "oldest.txt").read_text().splitlines()
    pinned = [Requirement(line) for line in lines if not line.startswith("#")]
    assert {each.name for each in pinned if installed[each.name] not in each.specifier} == set()


@pytest.mark.parametrize("mode", ["asyncio", "select", "none"])
def test_a_crawl_over_a_database_connection(crawl: Crawler, table: Sql, project: Project, mode: str) -> None:
    """With prepared statements, a refusal, and a row that is sent again alone."""
    done = crawl(
        {"items": [*rows(250), {"id": "bad"}]},
        mode=mode,
        python=str(OLDEST),
        SUPABASE_URL=None,
        SUPABASE_DB_URL=project.db_url,
    )
    assert done.counts("received", "uploaded", "failed") == (251, 250, 1), done.log
    assert table("select count(*) from t") == [(250,)]
    assert "Traceback" not in done.log


def test_kill_9_and_the_next_crawl(crawl: Crawler, table: Sql, proxy: FaultProxy) -> None:
    """What a killed crawl left, the next one uploads."""
    proxy.faults.extend([faults.passes] * 2)  # what is asked at open
    proxy.always = faults.hangs
    process = crawl.start({"items": rows(300)}, python=str(OLDEST), SUPABASE_URL=proxy.url)
    spool = crawl.folder / "spool"
    assert eventually(lambda: sum(path.read_text().count('"title":') for path in spool.glob("*/*.jsonl")) >= 300)
    process.kill()
    crawl.finish(process, balanced=False)
    proxy.always = faults.passes
    done = crawl({"items": [{"id": 1000, "title": "new"}]}, python=str(OLDEST), SUPABASE_URL=proxy.url)
    assert done.stats["supabase/recovered_count"] == 300, done.log
    assert table("select count(*) from t") == [(301,)]


def test_the_script_api(table: Sql, project: Project) -> None:
    """Without Scrapy's engine."""
    command = [str(OLDEST), "-c", SCRIPT, project.url, project.key]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == [250, 0]
    assert table("select count(*) from t") == [(250,)]


@pytest.mark.parametrize("way", ["rest", "database"])
def test_the_commands(table: Sql, project: Project, tmp_path: Path, way: str) -> None:
    """`check`, `load`, `ddl`, `replay` and `report`."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(250)))
    server = {"SUPABASE_URL": project.url, "SUPABASE_KEY": project.key}
    if way == "database":
        server = {"SUPABASE_DB_URL": project.db_url}
    settings = {
        **server,
        "SUPABASE_TABLE": "t",
        "SUPABASE_SPOOL_DIR": str(tmp_path / "spool"),
        "ITEM_PIPELINES": json.dumps({"scrapy_supabase.SupabasePipeline": 300}),
    }

    def run(*arguments: str, code: int = 0) -> str:
        options = [part for name, value in settings.items() for part in ("-s", f"{name}={value}")]
        command = [str(OLDEST), "-m", "scrapy", "supabase", *arguments, *options]
        done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert "250 rows" in run("load", "rows.jsonl", "--table", "t")
    assert table("select count(*) from t") == [(250,)]
    assert "create table if not exists public.t" in run("ddl", "--from", "rows.jsonl", "--table", "t")
    assert "a crawl can start" in run("check")
    assert run("replay")
