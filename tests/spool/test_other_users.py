"""A spool of another user, as after one crawl with sudo: each command names the owner, the path and the remedy."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fix_crawl import ROOT
from tests.fix_project import Project
from tests.test_messages_commands import host, leave

Run = Callable[..., subprocess.CompletedProcess[str]]
Sql = Callable[..., list[tuple[Any, ...]]]
IS_ROOT = os.geteuid() == 0
NOBODY = 65534
COMMANDS = (["check"], ["replay"], ["replay", "--dry-run"], ["report"], ["load", "rows.jsonl"])


@pytest.fixture
def run(project: Project, tmp_path: Path) -> Iterator[Run]:
    """Run `scrapy` with a spool that this user may not open.

    Root opens everything: for root, the spool belongs to `nobody`, and the command runs without root's capability to
    pass by permissions. Any other user closes the spool for itself.
    """
    if IS_ROOT and not shutil.which("setpriv"):
        pytest.skip("root needs setpriv to have a folder that it cannot open")
    (tmp_path / "rows.jsonl").write_text('{"id": 1}\n')
    (tmp_path / "spider.py").write_text("import scrapy\nclass S(scrapy.Spider):\n    name = 's'\n")
    spool = tmp_path / "spool"
    leave(spool, host(project.url), {"id": 1})
    without = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if IS_ROOT else []
    settings = {
        "SUPABASE_URL": project.url,
        "SUPABASE_KEY": project.key,
        "SUPABASE_TABLE": "t",
        "SUPABASE_SPOOL_DIR": str(spool),
        "ADDONS": '{"scrapy_supabase.Addon": 300}',
    }
    options = [part for name, value in settings.items() for part in ("-s", f"{name}={value}")]

    def runs(*arguments: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*without, sys.executable, "-m", "scrapy", arguments[0], *options, *arguments[1:]],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        return subprocess.CompletedProcess([], done.returncode, done.stdout, done.stderr)

    yield runs
    subprocess.run(["chmod", "-R", "u+rwX", str(tmp_path)], check=True)


def close(path: Path) -> None:
    """Give a folder and what is in it to another user, or close it to this one."""
    if IS_ROOT:
        for each in (path, *path.rglob("*")):
            os.chown(each, NOBODY, NOBODY)
    path.chmod(0o700 if IS_ROOT else 0)


def assert_one_sentence(done: subprocess.CompletedProcess[str], folder: Path, owned: Path) -> None:
    """Path, owner and remedy, and no traceback."""
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "Traceback" not in said
    assert "Permission denied" in said or f"{folder} is not writable" in said
    if IS_ROOT:
        assert f"{owned} belongs to user nobody, and this process runs as root: run it as nobody" in said
        assert f"sudo chown -R root {shlex.quote(str(folder))}" in said
        assert "SUPABASE_SPOOL_DIR" in said


@pytest.mark.parametrize("command", COMMANDS, ids=[" ".join(command) for command in COMMANDS])
def test_a_command_names_the_owner(run: Run, sql: Sql, tmp_path: Path, command: list[str]) -> None:
    """The spool folder is closed."""
    sql("create table t (id bigint primary key); grant all on t to service_role")
    close(tmp_path / "spool")
    assert_one_sentence(run("supabase", *command), tmp_path / "spool", tmp_path / "spool")


def test_a_crawl_names_the_owner(run: Run, tmp_path: Path) -> None:
    """Scrapy prints the traceback of a pipeline that does not open; the sentence is in its last line."""
    close(tmp_path / "spool")
    done = run("runspider", "spider.py")
    assert done.returncode == 1, done.stderr
    assert f"The spool folder {tmp_path / 'spool'} cannot be written: Permission denied." in done.stderr
    assert not IS_ROOT or "belongs to user nobody" in done.stderr


@pytest.mark.skipif(not IS_ROOT, reason="needs a folder of another user")
@pytest.mark.parametrize("command", COMMANDS[1:3], ids=["replay", "dry-run"])
def test_one_run_of_another_user(run: Run, tmp_path: Path, command: list[str]) -> None:
    """The folder of that run is named."""
    (of_other,) = [path for path in (tmp_path / "spool").iterdir() if path.is_dir()]
    close(of_other)
    assert_one_sentence(run("supabase", *command), tmp_path / "spool", of_other)


@pytest.mark.skipif(not IS_ROOT, reason="needs a folder of another user")
def test_a_crawl_leaves_one_run_of_another_user(run: Run, sql: Sql, tmp_path: Path) -> None:
    """It warns, and crawls. `check` warns, too."""
    sql("create table t (id bigint primary key); grant all on t to service_role")
    (of_other,) = [path for path in (tmp_path / "spool").iterdir() if path.is_dir()]
    close(of_other)
    done = run("runspider", "spider.py")
    assert done.returncode == 0, done.stderr
    said = f"{of_other} cannot be read: Permission denied. It is left unchanged. {of_other} belongs to user nobody"
    assert said in done.stderr
    checked = run("supabase", "check").stdout
    assert f"! spool: {of_other} cannot be read: Permission denied. It is left unchanged." in checked
    assert f"{of_other} belongs to user nobody" in checked
    assert "✗" not in checked


@pytest.mark.skipif(not IS_ROOT, reason="needs a folder of another user")
@pytest.mark.parametrize("command", [["supabase", "check"], ["runspider", "spider.py"]], ids=["check", "crawl"])
def test_a_spool_that_does_not_exist_in_a_folder_of_another_user(run: Run, tmp_path: Path, command: list[str]) -> None:
    """As in a container: the remedy is a folder of this user, not to run as the owner of the project."""
    spool = tmp_path / "spool"
    shutil.rmtree(spool)
    os.chown(tmp_path, NOBODY, NOBODY)
    tmp_path.chmod(0o755)
    done = run(*command)
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert f"{tmp_path} belongs to user nobody, and this process runs as root: set SUPABASE_SPOOL_DIR to a fol" in said
    assert f"sudo install -d -o root -m 700 {shlex.quote(str(spool))}" in said
    assert "run it as nobody" not in said
