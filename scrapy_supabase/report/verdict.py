"""How a run went, in plain words, the worst first; and what to type."""

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
    """What can be pasted into a shell or an SQL editor."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence in large type, and what follows in small type."""

    level: str
    title: str
    parts: tuple[str, ...] = ()


def findings(run: LastRun) -> list[Finding]:
    """All there is to say; the first is the verdict."""
    total = run.total
    found = [*_not_ended(run), *_fatal(run), *_left(run), *_rejected(run), *_outdated(run)]
    if run.reason not in (None, "finished") and run.fatal is None:
        found.append(
            Finding(
                ATTENTION,
                f"The crawl was ended early ({run.reason}).",
                ("What it had scraped by then is accounted for here.",),
            )
        )
    if exceptions := run.crawl.get("exceptions in the spider"):
        found.append(
            Finding(
                ATTENTION,
                f"The spider raised {pluralize(exceptions, 'exception')}.",
                ("The items that it would have scraped are missing. The tracebacks are in the crawl's log.",),
            )
        )
    if not any(finding.level == BAD for finding in found) and not total.rejected + total.recovered_rejected:
        found.insert(0, _all_is_well(run))
    return found


def with_commands(text: str) -> tuple[str, ...]:
    """A remedy in parts, those that are SQL as `Command`."""
    parts: list[str] = []
    end = 0
    for found in _SQL.finditer(text):
        parts += [text[end : found.start()].strip(), Command(found[0].strip())]
        end = found.end()
    return tuple(part for part in (*parts, text[end:].strip()) if part)


def _all_is_well(run: LastRun) -> Finding:
    total = run.total
    earlier = (
        f" Of earlier runs, {pluralize(total.recovered, 'row')} {_was(total.recovered)} uploaded, too."
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
        f" {pluralize(total.superseded, 'row')} {_was(total.superseded)} replaced by a newer one of the same key "
        "before an upload."
        if total.superseded
        else ""
    )
    more = ((replaced + earlier).strip(),) if replaced or earlier else ()
    if total.received == 1:
        return Finding(GOOD, "The only row is in its table.", more)
    where = "table" if sum(rows.received > 0 for rows in run.tables.values()) == 1 else "tables"
    return Finding(GOOD, f"All {pluralize(total.received, 'row')} are in the {where}.", more)


def _not_ended(run: LastRun) -> list[Finding]:
    if run.ended is not None:
        return []
    gone = " The server was gone then." if run.offline else ""
    kept = (
        " What the server had not confirmed is in the spool: the next crawl uploads it, or you do:"
        if run.spool
        else " There was no spool: what was not uploaded by then is lost, unless the crawl is still running."
    )
    return [
        Finding(
            BAD,
            "This run did not end.",
            (
                f"It was killed, or it is still running. This is what was known on {moment(run.written)}.{gone}{kept}",
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
    text = f"Nothing is lost: {it} in {run.spool}. The next crawl uploads {them}, or you do:"
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
        f"{it[0].upper()}{it[1:]} in {Path(run.spool) / REJECTED}, with the reasons, which are below. When "
        "the table, or the rows in the file, are mended:"
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
                "What is stored may be newer: a later run stored rows in the same table. To replace what is stored:",
                Command(f"scrapy supabase replay --mode upsert {quote(run.spool)}"),
                "To keep it and add only missing rows:",
                Command(f"scrapy supabase replay --mode ignore {quote(run.spool)}"),
            ),
        )
    ]


def _was(rows: int) -> str:
    return "was" if rows == 1 else "were"


def number_of(rows: int) -> str:
    """`1 is`, `2 are`."""
    return f"{rows:,} {'is' if rows == 1 else 'are'}"


_SQL = re.compile(r"(?:(?:GRANT|CREATE|ALTER|NOTIFY)\s[^;]*;\s*)+")
