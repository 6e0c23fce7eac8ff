"""The result of an upload by a script."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Self

from scrapy_supabase.errors import FatalError
from scrapy_supabase.models import Rejection
from scrapy_supabase.monitoring.counters import Counters


@dataclass
class UploadResult:
    """The result of an upload. It is true if no row failed or is left.

    * `uploaded`: the number of rows stored.
    * `failed`: the number of rows not stored. `rejected` has each of them, as JSON, with the reason, and `reasons`
      their numbers by table and code.
    * `left`: the number of rows left in the spool, where there is one.
    * `superseded`: the number of rows not sent, since a later row of the same chunk has the same key.
    * `not_found`: the number of rows not stored because their key is not in the table (mode `update`).
    * `cleaned`: the number of rows that lost characters that PostgreSQL cannot store.
    * `error`: the error that ended the upload early, or None. Rows after it were not read.
    * `seconds`: wall time. `chunk_seconds` is the sum over all chunks.
    """

    uploaded: int = 0
    failed: int = 0
    left: int = 0
    superseded: int = 0
    not_found: int = 0
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
        """Return the current counts, rows of earlier runs included. `rejected` is left empty."""
        rows, effort = counters.totals, counters.effort
        return cls(
            uploaded=rows["uploaded"] + rows["recovered"],
            failed=rows["failed"] + rows["recovered_failed"],
            left=rows["spooled"] + rows["recovered_spooled"],
            superseded=rows["superseded"] + rows["recovered_superseded"],
            not_found=rows["not_found"] + rows["recovered_not_found"],
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
        """The mean duration of a chunk's upload in seconds, retries and waits included."""
        return self.chunk_seconds / self.chunks if self.chunks else 0.0

    def __bool__(self) -> bool:
        return not self.failed and not self.left and self.error is None
