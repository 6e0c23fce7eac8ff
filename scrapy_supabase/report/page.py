"""HTML page of the report: one file without scripts and external resources."""

from __future__ import annotations

from pathlib import Path

from scrapy_supabase.monitoring.last_run import LastRun, Rejects, Rows, Sample
from scrapy_supabase.report import charts, words
from scrapy_supabase.report.markup import Markup, join, tag
from scrapy_supabase.report.verdict import ATTENTION, BAD, GOOD, Command, Finding, findings

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_MOST_KINDS_SHOWN = 12  # the others are collapsed
_LONGEST_SUMMARY = 200  # characters
_COLUMNS = (
    *((name, name) for name in ("received", "uploaded")),
    ("inserted", "of these new"),
    ("updated", "updated"),
    ("unchanged", "unchanged"),
    ("superseded", "superseded"),
    ("not_found", "not found"),
    ("rejected", "rejected"),
    ("left", "left in the spool"),
    ("recovered", "earlier runs: uploaded"),
    ("recovered_superseded", "superseded"),
    ("recovered_rejected", "rejected"),
    ("recovered_left", "left"),
    ("recovered_outdated", "left, may be older"),
)
_SIGNS = {
    GOOD: ("OK", "M5 12.5l4.5 4.5L19 7.5"),
    ATTENTION: ("Attention", "M12 6v7.5M12 17.2v.3"),
    BAD: ("Failure", "M7 7l10 10M17 7L7 17"),
}


def page_of(run: LastRun) -> str:
    """Return the report of a run as an HTML document."""
    found = findings(run)
    style = Markup((Path(__file__).parent / "style.css").read_text(encoding="utf-8"))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", f"{run.spider or 'Run'}: {found[0].title}"),
        tag("style", style),
    )
    main = tag(
        "main",
        *(_finding(finding, first=not at) for at, finding in enumerate(found)),
        _figures(run),
        _over_time(run),
        _latency(run),
        _tables(run),
        _rejects(run),
        _errors(run),
        _settings(run),
    )
    return "<!doctype html>\n" + tag("html", head, tag("body", _head(run), main, _foot(run)), lang="en") + "\n"


def _head(run: LastRun) -> Markup:
    ended = f"ended ({run.reason}) after" if run.ended else "not ended; last written after"
    return tag(
        "header",
        tag("p", "Run report", class_="kicker"),
        tag("h1", _foreign(run.spider or "Run"), tag("span", " → ", class_="to"), _foreign(run.project or "?")),
        tag("p", f"Started on {words.moment(run.started)}, {ended} {words.duration(run.seconds)}", class_="when"),
        class_="head",
    )


def _finding(finding: Finding, *, first: bool) -> Markup:
    name, path = _SIGNS[finding.level]
    sign = tag(
        "svg",
        tag("circle", cx=12, cy=12, r=11, fill="none", stroke="currentColor", stroke_width=2),
        tag("path", d=path, fill="none", stroke="currentColor", stroke_width=2.4, stroke_linecap="round"),
        viewBox="0 0 24 24",
        role="img",
        aria_label=name,
    )
    parts = [
        tag("pre", part, tabindex=0) if isinstance(part, Command) else tag("p", part, dir="auto")
        for part in finding.parts
    ]
    body = tag("div", tag("h2", finding.title), *parts, class_="body")
    return tag("div", sign, body, class_=f"finding {finding.level}{' first' if first else ''}")


def _figures(run: LastRun) -> Markup:
    """Return the counts of rows. `Received` is the sum of the others, except `From earlier runs`."""
    total = run.total
    sums = [
        ("Received", total.received),
        ("Uploaded", total.uploaded),
        ("Superseded", total.superseded),
        ("Not found", total.not_found),
        ("Rejected", total.rejected),
        ("Left", total.left),
        ("Not confirmed", total.not_confirmed),
        ("From earlier runs", total.recovered),
    ]
    always = ("Received", "Uploaded", "Rejected", "Left")
    shown = [(name, words.number(rows)) for name, rows in sums if rows or name in always]
    shown.append(("Duration", words.duration(run.seconds)))
    shown.append(("Rows per second", words.rate(total.uploaded + total.recovered, run.seconds)))
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in shown), class_="figures")


