"""The pages of the documentation, and the code blocks in them.

Each block is run by tests/test_docs_code.py, or says why not in an HTML comment above it, which no reader sees:
`<!-- not run: needs an account -->`. A block whose first line is a comment with a path is that file; `<!-- exits 1 -->`
announces a command that fails; SQL below `<!-- is printed -->` is what the command above it prints, and is run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from scrapy.utils.project import get_project_settings

from scrapy_supabase.settings.config import Config

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts),
]

_FENCE = re.compile(
    r"^(?:<!-- (?P<mark>[^\n]*) -->\n\n?)?(?P<fence>```+)(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)
_FILE = re.compile(r"(?:#|--|;) (?P<path>[\w./-]+\.\w+)$")
_LANGUAGES = ("python", "sh", "sql", "text", "toml", "json", "yaml")


@dataclass(frozen=True)
class Block:
    """A fenced block: `mark` is the comment above it, `section` the number of its `##` heading, 0 above the first."""

    page: Path
    line: int
    language: str
    text: str
    mark: str
    section: int

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def is_run(self) -> bool:
        """Whether it says nothing to the contrary."""
        return not self.mark.startswith("not run: ")

    @property
    def is_code(self) -> bool:
        """Whether it is more than text."""
        return self.language != "text" and not self.language.startswith("{")

    @property
    def is_printed(self) -> bool:
        """Whether it is the output of the block above it."""
        return self.mark == "is printed" or (self.language == "text" and self.is_run)

    @property
    def file(self) -> str | None:
        """The path that its first line names."""
        found = _FILE.match(self.text.partition("\n")[0])
        return found["path"] if found else None

    @property
    def problem(self) -> str | None:
        """What is wrong with it as a block."""
        if self.language.startswith("{"):
            return None  # a directive of Sphinx
        if self.language not in _LANGUAGES:
            return f"language {self.language!r} is none of {', '.join(_LANGUAGES)}"
        if self.mark and not re.fullmatch(r"not run: .+|exits \d+|is printed", self.mark):
            return f"{self.mark!r} is none of 'not run: …', 'exits …', 'is printed'"
        if self.language == "sql" and not self.is_run:
            return "SQL can always be run"
        if self.mark == "is printed" and self.language != "sql":
            return "'is printed' is for SQL: other output is a text block"
        if "pip install" in self.text and self.is_run:
            return "it would change the environment of the tests: mark it <!-- not run: … -->"
        return None


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, in their order."""
    text = page.read_text()
    return [
        Block(
            page,
            text.count("\n", 0, found.start("fence")) + 1,
            found["language"].strip(),
            found["text"],
            found["mark"] or "",
            len(re.findall(r"^## ", text[: found.start()], re.MULTILINE)),
        )
        for found in _FENCE.finditer(text)
    ]


def prose_of(page: Path) -> str:
    """A page without its blocks and comments."""
    return re.sub(r"<!--.*?-->", "", _FENCE.sub("", page.read_text()), flags=re.DOTALL)


def print_warnings() -> None:
    """Read the settings of the project in this folder."""
    print(*Config.from_settings(get_project_settings()).warnings)
