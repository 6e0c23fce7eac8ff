"""Stamps: values that the pipeline adds to each row, such as the run's id or the time."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any, Protocol

Stamp = Callable[[Any, str], Any]  # item and table → value of a stamped column


class RunFacts(Protocol):
    """The facts of a run that stamps use; `monitoring.run.Run` has them."""

    id: str
    spider: str
    snapshot_date: date
    snapshot_version: int

    def next_row_id(self, table: str) -> uuid.UUID:
        """Return the id of the table's next row."""


def hashed_fields(stamp: str) -> tuple[str, ...] | None:
    """Return the fields of a stamp `hash(field, …)`; None for any other stamp."""
    if not (stamp.startswith("hash(") and stamp.endswith(")")):
        return None
    return tuple(part.strip() for part in stamp[5:-1].split(","))


def stamps_of(run: RunFacts) -> dict[str, Stamp]:
    """Return name → stamp, for the stamps that need no crawl."""

    def now(*_: Any) -> datetime:
        return datetime.now(UTC)

    return {
        "run_id": lambda *_: run.id,
        "row_id": lambda _, table: run.next_row_id(table),
        "now": now,
        "hour": lambda *_: now().replace(minute=0, second=0, microsecond=0),
        "date": lambda *_: now().date(),
        "snapshot_date": lambda *_: run.snapshot_date,
        "snapshot_version": lambda *_: run.snapshot_version,
        "spider": lambda *_: run.spider,
    }
