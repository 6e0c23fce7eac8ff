"""What the package says, as it was read and found good: the files `tests/golden/messages_*.txt`.

A file belongs to the test module of the same name. It consists of blocks: a line `## how it was provoked`, then the
messages, each with what it is in front (`WARNING`, `ERROR`, `stderr`, `rejected`, the name of an exception), its
further lines indented. What differs from run to run stands in angle brackets.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"
WRITE = "SUPABASE_WRITE_MESSAGES"
_HEADING = "## "
_INDENT = "    "
_LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \[([\w.-]+)\] ([A-Z]+): (.*)")
# What differs from run to run, whatever the test.
_VOLATILE = (
    (re.compile(r"\d{8}T\d{6}\.\d{3}Z-[0-9a-f]{8}"), "<run>"),
    (re.compile(r"\b\d{4}-\d\d-\d\d\b"), "<date>"),
    (re.compile(r"127\.0\.0\.1:\d+|localhost:\d+"), "<host>"),
    (re.compile(r"\d+\.\d+ s\b"), "<seconds> s"),
    (re.compile(r"(?<=after )\d+ s\b"), "<seconds> s"),
    (re.compile(r"\d+(?= rows/min| bytes\))"), "<n>"),
    (re.compile(r"(?<=process )\d+|(?<=kill -9 )\d+"), "<pid>"),
    (re.compile(r"\(_ssl\.c:\d+\)"), "(_ssl.c:<n>)"),
    (re.compile(r"0x[0-9a-f]{6,}"), "<address>"),
    (re.compile(r"(?<=the crawl's process: ).*?(?= Define classes)"), "<reason>."),  # of pickle
)


@dataclass(frozen=True)
class Message:
    """One message of a golden file: `kind` is what stands in front of its `text`."""

    file: str
    how: str
    kind: str
    text: str


@dataclass
class Said:
    """Compares messages with the blocks of a golden file; with `SUPABASE_WRITE_MESSAGES` set, writes them.

    `hidden` maps texts that differ from run to run (a folder, a host) to the names that stand for them.
    """

    path: Path
    source: str
    hidden: dict[str, str] = field(default_factory=dict)

    def __call__(self, how: str, *groups: str | Iterable[str]) -> None:
        """Compare with the block headed `how` the messages, each `KIND: text`; what was said twice stands once."""
        given = [one for group in groups for one in ([group] if isinstance(group, str) else group)]
        messages = list(dict.fromkeys(self._shown(message) for message in given))
        assert messages, f"{how}: nothing was said"
        assert how in self.source, (
            "the heading must stand in the test module as it is: that gives its place in the file"
        )
        found = _blocks(self.path) if self.path.exists() else {}
        if os.environ.get(WRITE):
            found[how] = messages
            known = sorted((one for one in found if one in self.source), key=self.source.index)
            self.path.write_text("\n".join(_block(one, found[one]) for one in known))
        elif found.get(how) != messages:
            wanted = "\n".join(found.get(how, ["(no such block)"]))
            pytest.fail(
                f"{how}\n\nSaid:\n\n{chr(10).join(messages)}\n\n{self.path.name} has:\n\n{wanted}\n\nIf what is said "
                "now is what a tired user should read, run: make messages",
                pytrace=False,
            )

    def _shown(self, message: str) -> str:
        for text, name in sorted(self.hidden.items(), key=lambda pair: -len(pair[0])):
            message = message.replace(text, f"<{name}>")
        for pattern, name in _VOLATILE:
            message = pattern.sub(name, message)
        return message.rstrip()


def of_log(log: str, *, least: str = "INFO") -> list[str]:
    """What the package itself said in a crawl's log, from level `least` on, without tracebacks."""
    levels = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
    found: list[str] = []
    ours = False
    for line in log.splitlines():
        if match := _LOG_LINE.fullmatch(line):
            name, level, text = match.groups()
            ours = name.startswith("scrapy_supabase") and levels.index(level) >= levels.index(least)
            if ours:
                found.append(f"{level}: {text}")
        elif line.startswith(("Traceback", "Unhandled error")):
            ours = False
        elif ours:
            found[-1] += f"\n{line}"
    return found


def of_records(caplog: pytest.LogCaptureFixture, *, least: int = logging.WARNING) -> list[str]:
    """What was logged in this process by the package, from level `least` on."""
    return [
        f"{record.levelname}: {record.getMessage()}"
        for record in caplog.records
        if record.name.startswith("scrapy_supabase") and record.levelno >= least
    ]


def all_messages() -> Iterator[Message]:
    """Every message of every golden file."""
    for path in sorted(GOLDEN.glob("messages_*.txt")):
        for how, messages in _blocks(path).items():
            for message in messages:
                kind, _, text = message.partition(": ")
                yield Message(path.name, how, kind, text)


def _blocks(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    messages: list[str] = []
    for line in path.read_text().splitlines():
        if line.startswith(_HEADING):
            messages = found.setdefault(line.removeprefix(_HEADING), [])
        elif line.startswith(_INDENT):
            messages[-1] += "\n" + line.removeprefix(_INDENT)
        elif line:
            messages.append(line)
    return found


def _block(how: str, messages: list[str]) -> str:
    lines = [message.replace("\n", f"\n{_INDENT}") for message in messages]
    return "\n".join([f"{_HEADING}{how}", *lines, ""])
