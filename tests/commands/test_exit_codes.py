"""The exit code of `scrapy runspider` and `scrapy crawl`: what cron, Kubernetes and CI look at."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import fault_proxy as faults
from tests import fork_server
from tests.fault_proxy import FaultProxy
from tests.fix_crawl import OLDEST, ROOT
from tests.fix_project import Project

Sql = Callable[..., list[tuple[Any, ...]]]
Run = Callable[..., subprocess.CompletedProcess[str]]
SPIDER = """
import scrapy

class S(scrapy.Spider):
    name = "s"

    async def start(self):
        yield {"id": 1}
        yield {"id": "bad"}
"""
SCRIPT = """
import runpy, sys
from scrapy.crawler import AsyncCrawlerProcess
process = AsyncCrawlerProcess(dict(part.split("=", 1) for part in sys.argv[1:]))
process.crawl(runpy.run_path("s.py")["S"])
process.start()
"""
REACTORS = {
    "asyncio": {},
    "select": {"TWISTED_REACTOR": "twisted.internet.selectreactor.SelectReactor"},
    "none": {"TWISTED_REACTOR_ENABLED": "False"},
}


@pytest.fixture
def table(sql: Sql) -> Sql:
    """The table `t`."""
    sql("create table t (id bigint primary key); grant all on t to service_role")
    return sql


@pytest.fixture
def run(project: Project, proxy: FaultProxy, tmp_path: Path) -> Run:
    """Run the spider: `run(SUPABASE_FAIL_ON="rejected", python=OLDEST, mode="select")`."""
    (tmp_path / "s.py").write_text(SPIDER)
    (tmp_path / "script.py").write_text(SCRIPT)

    def runs(
        python: str | Path = sys.executable, mode: str = "asyncio", script: bool = False, **settings: str
    ) -> subprocess.CompletedProcess[str]:
        values = {
            "ADDONS": '{"scrapy_supabase.Addon": 300}',
            "SUPABASE_URL": proxy.url,
            "SUPABASE_KEY": project.key,
            "SUPABASE_TABLE": "t",
            "SUPABASE_SPOOL_DIR": str(tmp_path / "spool"),
            "BATCH_RETRY_DELAY": "0.02",
            **REACTORS[mode],
            **settings,
        }
        pairs = [f"{name}={value}" for name, value in values.items()]
        environment = {"PYTHONPATH": str(ROOT)}
        if script:
            command = [str(python), "script.py", *pairs]
            return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        options = [part for pair in pairs for part in ("-s", pair)]
        return fork_server.scrapy("runspider", "s.py", *options, python=str(python), cwd=tmp_path, env=environment)

    return runs


@pytest.mark.parametrize("mode", REACTORS)
@pytest.mark.parametrize("python", [sys.executable, str(OLDEST)], ids=["newest", "oldest"])
def test_a_crawl_that_is_closed_before_its_first_page_fails(run: Run, python: str, mode: str) -> None:
    """There is no table."""
    done = run(python, mode)
    assert done.returncode == 1, done.stderr
    assert "supabase_no_table" in done.stderr


@pytest.mark.parametrize("mode", REACTORS)
def test_a_crawl_that_is_closed_in_the_middle_fails(run: Run, table: Sql, proxy: FaultProxy, mode: str) -> None:
    """The project is paused while rows are uploaded."""
    proxy.faults.extend([faults.passes] * 2)
    proxy.always = faults.answers(540, "<h1>Project paused</h1>")
    done = run(mode=mode)
    assert done.returncode == 1, done.stderr
    assert "supabase_paused" in done.stderr


@pytest.mark.parametrize("mode", REACTORS)
def test_rejected_rows_fail_a_crawl_if_asked_to(run: Run, table: Sql, mode: str) -> None:
    """With `rejected` in SUPABASE_FAIL_ON, in any of Scrapy's modes."""
    done = run(mode=mode, SUPABASE_FAIL_ON="rejected, spooled")
    assert done.returncode == 1, done.stderr
    assert "1 row rejected (SUPABASE_FAIL_ON)" in done.stderr


@pytest.mark.parametrize("fail_on", ["", "spooled"])
def test_rejected_rows_do_not_fail_a_crawl_otherwise(run: Run, table: Sql, fail_on: str) -> None:
    """They are in the log and in the reject file."""
    assert run(SUPABASE_FAIL_ON=fail_on).returncode == 0


def test_spooled_rows_fail_a_crawl_if_asked_to(run: Run, table: Sql, proxy: FaultProxy) -> None:
    """With `spooled` in SUPABASE_FAIL_ON."""
    proxy.faults.extend([faults.passes] * 2)
    proxy.always = faults.answers(503, "<h1>down</h1>")
    done = run(SUPABASE_FAIL_ON="spooled", SUPABASE_CLOSE_TIMEOUT="0.2")
    assert done.returncode == 1, done.stderr
    assert "2 rows spooled (SUPABASE_FAIL_ON)" in done.stderr


def test_the_process_of_a_script_keeps_its_exit_code(run: Run, table: Sql) -> None:
    """Whoever starts crawls from Python decides by the stats."""
    done = run(script=True, SUPABASE_FAIL_ON="rejected")
    assert done.returncode == 0, done.stderr
    assert "1 row rejected (SUPABASE_FAIL_ON)" in done.stderr
