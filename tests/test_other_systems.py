"""The package without the calls that Windows and macOS lack (`tests/other_systems.py`): imitations of these systems."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import fault_proxy as faults
from tests.fault_proxy import FaultProxy
from tests.fix_crawl import ROOT, Crawler
from tests.fix_project import Project
from tests.other_systems import CALLS

Sql = Callable[..., list[tuple[Any, ...]]]
Run = Callable[..., subprocess.CompletedProcess[str]]
PACKAGE = ROOT / "scrapy_supabase"
ROWS = [{"id": number, "title": f"t{number}"} for number in range(250)]
DOWN = faults.answers(503, "<h1>down</h1>")


@pytest.fixture
def run(project: Project, tmp_path: Path) -> Run:
    """Run a job of `tests/other_systems.py` on Windows: `run("crawl", ITEMS=…)`."""

    def runs(job: str, system: str = "windows", **settings: Any) -> subprocess.CompletedProcess[str]:
        given = {
            "SUPABASE_URL": project.url,
            "SUPABASE_KEY": project.key,
            "SUPABASE_TABLE": "t",
            "SUPABASE_SPOOL_DIR": str(tmp_path / "spool"),
            **settings,
        }
        text = json.dumps({name: value for name, value in given.items() if value is not None})
        done = subprocess.run(
            [sys.executable, "-m", "tests.other_systems", system, job, text],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
        return done

    return runs


@pytest.fixture
def table(sql: Sql) -> Sql:
    """The table `t`."""
    sql("create table t (id bigint primary key, title text); grant all on t to service_role")
    return sql


def counts(done: subprocess.CompletedProcess[str], *names: str) -> list[int]:
    """Stats of a crawl."""
    stats = json.loads(done.stdout.splitlines()[-1])
    return [stats.get(f"supabase/{name}_count", 0) for name in names]


def test_every_module_can_be_imported(run: Run) -> None:
    """No bare ModuleNotFoundError."""
    assert run("import").stdout == ""


@pytest.mark.parametrize("fsync", [False, True])
def test_a_crawl_with_a_spool(run: Run, table: Sql, tmp_path: Path, fsync: bool) -> None:
    """Rows are uploaded, bad ones rejected; the spool is empty afterwards, and no line ends with CRLF."""
    done = run("crawl", ITEMS=[*ROWS, {"id": "bad"}], SUPABASE_SPOOL_FSYNC=fsync)
    assert counts(done, "received", "uploaded", "failed") == [251, 250, 1], done.stderr
    assert table("select count(*) from t") == [(250,)]
    left = {path.name for path in (tmp_path / "spool").iterdir()}
    assert left == {"rejected.jsonl", "rejected.jsonl.lock", "runs.jsonl", "last-run.json"}
    assert b"\r" not in (tmp_path / "spool" / "rejected.jsonl").read_bytes()


@pytest.mark.rest_only
def test_a_crawl_over_a_database_connection(run: Run, table: Sql, project: Project) -> None:
    """With a wait for the answer."""
    done = run("crawl", ITEMS=[*ROWS, {"id": "bad"}], SUPABASE_URL=None, SUPABASE_DB_URL=project.db_url)
    assert counts(done, "received", "uploaded", "failed") == [251, 250, 1], done.stderr


def test_rows_that_are_left_are_uploaded_by_the_next_crawl(
    run: Run, table: Sql, proxy: FaultProxy, tmp_path: Path
) -> None:
    """Their folder has a lock beside it, which is free when the crawl has ended."""
    proxy.faults.extend([faults.passes] * 2)
    proxy.always = DOWN
    left = run("crawl", ITEMS=ROWS, SUPABASE_URL=proxy.url, SUPABASE_CLOSE_TIMEOUT=0.2, BATCH_RETRY_DELAY=0.02)
    assert counts(left, "spooled") == [250], left.stderr
    (folder,) = [path for path in (tmp_path / "spool").iterdir() if path.is_dir()]
    assert folder.with_name(f"{folder.name}.lock").exists()
    assert all(b"\r" not in path.read_bytes() for path in folder.iterdir())
    proxy.always = faults.passes
    done = run("crawl", ITEMS=[{"id": 900}], SUPABASE_URL=proxy.url)
    assert counts(done, "uploaded", "recovered", "spooled") == [1, 250, 0], done.stderr
    assert table("select count(*) from t") == [(251,)]
    assert not [path for path in (tmp_path / "spool").iterdir() if path.name.startswith("2")]


def test_macos(run: Run, table: Sql, proxy: FaultProxy, tmp_path: Path) -> None:
    """The spool appends rows to its files, which have no NUL bytes then; the next crawl uploads them."""
    proxy.faults.extend([faults.passes] * 2)
    proxy.always = DOWN
    settings = {"SUPABASE_URL": proxy.url, "SUPABASE_CLOSE_TIMEOUT": 0.2, "BATCH_RETRY_DELAY": 0.02}
    left = run("crawl", "macos", ITEMS=ROWS, **settings)
    assert counts(left, "spooled") == [250], left.stderr
    chunks = list((tmp_path / "spool").glob("2*/*.jsonl"))
    assert sorted(path.read_bytes().count(b"\n") for path in chunks) == [51, 101, 101]
    assert not any(b"\0" in path.read_bytes() for path in chunks)
    proxy.always = faults.passes
    done = run("crawl", "macos", ITEMS=[{"id": 900}, {"id": "bad"}], SUPABASE_URL=proxy.url)
    assert counts(done, "uploaded", "recovered", "failed") == [1, 250, 1], done.stderr
    assert table("select count(*) from t") == [(251,)]


def test_replay_and_rejected_rows(run: Run, table: Sql, proxy: FaultProxy, tmp_path: Path) -> None:
    """The reject file is taken away while no other process appends to it."""
    run("crawl", ITEMS=[{"id": "bad"}, {"id": 1}])
    rejects = tmp_path / "spool" / "rejected.jsonl"
    rejects.write_text(rejects.read_text().replace('"row":{"id":"bad"}', '"row":{"id":7}'))
    done = run("command", ARGUMENTS=["replay", "--rejected"])
    assert done.stdout.startswith("1 row uploaded, 0 rejected, 0 left"), done
    assert table("select id from t order by id") == [(1,), (7,)]
    assert not rejects.exists()


def test_a_script(run: Run, table: Sql) -> None:
    """Which waits for its answers with `select`."""
    assert run("script", ITEMS=ROWS).stdout == "250\n"


def test_load(run: Run, table: Sql, tmp_path: Path) -> None:
    """Which appends to files that it uses again."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    done = run("command", ARGUMENTS=["load", str(tmp_path / "rows.jsonl"), "--chunk-size", "10"])
    assert done.stdout.startswith("250 rows uploaded, 0 rejected, 0 left"), done
    assert table("select count(*) from t") == [(250,)]


