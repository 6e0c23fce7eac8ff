"""The parts that messages share: plurals, sentences, commands, and the lines about rows that were not uploaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

NOT_KEPT = "not_kept"
"""The code of rows that were neither uploaded nor kept in a file. They are in the log."""

Examples = Mapping[tuple[str, str], str]
"""(table, code) → the reason for one rejected row."""

OWN_BUG = "bug in scrapy-supabase: please report it with the lines below."


def pluralize(number: float, noun: str) -> str:
    """Return a number with its noun, such as `1 row`, `2 rows` or `0 rows`."""
    return f"{number:g} {noun}" if number == 1 else f"{number:.0f} {noun}s"


def sentence(text: object) -> str:
    """Return a foreign text in one line, with a full stop after each of its lines that has no end mark."""
    lines = (" ".join(line.split()) for line in str(text).splitlines() if line.strip())
    return " ".join(line if line.endswith((".", "?", "!", "…", ":", ";")) else f"{line}." for line in lines)


def reason(error: Exception) -> str:
    """Return an error's text without its number, such as `No space left on device`."""
    return getattr(error, "strerror", None) or str(error)


def kept_rows(number: int, folder: Path) -> str:
    """Return the message about rows left in the spool `folder`, with the command that uploads them."""
    return (
        f"Not uploaded: {pluralize(number, 'row')}, kept in {folder} for the next crawl. "
        f"To upload them now, run: {replay_command(folder)}"
    )


def rows_by_table(rows: Counter[str]) -> str:
    """Return a list such as `5 rows for table t and 1 row for table u`."""
    return " and ".join(f"{pluralize(number, 'row')} for table {table}" for table, number in sorted(rows.items()))


def outdated_rows(rows: Counter[str], folder: Path) -> tuple[str, str]:
    """Return problem and remedy for rows of earlier runs that stay in the spool since newer ones may be stored."""
    rows_there = f"{rows_by_table(rows)} in {folder}"
    problem = f"{rows_there} may be older than the stored rows: a later run stored rows in the same table"
    return problem, choose_mode(folder)


def choose_mode(folder: Path, *options: str) -> str:
    """Return the remedy for rows that may be older than the stored ones: the two commands among which to choose."""
    return (
        f"To replace the stored rows, run: {replay_command(folder, *options, '--mode', 'upsert')}; "
        f"to keep them and add only missing rows, run: {replay_command(folder, *options, '--mode', 'ignore')}"
    )


def other_project(chunks: int, rows: int, project: str, own: str, folder: Path) -> tuple[str, str]:
    """Return problem and remedy for rows of another project in the spool, which no crawl of the project `own` uploads.

    The two names may mean one database: it was reached directly before, and through a pooler now.
    """
    there = f"{pluralize(chunks, 'chunk')} with {pluralize(rows, 'row')} of the project {project or '(none)'}"
    return f"{there} in {folder}; the settings name {own}", same_project(project, folder)


def same_project(project: str, folder: Path, *options: str) -> str:
    """Return the remedy for rows of another project; `options` select them in `replay`."""
    return f"If both names mean one database, run: {replay_command(folder, *options, '--project', project)}"


def rejected_rows(
    number: int, counts: Counter[tuple[str, str]], file: Path | None, examples: Examples | None = None
) -> str:
    """Return the message about rejected rows.

    `counts` has the number of rows per table and code, `examples` the reason of one of them; `file` is the reject file,
    None if all rows are in the log.
    """
    reasons = []
    for kind, count in counts.most_common():
        table, code = kind
        example = (examples or {}).get(kind, "").rstrip(".")
        reasons.append(f"{count} x {code} ({table.strip('()')}){f': {example}' if example else ''}")
    summary = f"Rejected: {pluralize(number, 'row')}: {'; '.join(reasons) if examples else ', '.join(reasons)}."
    logged = sum(count for (_, code), count in counts.items() if code == NOT_KEPT)
    if file is None or logged == number:
        return f"{summary} The log above has each of them."
    each = f"The log above has the {NOT_KEPT} rows. Each of the others" if logged else "Each"
    replay = replay_command(file.parent, "--rejected")
    return f"{summary} {each} is in {file} with its reason. After fixing the table or the rows, run: {replay}"


def replay_command(folder: Path, *options: str) -> str:
    """Return the shell command that uploads the rows of a spool."""
    import shlex  # few crawls need it

    return shlex.join(["scrapy", "supabase", "replay", *options, str(folder)])
