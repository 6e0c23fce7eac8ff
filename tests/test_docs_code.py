"""Every code block of the documentation does what its page says.

The blocks of a page run in their order, in one folder, in one shell's environment, on a local Supabase of the page's
own: `sh`, `python` and `sql` blocks are run, and a block that names a file is written to it (what is for settings.py is
added to its end). A `text` block right below one that ran is what it prints: its lines must be there, in that order, as
parts of lines; `…` stands for anything, dates, times and run ids for any other. SQL that is printed is compared as a
whole, and then run.

The address, the keys and the connection strings of the hosted project that pages speak of are replaced by those of the
local one, so that these blocks run, too. The pages of the tutorial go on where the one before ended; other pages find
the project tests/data/docs/shop, and what is in tests/data/docs/<page>, and its settings again at each `##`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from scrapy_supabase.local import LocalSupabase
from tests import fork_server
from tests.docs_pages import DOCS, PAGES, ROOT, Block, blocks_of, prose_of
from tests.s3_server import s3_bucket

DATA = ROOT / "tests" / "data" / "docs"
TUTORIAL = tuple(DOCS / "tutorial" / name for name in ("first-crawl.md", "hosted-project.md"))
RUNS = [
    TUTORIAL,
    *((page,) for page in PAGES if page not in TUTORIAL and any(block.is_code for block in blocks_of(page))),
]
OF_EXAMPLE = (
    ROOT / "README.md",
)  # its queries are about the tables of the example project, its script about a hosted one
WITH_STORAGE = (DOCS / "how-to" / "images-and-files.md",)


@dataclass
class Reader:
    """Somebody who does what a page says, in `folder`."""

    folder: Path
    stack: LocalSupabase
    storage: str = ""  # the address of an S3 server
    cwd: Path = field(init=False)
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.cwd = self.folder
        found = {name: value for name, value in os.environ.items() if not name.startswith(("SUPABASE_", "SCRAPY_"))}
        path = f"{Path(sys.executable).parent}{os.pathsep}{found.get('PATH', '')}"
        self.environment = {**found, "PATH": path, "HOME": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}

    def follow(self, page: Path) -> None:
        """Do it all."""
        kept = self._settings()
        section, output = 0, ""
        blocks = blocks_of(page)
        for block in blocks:
            if block.section != section and page not in TUTORIAL:
                self._restore(kept)
            section = block.section
            if not block.is_run:
                self._check(block)
            elif block.file is not None:
                self._write(block, block.file)
                if block.file.endswith("settings.py") and not any(used_by(block, other) for other in blocks):
                    self._load_settings(block)
            elif block.language == "text":
                compare(block, self._as_local(block.text), output)
            elif block.language == "sql":
                assert not block.is_printed or output == block.text, f"{block}: this was printed:\n{output}"
                self._query(block)
            elif block.language in ("sh", "python"):
                output = self._run(block)
            else:
                self._check(block)

    def _run(self, block: Block) -> str:
        """Run a block and return what it prints; the next one finds its folder and its variables."""
        state = self.folder / ".state"
        if block.language == "python":
            script = self.folder / ".block.py"
            script.write_text(self._as_local(block.text))
            command = [sys.executable, "-W", "error::DeprecationWarning:__main__", str(script)]
        else:
            leave = f"trap 'code=$?; {{ pwd; env -0; }} > \"{state}\"; exit $code' EXIT"
            command = ["sh", "-e", "-c", f"{leave}\n{self._as_local(block.text)}"]
        done = subprocess.run(
            command, cwd=self.cwd, env=self.environment, text=True, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        expected = int(block.mark.removeprefix("exits ") or 0)
        assert done.returncode == expected, f"{block}: exit code {done.returncode}\n{done.stdout}"
        assert "Traceback" not in done.stdout, f"{block}:\n{done.stdout}"
        if state.exists():
            cwd, _, variables = state.read_text().partition("\n")
            self.cwd = Path(cwd)
            self.environment = dict(line.split("=", 1) for line in variables.split("\0") if "=" in line)
            state.unlink()
        return done.stdout

    def _query(self, block: Block) -> None:
        with psycopg.connect(self.stack.db_url, autocommit=True) as connection:
            try:
                connection.execute(block.text.encode())  # as a whole, as the SQL editor does
            except psycopg.Error as error:
                pytest.fail(f"{block}: {error}")
            connection.execute("notify pgrst, 'reload schema'")

    def _write(self, block: Block, name: str) -> None:
        path = self.cwd / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.name == "settings.py":
            path = next(self.cwd.rglob("settings.py"), path)
            with path.open("a") as file:
                file.write("\n" + self._as_local(block.text))
        else:
            path.write_text(self._as_local(block.text))

    def _load_settings(self, block: Block) -> None:
        environment = {"SUPABASE_KEY": "k", **self.environment}
        done = fork_server.run("tests.docs_pages:print_warnings", cwd=self.cwd, env=environment)
        assert (done.returncode, done.stdout.strip()) == (0, ""), f"{block}: {done.stdout}{done.stderr}"

    def _check(self, block: Block) -> None:
        """What can be said of a block that cannot be run."""
        if block.language == "python":
            compile(block.text, str(block), "exec")
            if (block.file or "").endswith("settings.py"):
                kept = self._settings()
                self._write(block, block.file or "")
                self._load_settings(block)
                self._restore(kept)
        elif block.language == "toml":
            tomllib.loads(block.text)
        elif block.language == "json":
            json.loads(block.text)
        elif block.language == "sh":
            done = subprocess.run(["sh", "-n"], input=block.text, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{block}: {done.stderr}"

    def _settings(self) -> dict[Path, str]:
        return {path: path.read_text() for path in self.folder.rglob("settings.py")}

    def _restore(self, kept: dict[Path, str]) -> None:
        for path, text in kept.items():
            path.write_text(text)

    def _as_local(self, text: str) -> str:
        """The text, with the local project for the hosted one."""
        stack = self.stack
        for pattern, value in (
            (r"postgresql://\S+?@\S+?\.supabase\.com?:\d+/postgres", stack.db_url),
            (r"https://abcdefgh\.storage\.supabase\.co/storage/v1/s3", self.storage),
            (r"https://abcdefgh\.supabase\.co", stack.url),
            (r"\babcdefgh\.supabase\.co", stack.url.partition("//")[2]),
            (r"sb_secret_…", stack.service_role_key),
            (r"sb_publishable_…", stack.anon_key),
        ):
            text = re.sub(pattern, value, text)
        return text


def used_by(settings: Block, other: Block) -> bool:
    """Whether another block of the section crawls with these settings."""
    crawls = other.language == "sh" and other.is_run and "scrapy crawl" in other.text
    return crawls and other.section == settings.section and other.line > settings.line


def compare(block: Block, expected: str, output: str) -> None:
    """What is shown is what was printed."""
    rest = output.splitlines()
    for line in expected.splitlines():
        if not line.strip():
            continue
        pattern = pattern_of(line)
        while rest and not re.search(pattern, rest[0]):
            rest.pop(0)
        assert rest, f"{block}: not printed, or not in this order: {line}\n{output}"
        rest.pop(0)


def pattern_of(line: str) -> str:
    """A line that is shown, with what differs from run to run left open."""
    pattern = re.escape(line.rstrip())
    for shown, any_other in (
        (r"…", ".*"),
        (r"\d{4}\\-\d\d\\-\d\d", r"\\d{4}-\\d\\d-\\d\\d"),
        (r"\d\d:\d\d:\d\d", r"\\d\\d:\\d\\d:\\d\\d"),
        (r"\d+\\\.\d+(?=\\ s\b)", r"\\d+\\.\\d+"),
        (r"\b(?=[0-9a-f]*\d)[0-9a-f]{8}\b", "[0-9a-f]{8}"),
    ):
        pattern = re.sub(shown, any_other, pattern)
    return pattern


@pytest.mark.timeout(600)
@pytest.mark.parametrize("pages", RUNS, ids=lambda pages: pages[0].stem)
def test_a_page_does_what_it_says(open_folder: Path, pages: tuple[Path, ...]) -> None:
    """Block by block, as somebody would who reads it."""
    folder = open_folder / f"reader of {pages[0].stem}"
    folder.mkdir()
    if pages == TUTORIAL:
        data = folder / "hosted"
    else:
        data = folder / ".scrapy" / "supabase-local"  # that of the project
        for source in (DATA / "shop", DATA / pages[0].stem):
            if source.is_dir():
                shutil.copytree(source, folder, dirs_exist_ok=True)
    migrations = ROOT / "migrations" if pages == OF_EXAMPLE else ()
    with LocalSupabase(data, migrations=migrations) as stack, ExitStack() as opened:
        bucket = opened.enter_context(s3_bucket("covers")) if pages == WITH_STORAGE else None
        reader = Reader(folder, stack, bucket.url if bucket else "")
        if pages == OF_EXAMPLE:
            reader.environment |= {"SUPABASE_URL": stack.url, "SUPABASE_KEY": stack.service_role_key}
        for page in pages:
            reader.follow(page)
        if bucket is not None:
            covers = sorted(cover.read_bytes() for cover in (folder / "covers").iterdir())
            assert sorted(bucket.files().values()) == covers


def test_no_block_is_left_out_silently() -> None:
    """Each is in a language that can be run or checked, fenced, and marked in a way that means something."""
    wrong = [f"{block}: {block.problem}" for page in PAGES for block in blocks_of(page) if block.problem]
    assert not wrong
    fences = {page: len(re.findall(r"^\s*```", page.read_text(), re.MULTILINE)) for page in PAGES}
    assert fences == {page: 2 * len(blocks_of(page)) for page in PAGES}
    indented = re.compile(r"\n\n {4,}(?![-*\d]).*")
    assert [str(page) for page in PAGES if DOCS in page.parents and indented.search(prose_of(page))] == []


def test_text_that_is_shown_belongs_to_what_ran() -> None:
    """A `text` block, and SQL that is printed, is the output of the block above it, or says that it is none."""
    for page in PAGES:
        before: Block | None = None
        for block in blocks_of(page):
            if block.is_printed:
                runs = before is not None and before.is_run and before.file is None
                assert runs, f"{block}: no output; mark it <!-- not run: … -->"
                assert before is not None
                assert before.language in ("sh", "python"), f"{block}: {before.language} prints nothing"
            before = before if block.is_printed or block.language == "text" else block


def test_what_is_shown_is_compared() -> None:
    """Another number, another order or a line too many fails; what differs from run to run does not."""
    shown = Block(ROOT / "README.md", 1, "text", "", "", 0)
    output = "2026-01-02 03:04:05 [x] INFO: 12 rows, in 0.1 s\n 'n': 3,\nrun 1a2b3c4d"
    compare(shown, "INFO: 12 rows, in 7.5 s\n'n': 3\nrun 00c0ffee", output)
    compare(shown, "2024-12-31 23:59:59 [x] … rows", output)
    for wrong in ("13 rows", "'n': 3\n12 rows", "'n': 3\n'n': 3", "(x) INFO"):
        with pytest.raises(AssertionError, match="not printed"):
            compare(shown, wrong, output)
