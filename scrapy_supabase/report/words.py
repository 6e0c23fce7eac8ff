"""Human-readable numbers, times and sizes."""

from __future__ import annotations

from datetime import UTC, datetime


def number(value: float) -> str:
    """Format a number, such as `1,234,567`."""
    return f"{value:,.0f}"


def pluralize(value: float, noun: str) -> str:
    """Format a count and its noun, such as `1 row` or `2,000 rows`."""
    return f"{number(value)} {noun}{'' if value == 1 else 's'}"


def rate(rows: float, seconds: float) -> str:
    """Format rows per second, such as `1,234`, `2.5` or `0.025`."""
    value = rows / max(seconds, 0.001)
    return number(value) if value >= 10 or not value else f"{value:.2g}"


def duration(seconds: float) -> str:
    """Format a duration, such as `4 ms`, `1.2 s`, `12 min 5 s` or `2 d 4 h`, with no-break spaces before units."""
    if seconds < 0.9995:
        return _of(f"{1000 * seconds:.2g}" if seconds < 0.00995 else f"{1000 * seconds:.0f}", "ms")
    if seconds < 59.95:
        return _of(f"{seconds:.3g}", "s")
    whole = round(seconds)
    for large, small, length, parts in (("d", "h", 86400, 24), ("h", "min", 3600, 60), ("min", "s", 60, 60)):
        if whole >= length:
            rest = whole % length * parts // length
            return _of(whole // length, large) + (f" {_of(rest, small)}" if rest else "")
    return _of(whole, "s")


def unit_of(seconds: float) -> tuple[float, str]:
    """Return the unit for the axis of a chart that goes up to `seconds`: its length in seconds, and its name."""
    for length, name, least in ((86400.0, "d", 172800), (3600.0, "h", 7200), (60.0, "min", 120), (1.0, "s", 1)):
        if seconds > least:
            return length, name
    return 0.001, "ms"


def in_unit(seconds: float, unit: tuple[float, str]) -> str:
    """Format a duration in a unit, such as `0.5 min` or `0.074 s`."""
    length, name = unit
    value = seconds / length
    digits = 3 if value >= 0.1 else 2
    return _of(number(value) if value >= 1000 else f"{float(f'{value:.{digits}g}'):g}", name)


def size(number_of_bytes: float) -> str:
    """Format a size, such as `512 B`, `1.5 KiB` or `20 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number_of_bytes < 1024 or unit == "GiB":
            break
        number_of_bytes /= 1024
    return _of(f"{number_of_bytes:.0f}" if unit == "B" or number_of_bytes >= 10 else f"{number_of_bytes:.1f}", unit)


def moment(text: str) -> str:
    """Format an ISO 8601 time as `24 November 2026, 21:56:03 UTC`."""
    when = datetime.fromisoformat(text).astimezone(UTC)
    return f"{when.day} {when:%B %Y, %H:%M:%S} UTC"


def _of(value: object, unit: str) -> str:
    return f"{value}\u00a0{unit}"
