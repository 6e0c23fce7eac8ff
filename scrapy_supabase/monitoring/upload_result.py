"""What a script learns of its upload."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Self

from scrapy_supabase.errors import FatalError
from scrapy_supabase.models import Rejection
from scrapy_supabase.monitoring.counters import Counters


@dataclass
class UploadResult:
    """What became of the rows. True where every one is in the table.

    `failed` rows are not stored; `rejected` holds each of them, as JSON, with the reason. `error` is what ended the
    upload early: the rows after it were not read. `superseded` counts rows followed by another with the same key in
    the same chunk, `cleaned` those that lost characters which PostgreSQL cannot store, `reasons` failed rows by table
    and code. `seconds` are wall time, `chunk_seconds` the sum over chunks.
    """

    uploaded: int = 0
    failed: int = 0
    left: int = 0  # in the spool, where there is one
    superseded: int = 0
    cleaned: int = 0
    rejected: list[Rejection] = field(default_factory=list)
    error: FatalError | None = None
    seconds: float = 0.0
    chunks: int = 0
    failed_chunks: int = 0
    requests: int = 0
    retries: int = 0
    chunk_seconds: float = 0.0
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter, repr=False)

    @classmethod
    def of(cls, counters: Counters, error: FatalError | None, seconds: float) -> Self:
        """Return what is counted now, rows of earlier runs included. `rejected` is left empty."""
        rows, effort = counters.totals, counters.effort
        return cls(
            uploaded=rows["uploaded"] + rows["recovered"],
            failed=rows["failed"] + rows["recovered_failed"],
            left=rows["spooled"] + rows["recovered_spooled"],
            superseded=rows["superseded"] + rows["recovered_superseded"],
            cleaned=rows["cleaned"],
            error=error,
            seconds=seconds,
            chunks=counters.outcomes,
            failed_chunks=len(counters.failed_chunks),
            requests=effort.requests,
            retries=effort.retries,
            chunk_seconds=effort.seconds,
            reasons=Counter(counters.rejected_by_code),
        )

    @property
    def average_chunk_seconds(self) -> float:
        """How long a chunk took, retries and waits included."""
        return self.chunk_seconds / self.chunks if self.chunks else 0.0

    def __bool__(self) -> bool:
        return not self.failed and not self.left and self.error is None
