"""Ranges of rows: `limit`, `offset`, the `Range` header and the server's maximum, in PostgREST's arithmetic."""

from __future__ import annotations

import re
from dataclasses import dataclass

from scrapy_supabase.local.gateway.errors import ApiError

MAX_ROWS = 1000  # Supabase's `db-max-rows`


@dataclass(frozen=True, slots=True)
class Range:
    """Range of rows from `lower` to `upper` (from 0). `upper` None: to the last row; below `lower`: no row."""

    lower: int = 0
    upper: int | None = None

    @property
    def empty(self) -> bool:
        """Return whether the range has no row."""
        return self.upper is not None and self.upper < self.lower

    @property
    def limit(self) -> int:
        """Return the most rows of the range, or None."""
        most = self.lower + MAX_ROWS - 1
        return 1 + (most if self.upper is None else min(self.upper, most)) - self.lower


ALL = Range()
_NONE = Range(0, -1)  # of `limit=0`, the only empty range that is allowed


def limit_range(pairs: list[tuple[str, str]]) -> Range:
    """Return the range of `limit` and `offset`; values that are not numbers are ignored."""
    values = dict(pairs)
    limit, offset = _number(values.get("limit")), _number(values.get("offset"))
    if "limit" in values and "offset" in values:
        lower = offset or 0
        return Range(lower, lower + (limit or 0) - 1)
    if limit is not None:
        return Range(0, limit - 1)
    return Range(offset or 0)


def top_range(method: str, limits: Range, header: str | None) -> Range:
    """Return the requested range; the `Range` header counts only with GET. Raises `ApiError`."""
    headed = _header_range(header) if method == "GET" and header else ALL
    zero = limits.upper == -1
    found = _NONE if zero else _both(headed, limits)
    if found.empty and not zero:
        details = "Limit should be greater than or equal to zero."
        if headed.empty:
            details = "The lower boundary must be lower than or equal to the upper boundary in the Range header."
        raise ApiError(416, "PGRST103", "Requested range not satisfiable", details=details)
    if method == "PUT" and found != ALL:
        raise ApiError(400, "PGRST114", "limit/offset querystring parameters are not allowed for PUT")
    return found


def content_range(lower: int, upper: int, total: int | None) -> dict[str, str]:
    """Return the header `content-range`: `0-9/*`, or `*/3` without rows."""
    shown = "*" if total is None else str(total)
    return {"content-range": f"{lower}-{upper}/{shown}" if total != 0 and lower <= upper else f"*/{shown}"}


def _header_range(header: str) -> Range:
    found = re.fullmatch(r"([0-9]{1,18})-([0-9]{0,18})", header)
    return Range(int(found[1]), int(found[2]) if found[2] else None) if found else ALL


def _both(one: Range, other: Range) -> Range:
    if one.empty or other.empty:
        return Range(1, 0)
    uppers = [upper for upper in (one.upper, other.upper) if upper is not None]
    return Range(max(one.lower, other.lower), min(uppers, default=None))


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"\s*-?[0-9]{1,30}\s*", text) else None