# Module → why it may name such a call.
POSIX_ONLY = {
    "backends/http_request.py": "os.writev, if it is there",
    "spool/mapped.py": "mapped files, if os.posix_fallocate is there",
    "spool/access.py": "os.geteuid, if it is there",
}


def test_calls_of_posix_are_looked_for() -> None:
    """No other module of the package names one; `local/` is not for Windows."""
    names = "|".join(re.escape(name) for name in (*(f"os.{name}" for name in CALLS), "select.poll", "import fcntl"))
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if re.search(rf"\b({names})\b", path.read_text())
    }
    allowed = {*POSIX_ONLY, "spool/locks.py", "backends/readiness.py"}
    assert sorted(name for name in found - allowed if not name.startswith("local/")) == []


def test_a_local_supabase(run: Run) -> None:
    """The error names the systems that it needs."""
    done = run("command", ARGUMENTS=["local"])
    assert done.returncode == 1
    assert "A local Supabase needs Linux or macOS. On Windows, use WSL" in done.stderr


def test_a_spool_of_linux(run: Run, crawl: Crawler, table: Sql, proxy: FaultProxy, tmp_path: Path) -> None:
    """A spool that was copied: its rows are uploaded."""
    proxy.faults.extend([faults.passes] * 2)
    proxy.always = DOWN
    left = crawl({"items": ROWS}, SUPABASE_URL=proxy.url, SUPABASE_CLOSE_TIMEOUT=0.2)
    assert left.counts("spooled") == (250,)
    proxy.always = faults.passes
    done = run("command", ARGUMENTS=["replay"], SUPABASE_URL=proxy.url)
    assert done.stdout.startswith("250 rows uploaded, 0 rejected, 0 left"), done
    assert not [path for path in (tmp_path / "spool").iterdir() if path.is_dir()]
