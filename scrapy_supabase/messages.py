"""How messages put numbers, sentences and commands into words."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

NOT_KEPT = "not_kept"
"""The code of rows that were neither uploaded nor kept in a file: the log has them."""

OWN_FAULT = "fault of scrapy-supabase itself: please report it with the lines below."


def pluralize(number: float, noun: str) -> str:
    """`1 row`, `2 rows`, `0 rows`."""
    return f"{number:g} {noun}" if number == 1 else f"{number:.0f} {noun}s"


def sentence(text: object) -> str:
    """Return words of somebody else, in one line, each of their lines with a full stop where it has none."""
    lines = (" ".join(line.split()) for line in str(text).splitlines() if line.strip())
    return " ".join(line if line.endswith((".", "?", "!", "…", ":", ";")) else f"{line}." for line in lines)


def reason(error: Exception) -> str:
    """Return what the system says, without its number; `No space left on device`."""
    return getattr(error, "strerror", None) or str(error)


def kept_rows(number: int, folder: Path) -> str:
    """Say where rows are that were not uploaded, and what uploads them."""
    return (
        f"Not uploaded: {pluralize(number, 'row')}, kept in {folder} for the next crawl. "
        f"To upload without one, run: {replay_command(folder)}"
    )


def rows_by_table(rows: Counter[str]) -> str:
    """`5 rows for table t`, `5 rows for table t and 1 row for table u`."""
    return " and ".join(f"{pluralize(number, 'row')} for table {table}" for table, number in sorted(rows.items()))


def outdated_rows(rows: Counter[str], folder: Path) -> tuple[str, str]:
    """Say which rows of earlier runs stay in the spool because newer ones may be stored, and what uploads them."""
    text = (
        f"{rows_by_table(rows)} in {folder} may be older than what is stored: a later run stored rows in the same table"
    )
    return text, (
        f"To replace what is stored, run: {replay_command(folder, '--mode', 'upsert')}; "
        f"to keep it and add only missing rows, run: {replay_command(folder, '--mode', 'ignore')}"
    )


def rejected_rows(number: int, counts: Counter[tuple[str, str]], file: Path | None) -> str:
    """Say where rejected rows are (`file`, or None: in the log), and the count of each reason (table and code)."""
    reasons = ", ".join(f"{each} x {code} ({table.strip('()')})" for (table, code), each in counts.most_common())
    what = f"Rejected: {pluralize(number, 'row')}: {reasons}."
    logged = sum(each for (_, code), each in counts.items() if code == NOT_KEPT)
    if file is None or logged == number:
        return f"{what} The log above has each of them."
    each = f"The log above has the {NOT_KEPT} rows. Each of the others" if logged else "Each"
    again = replay_command(file.parent, "--rejected")
    return f"{what} {each} is in {file} with its reason. When the table or the rows are mended, run: {again}"


def replay_command(folder: Path, *options: str) -> str:
    """Return the command that uploads what is in a spool: to be pasted into a shell."""
    import shlex  # only where something is left

    return shlex.join(["scrapy", "supabase", "replay", *options, str(folder)])
