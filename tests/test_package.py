"""The package as others get it: built, judged, and installed where there is nothing else. `make package` runs these."""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "scrapy_supabase"
SPIDER = """
import scrapy

class BooksSpider(scrapy.Spider):
    name = "books"
    custom_settings = {
        "ADDONS": {"scrapy_supabase.Addon": 300}, "SUPABASE_URL": "local", "SUPABASE_TABLE": "books",
        "SUPABASE_MIGRATIONS": "migrations",
    }

    async def start(self):
        for number in range(250):
            yield {"id": number}
"""

pytestmark = [pytest.mark.package, pytest.mark.timeout(600)]


def run(*command: str | Path, cwd: Path, code: int = 0) -> str:
    """Run a program to its end; what it says."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SUPABASE_", "PYTHON"))}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the sdist, and the wheel that was built from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    """The wheel."""
    (path,) = dist.glob("scrapy_supabase-*-py3-none-any.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, open_folder: Path) -> Path:
    """The programs of a new environment with the wheel and its extra `local`, and nothing else."""
    folder = open_folder / "installed"
    venv.create(folder, with_pip=True)
    run(folder / "bin" / "pip", "install", "--quiet", f"{wheel}[local]", cwd=open_folder)
    return folder / "bin"


def files_of(wheel: Path) -> set[str]:
    """What it contains."""
    with zipfile.ZipFile(wheel) as file:
        return set(file.namelist())


def metadata(wheel: Path) -> Message:
    """What PyPI reads."""
    (name,) = (name for name in files_of(wheel) if name.endswith(".dist-info/METADATA"))
    with zipfile.ZipFile(wheel) as file:
        return email.message_from_bytes(file.read(name))


def test_twine_and_check_wheel_contents_pass(dist: Path, wheel: Path) -> None:
    """Warnings count as errors."""
    said = run(sys.executable, "-m", "twine", "check", "--strict", *dist.iterdir(), cwd=dist)
    assert len(re.findall("PASSED", said)) == 2
    run(sys.executable, "-m", "check_wheel_contents", wheel, cwd=dist)


def test_the_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    """And no other: no tests, no example."""
    there = {path for path in SOURCE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    found = {name for name in files_of(wheel) if ".dist-info/" not in name}
    assert found == {path.relative_to(ROOT).as_posix() for path in there}
    assert found >= {"scrapy_supabase/py.typed", "scrapy_supabase/local/roles.sql"}


def test_the_page_on_pypi_has_no_link_that_leads_nowhere(wheel: Path) -> None:
    """The README's links to files are their text there."""
    text = str(metadata(wheel).get_payload())
    assert "# scrapy-supabase" in text
    assert [link for link in re.findall(r"\]\(([^)]*)\)", text) if not link.startswith("https://")] == []


def test_the_sdist_has_what_its_readme_and_its_tests_name(dist: Path) -> None:
    """Whoever has only that can read on, run the tests and build a wheel, as the one of these tests was."""
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    linked = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / "README.md").read_text())
    for name in (*linked, "Makefile", "hatch_build.py", "tests/data/schema.sql", "benchmarks/common.py"):
        assert any(one == name or one.startswith(f"{name}/") for one in names), name
    assert not [name for name in names if re.search(r"__pycache__|\.scrapy|\.venv|docs/_build", name)]


def test_the_installed_wheel_crawls(installed: Path, open_folder: Path) -> None:
    """Outside of the checkout, into a local Supabase, and the rows are there."""
    folder = open_folder / "elsewhere"
    (folder / "migrations").mkdir(parents=True)
    (folder / "spider.py").write_text(SPIDER)
    (folder / "scrapy.cfg").write_text("[settings]\n")
    (folder / "migrations" / "001_books.sql").write_text(
        "create table books (id int primary key); grant all on books to service_role"
    )
    where = run(installed / "python", "-c", "import scrapy_supabase as s; print(s.__file__)", cwd=folder)
    assert Path(where.strip()).is_relative_to(installed.parent)
    log = run(installed / "scrapy", "runspider", "spider.py", cwd=folder)
    assert "'supabase/uploaded_count': 250" in log
    assert "Traceback" not in log
    table = run(installed / "scrapy", "supabase", "sql", "select 'rows: ' || count(*) from books", cwd=folder)
    assert "rows: 250" in table


def test_the_commands_are_installed(installed: Path, open_folder: Path) -> None:
    """By the entry point; every sub-command is listed."""
    said = run(installed / "scrapy", "supabase", "--help", cwd=open_folder)
    assert all(name in said for name in ("load", "replay", "local", "sql"))


def test_an_extra_that_is_not_installed_is_named(installed: Path, open_folder: Path) -> None:
    """With the command that installs it."""
    code = "import scrapy_supabase.contrib.spidermon"
    said = run(installed / "python", "-c", code, cwd=open_folder, code=1)
    assert said.endswith("Spidermon is not installed. Run: pip install 'scrapy-supabase[spidermon]'\n")