def _over_time(run: LastRun) -> Markup:
    if not run.timeline.buckets and not run.total.received:
        return join()
    if not run.timeline.buckets:
        return _section("Rows over time", tag("p", "No chunk was finished in this run.", class_="note"))
    figures = run.figures
    chunks, requests = (words.pluralize(figures.get(f"{noun}s", 0), noun) for noun in ("chunk", "request"))
    notes = [f"{chunks} in {requests}, {words.size(figures.get('bytes', 0))} in total."]
    if pages := run.crawl.get("pages fetched"):
        notes.append(f"{words.pluralize(pages, 'page')} fetched.")
    if (waited := figures.get("waited", 0)) >= 0.1:
        notes.append(f"Items waited {words.duration(waited)} for uploads.")
    if slow := figures.get("slowdowns"):
        notes.append(f"The server was busy {words.pluralize(slow, 'time')}: fewer concurrent uploads for a while.")
    notes.append(_outages(run))
    text = " ".join(notes).strip()
    legend = _legend(("uploaded", "uploaded"), ("rejected", "rejected"), ("retries", "retries"), ("errors", "errors"))
    return _section("Rows over time", tag("p", text, class_="note"), charts.over_time(run), legend)


def _outages(run: LastRun) -> str:
    if not run.outage_count:
        return "The server was unreachable when this page was written." if run.offline else ""
    longest = max(run.outages, key=lambda outage: outage.seconds)
    if run.outage_count == 1:
        when = f"{words.duration(longest.start)} after the start"
        return f"The server was unreachable for {words.duration(run.outage_seconds)}, {when}."
    return (
        f"The server was unreachable {words.pluralize(run.outage_count, 'time')}, {words.duration(run.outage_seconds)} "
        f"in total, at most {words.duration(longest.seconds)} at a time."
    )


def _latency(run: LastRun) -> Markup:
    latency = run.latency
    if not latency.number:
        return join()
    p50, p95, p99 = map(latency.quantile, (0.5, 0.95, 0.99))
    text = (
        f"Half of all {words.pluralize(latency.number, 'chunk')} took {words.duration(p50)} or less, 95 % "
        f"{words.duration(p95)}, 99 % {words.duration(p99)}; the slowest {words.duration(latency.longest)}."
    )
    if latency.number == 1:
        text = f"The only chunk took {words.duration(latency.longest)}."
    text = f"The time from a chunk's first request to its last answer, including retries and waits. {text}"
    return _section("How long chunks took", tag("p", text, class_="note"), charts.latency(latency))


def _tables(run: LastRun) -> Markup:
    if not run.tables:
        return join()
    columns = [
        (name, title) for name, title in _COLUMNS if name in ("received", "uploaded") or getattr(run.total, name)
    ]
    listed = sorted(run.tables.items(), key=lambda each: (-each[1].received - each[1].recovered, each[0]))
    most = max(rows.uploaded + rows.rejected + rows.left for _, rows in listed)
    head = tag(
        "tr",
        tag("th", "Table", scope="col"),
        *(tag("th", title, scope="col", class_="number") for _, title in columns),
        tag("th", "Share", scope="col", class_="bar"),
    )
    body = [
        tag(
            "tr",
            tag("th", _foreign(table or "(from earlier runs)"), scope="row"),
            *(tag("td", words.number(getattr(rows, name)), class_="number") for name, _ in columns),
            tag("td", _share(rows, most), class_="bar"),
        )
        for table, rows in listed
    ]
    return _section("Tables", _scrolled("Rows of each table", tag("table", tag("thead", head), tag("tbody", *body))))


def _share(rows: Rows, most: int) -> Markup | None:
    if not most:
        return None
    at, parts = 0.0, []
    for name in ("uploaded", "rejected", "left"):
        width = 100 * getattr(rows, name) / most
        if width:
            parts.append(tag("rect", x=at, y=0, width=max(width, 0.7), height=6, class_=name))
            at += width
    described = f"{rows.uploaded:,} uploaded, {rows.rejected:,} rejected, {rows.left:,} left"
    return tag("svg", *parts, viewBox="0 0 100 6", preserveAspectRatio="none", role="img", aria_label=described)


