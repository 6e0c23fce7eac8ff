"""A project folder that cannot be written, as in a container with a read-only root: every command says what to set."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fix_crawl import ROOT
from tests.fix_project import Project

SPIDER = """
import scrapy

class S(scrapy.Spider):
    name = "s"

    async def start(self):
        yield {"id": 1}
"""
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(project: Project, tmp_path: Path) -> Iterator[Run]:
    """Run `scrapy` in a project without a `.scrapy` folder: `run("crawl", "s")`.

    Root may write everywhere; for root, the folder is mounted read-only in a mount namespace of the command's own.
    """
    (tmp_path / "shop" / "spiders").mkdir(parents=True)
    (tmp_path / "scrapy.cfg").write_text("[settings]\ndefault = shop.settings\n")
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "spiders" / "__init__.py").write_text(SPIDER)
    (tmp_path / "rows.jsonl").write_text('{"id": 1}\n')
    settings = {
        "SPIDER_MODULES": ["shop.spiders"],
        "ADDONS": {"scrapy_supabase.Addon": 300},
        "SUPABASE_URL": project.url,
        "SUPABASE_KEY": project.key,
        "SUPABASE_TABLE": "t",
    }
    (tmp_path / "shop" / "settings.py").write_text("".join(f"{name} = {value!r}\n" for name, value in settings.items()))
    is_root = os.geteuid() == 0
    if is_root and subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("root needs a mount namespace (unshare -m) to have a folder that it cannot write")
    tmp_path.chmod(0o555)

    def runs(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = shlex.join([sys.executable, "-m", "scrapy", *arguments])
        here = shlex.quote(str(tmp_path))
        mounted = f"mount --bind {here} {here} && mount -o remount,ro,bind {here} && cd {here} && {command}"
        return subprocess.run(
            ["unshare", "-m", "sh", "-c", mounted] if is_root else ["sh", "-c", command],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    yield runs
    tmp_path.chmod(0o755)


@pytest.mark.parametrize("command", [["crawl", "s"], ["supabase", "load", "rows.jsonl"], ["supabase", "check"]])
def test_what_must_write_names_the_setting(run: Run, command: list[str]) -> None:
    """One sentence with the folder and SUPABASE_SPOOL_DIR, and exit code 1."""
    done = run(*command)
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert ".scrapy/supabase" in said
    assert "SUPABASE_SPOOL_DIR" in said
    assert command[0] == "crawl" or "Traceback" not in said


@pytest.mark.parametrize("command", [["replay"], ["replay", "--dry-run"], ["report"]])
def test_what_only_reads_needs_no_folder(run: Run, command: list[str]) -> None:
    """There is nothing to read, and that is what it says."""
    done = run("supabase", *command)
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    assert "Nothing to upload" in said or "0 rows" in said or "There is no run" in said


def test_a_crawl_without_a_spool_needs_no_folder(run: Run, sql: Callable[..., object]) -> None:
    """As the message offers."""
    sql("create table t (id bigint primary key); grant all on t to service_role")
    done = run("crawl", "s", "-s", "SUPABASE_SPOOL_DIR=None")
    assert done.returncode == 0, done.stderr
    assert "1 row received: 1 uploaded" in done.stderr


def test_a_spool_named_in_the_environment(
    run: Run, sql: Callable[..., object], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container: crawl, replay and report use the folder of the environment variable."""
    spool = tmp_path_factory.mktemp("spool")
    spool.chmod(0o755)
    monkeypatch.setenv("SUPABASE_SPOOL_DIR", str(spool))
    sql("create table t (id bigint primary key check (id > 1)); grant all on t to service_role")
    assert "1 row received: 0 uploaded" in run("crawl", "s").stderr
    assert "(1 row)" in run("supabase", "replay", "--dry-run", "--rejected").stdout
    assert run("supabase", "report", "-").stdout.startswith("<!doctype html>")
