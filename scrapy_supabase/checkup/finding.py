"""Finding: a result of the check, with its level and remedy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """Severity of a finding."""

    OK = "ok"
    WARNING = "warning"  # rows are stored, but perhaps not as intended
    ERROR = "error"  # rows are lost, altered or rejected, or no crawl can start


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check. `subject` groups findings (`settings`, `key`, `server`, `table books`)."""

    level: Level
    subject: str
    text: str
    remedy: str = ""


def ok(subject: str, text: str) -> Finding:
    """Return a finding without a problem."""
    return Finding(Level.OK, subject, text)


def warning(subject: str, text: str, remedy: str = "") -> Finding:
    """Return a finding that stops no crawl."""
    return Finding(Level.WARNING, subject, text, remedy)


def error(subject: str, text: str, remedy: str) -> Finding:
    """Return a finding that must be fixed."""
    return Finding(Level.ERROR, subject, text, remedy)