def _rejects(run: LastRun) -> Markup:
    if not run.rejects:
        return join()
    kinds = sorted(run.rejects, key=lambda kind: -kind.rows)
    drawn = [_kind(kind, opened=not at) for at, kind in enumerate(kinds)]
    shown, folded = drawn[:_MOST_KINDS_SHOWN], drawn[_MOST_KINDS_SHOWN:]
    if folded:
        rows = sum(kind.rows for kind in kinds[_MOST_KINDS_SHOWN:])
        title = _summary(rows, tag("b", f"{len(folded)} more kinds"))
        shown.append(tag("details", title, *folded, class_="more"))
    others = f" {words.pluralize(run.other_rejects, 'row')} of other kinds are not listed." if run.other_rejects else ""
    text = (
        "By table and code, with the server's message and up to three rows each. Long values are shortened, and values "
        f"that look like passwords or keys are hidden. The reject file has the complete rows.{others}"
    )
    return _section("Rejected rows", tag("p", text, class_="note"), *shown)


def _kind(kind: Rejects, *, opened: bool) -> Markup:
    message = kind.samples[0].message if kind.samples else ""
    if len(message) > _LONGEST_SUMMARY:
        message = f"{message[:_LONGEST_SUMMARY]}…"  # the sample has the full message
    why = [tag("b", kind.code), " · ", tag("b", _foreign(kind.table)), " · " if message else None, _foreign(message)]
    title = _summary(kind.rows, *why)
    return tag("details", title, *(_sample(one, message) for one in kind.samples), open="" if opened else None)


def _summary(rows: int, *why: str | None) -> Markup:
    return tag(
        "summary", tag("span", words.number(rows), "\u00a0\u00d7", class_="many"), tag("span", *why, class_="why")
    )


def _sample(sample: Sample, summary: str) -> Markup:
    message = sample.message if sample.message != summary else None
    texts = [message, sample.details, f"Hint: {sample.hint}" if sample.hint else None]
    rows = [
        tag("tr", tag("th", _foreign(name), scope="row"), tag("td", value, dir="auto"))
        for name, value in sample.row.items()
    ]
    body = tag("table", tag("tbody", *rows)) if rows else None
    return tag("div", *(tag("p", text, dir="auto") for text in texts if text), body, class_="sample")


def _errors(run: LastRun) -> Markup:
    if not run.errors:
        return join()
    rows = [
        tag("tr", tag("th", tag("code", _foreign(code)), scope="row"), tag("td", words.number(times), class_="number"))
        for code, times in sorted(run.errors.items(), key=lambda each: -each[1])
    ]
    head = tag("tr", tag("th", "Code", scope="col"), tag("th", "Answers", scope="col", class_="number"))
    text = (
        "Error answers by SQLSTATE, PostgREST's code or HTTP status. A retry, or splitting the chunk, resolves most of "
        "them."
    )
    table = tag("table", tag("thead", head), tag("tbody", *rows), class_="slim")
    return _section("Errors", tag("p", text, class_="note"), _scrolled("Errors by code", table))


def _settings(run: LastRun) -> Markup:
    settings = {**run.settings, "SUPABASE_SPOOL_DIR": run.spool or "None"}
    rows = [
        tag("tr", tag("th", _foreign(name), scope="row"), tag("td", _foreign(value)))
        for name, value in settings.items()
    ]
    return _section("Settings in force", _scrolled("Settings", tag("table", tag("tbody", *rows), class_="settings")))


def _foot(run: LastRun) -> Markup:
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    crawl = ", ".join(f"{name} {words.number(count)}" for name, count in run.crawl.items() if count)
    return tag(
        "footer",
        tag("p", f"Run {run.run}. Written on {words.moment(run.written)} by {versions}."),
        tag("p", f"Scrapy's counts: {crawl}.") if crawl else None,
    )


def _section(title: str, *parts: Markup) -> Markup:
    return tag("section", tag("h2", title), *parts)


def _scrolled(name: str, table: Markup) -> Markup:
    """Return a scrollable container, because a table may be wider than a phone's screen."""
    return tag("div", table, class_="scroll", role="region", aria_label=name, tabindex=0)


def _legend(*kinds: tuple[str, str]) -> Markup:
    def one(kind: str, name: str) -> Markup:
        swatch = tag(
            "svg", tag("rect", width=12, height=12, rx=2, class_=kind), viewBox="0 0 12 12", aria_hidden="true"
        )
        return tag("li", swatch, name)

    return tag("ul", *(one(*kind) for kind in kinds), class_="legend")


def _foreign(text: str) -> Markup:
    """Return foreign text in isolation, so that right-to-left text does not reorder the text around it."""
    return tag("bdi", text)
