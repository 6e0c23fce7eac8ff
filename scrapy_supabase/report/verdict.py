"""Findings of the report: what went wrong in a run, the worst first, with the commands that fix it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from scrapy_supabase.messages import NOT_KEPT
from scrapy_supabase.monitoring.last_run import LastRun
from scrapy_supabase.report.words import moment, pluralize
from scrapy_supabase.spool.reject_file import REJECTED

GOOD, ATTENTION, BAD = "good", "attention", "bad"


class Command(str):
    """Text to paste into a shell or an SQL editor."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """Sentence in large type, and parts in small type below it."""

    level: str
    title: str
    parts: tuple[str, ...] = ()


def findings(run: LastRun) -> list[Finding]:
    """Return the findings about a run; the first is the verdict."""
    total = run.total
    found = [*_not_ended(run), *_fatal(run), *_left(run), *_rejected(run), *_outdated(run)]
    if run.reason not in (None, "finished") and run.fatal is None:
        found.append(
            Finding(
                ATTENTION,
                f"The crawl was ended early ({run.reason}).",
                ("This page covers the rows that it had scraped by then.",),
            )
        )
    if exceptions := run.crawl.get("exceptions in the spider"):
        found.append(
            Finding(
                ATTENTION,
                f"The spider raised {pluralize(exceptions, 'exception')}.",
                ("Items may be missing. The tracebacks are in the crawl's log.",),
            )
        )
    if not any(finding.level == BAD for finding in found) and not total.rejected + total.recovered_rejected:
        found.insert(0, _good(run))
    return found


def with_commands(text: str) -> tuple[str, ...]:
    """Split a remedy into parts; parts that are SQL are a `Command`."""
    parts: list[str] = []
    end = 0
    for found in _SQL.finditer(text):
        parts += [text[end : found.start()].strip(), Command(found[0].strip())]
        end = found.end()
    return tuple(part for part in (*parts, text[end:].strip()) if part)


def _good(run: LastRun) -> Finding:
    total = run.total
    earlier = (
        f" {pluralize(total.recovered, 'row')} from earlier runs {_was(total.recovered)} uploaded, too."
        if total.recovered
        else ""
    )
    if not total.received:
        pages = run.crawl.get("pages fetched", 0)
        return Finding(
            GOOD if total.recovered else ATTENTION,
            "No rows were scraped.",
            (f"The spider fetched {pluralize(pages, 'page')} and yielded no items.{earlier}",),
        )
    replaced = (
        f" {pluralize(total.superseded, 'row')} {_was(total.superseded)} superseded by a newer row of the same key "
        "before the upload."
        if total.superseded
        else ""
    )
    more = ((replaced + earlier).strip(),) if replaced or earlier else ()
    if total.received == 1:
        return Finding(GOOD, "The only row is in its table.", more)
    tables = "table" if sum(rows.received > 0 for rows in run.tables.values()) == 1 else "tables"
    return Finding(GOOD, f"All {pluralize(total.received, 'row')} are in the {tables}.", more)


def _not_ended(run: LastRun) -> list[Finding]:
    if run.ended is not None:
        return []
    outage = " The server was unreachable then." if run.offline else ""
    kept = (
        " Rows that the server had not confirmed are in the spool. The next crawl uploads them. To upload them now, "
        "run:"
        if run.spool
        else " There was no spool: rows that were not uploaded by then are lost, unless the crawl is still running."
    )
    return [
        Finding(
            BAD,
            "This run did not end.",
            (
                f"It was killed, or is still running. This is its state on {moment(run.written)}.{outage}{kept}",
                *((Command(f"scrapy supabase replay {quote(run.spool)}"),) if run.spool else ()),
            ),
        )
    ]


def _fatal(run: LastRun) -> list[Finding]:
    if run.fatal is None:
        return []
    title = f"The crawl was closed: {run.fatal.reason}."
    return [Finding(BAD, title, (run.fatal.words, *with_commands(run.fatal.remedy)))]


def _left(run: LastRun) -> list[Finding]:
    left = run.total.left + run.total.recovered_left
    if not left:
        return []
    verb, it, them = ("is", "it is", "it") if left == 1 else ("are", "they are", "them")
    title = f"{pluralize(left, 'row')} {verb} not uploaded."
    text = f"Nothing is lost: {it} in {run.spool}. The next crawl uploads {them}. To upload {them} now, run:"
    return [Finding(BAD, title, (text, Command(f"scrapy supabase replay {quote(run.spool or '')}")))]


def _rejected(run: LastRun) -> list[Finding]:
    total = run.total
    rejected = total.rejected + total.recovered_rejected
    if not rejected:
        return []
    it = "it is" if rejected == 1 else "they are"
    title = f"{pluralize(rejected, 'row')} {_was(rejected)} rejected"
    others = total.uploaded + total.recovered
    rest = f"; the other {number_of(others)} in the tables." if others else "."
    if not run.spool:
        return [Finding(ATTENTION, title + rest, (f"There is no spool: {it} in the crawl's log, with the reasons.",))]
    logged = sum(kind.rows for kind in run.rejects if kind.code == NOT_KEPT)
    if logged == rejected:
        text = f"The spool could not be written, and the server did not answer: {it} in the crawl's log."
        return [Finding(ATTENTION, title + rest, (text,))]
    if logged:
        it = f"The log has {logged} that could not be written to the spool; the others are"
    text = (
        f"{it[0].upper()}{it[1:]} in {Path(run.spool) / REJECTED}, with the reasons that are listed below. After "
        "fixing the table, or the rows in the file, run:"
    )
    return [Finding(ATTENTION, title + rest, (text, Command(f"scrapy supabase replay --rejected {quote(run.spool)}")))]


def _outdated(run: LastRun) -> list[Finding]:
    rows = run.total.recovered_outdated
    if not rows or not run.spool:
        return []
    return [
        Finding(
            ATTENTION,
            f"{pluralize(rows, 'row')} of earlier runs {_was(rows)} not uploaded.",
            (
                "The stored rows may be newer: a later run stored rows in the same table. To replace them, run:",
                Command(f"scrapy supabase replay --mode upsert {quote(run.spool)}"),
                "To keep them and add only missing rows, run:",
                Command(f"scrapy supabase replay --mode ignore {quote(run.spool)}"),
            ),
        )
    ]


def _was(rows: int) -> str:
    return "was" if rows == 1 else "were"


def number_of(rows: int) -> str:
    """Return a number and its verb: `1 is`, `2 are`."""
    return f"{rows:,} {'is' if rows == 1 else 'are'}"


_SQL = re.compile(r"(?:(?:GRANT|CREATE|ALTER|NOTIFY)\s[^;]*;\s*)+")
