"""One line of a check: what was looked at, how it is, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How something is."""

    OK = "ok"
    WARNING = "warning"  # rows are stored, though perhaps not as they should be
    ERROR = "error"  # rows are lost, altered or refused, or nothing works


@dataclass(frozen=True, slots=True)
class Finding:
    """`subject` groups lines (`settings`, `key`, `server`, `table books`); `remedy` says what to do or type."""

    level: Level
    subject: str
    text: str
    remedy: str = ""


def ok(subject: str, text: str) -> Finding:
    """It is as it should be."""
    return Finding(Level.OK, subject, text)


def warning(subject: str, text: str, remedy: str = "") -> Finding:
    """It works, and should be looked at."""
    return Finding(Level.WARNING, subject, text, remedy)


def error(subject: str, text: str, remedy: str) -> Finding:
    """It does not work."""
    return Finding(Level.ERROR, subject, text, remedy)
