"""Charts of the report as SVG: rows over time, and latency of chunks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from scrapy_supabase.monitoring.histogram import Histogram, begin_of
from scrapy_supabase.monitoring.last_run import LastRun
from scrapy_supabase.report.markup import Markup, join, tag
from scrapy_supabase.report.words import duration, in_unit, number, pluralize, unit_of

WIDE, NARROW = 860, 330  # pixels; text does not scale, so phones get their own chart
_SHORTEST = 10.0  # seconds on the time axis, so that the bars of short runs are not as wide as the plot
_LEAST_BINS = 24  # on the latency axis, for the same reason
_LABEL = 100  # pixels for a text such as `p99 987 ms`
_LANE = 20  # pixels: height of a lane below the plot
_QUANTILES = (0.5, 0.95, 0.99)
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)


@dataclass(frozen=True, slots=True)
class Frame:
    """Position of the plot in the picture, and of values in the plot."""

    width: int
    height: int
    most_x: float
    most_y: float
    left: int = 52
    top: int = 14
    right: int = 12

    @property
    def floor(self) -> int:
        """Return the y of zero."""
        return self.top + self.height

    @property
    def end(self) -> int:
        """Return the x of the plot's right edge."""
        return self.width - self.right

    def x(self, value: float) -> float:
        """Return the position of a value on the x axis."""
        return self.left + (self.end - self.left) * min(value / self.most_x, 1.0)

    def y(self, value: float) -> float:
        """Return the position of a value on the y axis."""
        return self.floor - self.height * value / self.most_y


def both(draw: Iterable[tuple[str, Markup]]) -> Markup:
    """Return a chart in both widths, one of which the style sheet hides."""
    return join(*(tag("div", chart, class_=f"chart {name}") for name, chart in draw))


def over_time(run: LastRun) -> Markup:
    """Draw rows per second, and on the same time axis retries, errors and outages."""
    return both((name, _over_time(run, width)) for name, width in (("wide", WIDE), ("narrow", NARROW)))


def latency(histogram: Histogram) -> Markup:
    """Draw the number of chunks by latency on a logarithmic scale, with p50, p95 and p99."""
    return both((name, _latency(histogram, width)) for name, width in (("wide", WIDE), ("narrow", NARROW)))


def _over_time(run: LastRun, width: int) -> Markup:
    line = run.timeline.coarser(240 if width == WIDE else 80)
    seconds, counts = line.seconds, line.counts
    stacked = [
        (counts["uploaded"][at : at + 1] or [0])[0] + (counts["rejected"][at : at + 1] or [0])[0]
        for at in range(line.buckets)
    ]
    most_y = _round_up(max(stacked, default=0) / seconds)
    frame = Frame(width, 190, max(run.seconds, line.buckets * seconds, _SHORTEST), most_y, top=30)
    lanes = [(kind, frame.floor + 26 + (_LANE + 10) * at) for at, kind in enumerate(("retries", "errors"))]
    bottom = lanes[-1][1] + _LANE
    parts: list[Markup] = [*_outages(run, frame, bottom), *_levels(frame)]
    for at in range(line.buckets):
        base = 0.0
        for kind in ("uploaded", "rejected"):
            rows = (counts[kind][at : at + 1] or [0])[0]
            if rows:
                bar = (at * seconds, (at + 1) * seconds, base, base + rows / seconds)
                parts.append(_bar(frame, *bar, kind, f"{_span(at, seconds)}: {pluralize(rows, 'row')} {kind}"))
                base += rows / seconds
    for kind, y in lanes:
        parts.append(tag("text", kind, x=frame.left - 8, y=y + _LANE - 3, text_anchor="end", class_="label"))
        parts.append(tag("line", x1=frame.left, x2=frame.end, y1=y + _LANE, y2=y + _LANE, class_="grid"))
        for at, times in enumerate(counts[kind]):
            if times:
                noun = {"retries": "retry", "errors": "error"}[kind]
                noun = noun if times == 1 else kind
                title = f"{_span(at, seconds)}: {times:,} {noun}"
                x, wide = frame.x(at * seconds), frame.x((at + 1) * seconds) - frame.x(at * seconds)
                high = max(_LANE * times / max(counts[kind]), 3)
                parts.append(
                    tag(
                        "rect",
                        tag("title", title),
                        x=x,
                        y=y + _LANE - high,
                        width=max(wide - 0.5, 2.5),
                        height=high,
                        class_=kind,
                    )
                )
    parts.append(tag("text", "rows per second", x=0, y=12, class_="label"))
    parts.extend(_time_axis(frame, bottom, 7 if width == WIDE else 4))
    return _picture(width, bottom + 24, _described(run), parts)


def _outages(run: LastRun, frame: Frame, bottom: int) -> Iterator[Markup]:
    yield tag(
        "defs",
        tag(
            "pattern",
            tag("rect", width=8, height=8, class_="outage"),
            tag("line", x1=0, y1=0, x2=0, y2=8, class_="hatch"),
            id=f"outage{frame.width}",
            width=8,
            height=8,
            patternUnits="userSpaceOnUse",
            patternTransform="rotate(45)",
        ),
    )
    free_from = 0.0
    for outage in run.outages:
        x, end = frame.x(outage.start), frame.x(outage.start + outage.seconds)
        title = f"server unreachable for {duration(outage.seconds)}"
        yield tag(
            "rect",
            tag("title", f"{duration(outage.start)} after the start: {title}"),
            x=x,
            y=frame.top,
            width=max(end - x, 2),
            height=bottom - frame.top,
            fill=f"url(#outage{frame.width})",
        )
        middle = min(max((x + end) / 2, frame.left + 45), frame.end - 45)
        if middle - 45 >= free_from:  # labels must not overlap
            yield tag("text", "unreachable", x=middle, y=frame.top - 5, text_anchor="middle", class_="label strong")
            free_from = middle + 45


def _levels(frame: Frame, *, whole: bool = False) -> Iterator[Markup]:
    """Draw the lines of the y axis at round values. `whole`: values are counts, so that 0.5 is none."""
    step = _round_step(frame.most_y)
    step = max(step, 1.0) if whole else step
    for at in range(round(frame.most_y / step) + 1):
        value = at * step
        y = frame.y(value)
        yield tag("line", x1=frame.left, x2=frame.end, y1=y, y2=y, class_="grid" if at else "axis")
        text = number(value) if step >= 1 else f"{value:.6g}"
        yield tag("text", text, x=frame.left - 8, y=y + 4, text_anchor="end", class_="label")


def _time_axis(frame: Frame, y: int, most: int) -> Iterator[Markup]:
    step = next(
        (step for step in _STEPS if frame.most_x / step <= most), math.ceil(frame.most_x / most / 86400) * 86400
    )
    at, unit = 0.0, unit_of(frame.most_x)
    while at <= frame.most_x * 1.0001:
        x = frame.x(at)
        yield tag("line", x1=x, x2=x, y1=y, y2=y + 5, class_="axis")
        anchor = "start" if not at else "end" if x > frame.end - 18 else "middle"
        yield tag("text", in_unit(at, unit) if at else "start", x=x, y=y + 19, text_anchor=anchor, class_="label")
        at += step


def _bar(frame: Frame, begin: float, end: float, low: float, high: float, kind: str, title: str) -> Markup:
    x, y = frame.x(begin), frame.y(high)
    width = max(frame.x(end) - x - 0.5, 0.8)
    return tag("rect", tag("title", title), x=x, y=y, width=width, height=max(frame.y(low) - y, 1.5), class_=kind)


def _latency(histogram: Histogram, width: int) -> Markup:
    first, last = min(histogram.bins), max(histogram.bins) + 1
    missing = max(_LEAST_BINS - (last - first), 0) // 2
    first, last = first - missing, last + missing
    each = max(1, math.ceil((last - first + 4) / (48 if width == WIDE else 24)))  # bins a bar
    first, last = first - each, last + each
    bars = [(at, sum(histogram.bins.get(one, 0) for one in range(at, at + each))) for at in range(first, last, each)]
    frame = Frame(width, 150, last - first + each, _round_up(max(count for _, count in bars)), top=64)
    parts, unit = list(_levels(frame, whole=True)), unit_of(min(histogram.longest, 120.0))  # ms or s
    for at, count in bars:
        if count:
            span = f"{duration(begin_of(at))} to {duration(begin_of(at + each))}: {pluralize(count, 'chunk')}"
            parts.append(_bar(frame, at - first, at - first + each, 0, count, "uploaded", span))
    parts.append(tag("text", "chunks", x=0, y=12, class_="label"))
    # The greatest is at the top, with its text to the left, so that no text covers another's line.
    for row, part in enumerate(reversed(_QUANTILES)):
        value = histogram.quantile(part)
        x, y = frame.x(_place(value) - first), 22 + 14 * row
        at_x, anchor = (x - 5, "end") if x > _LABEL else (x + 5, "start")
        text = f"p{100 * part:.0f} {in_unit(value, unit)}"
        parts.append(tag("line", x1=x, x2=x, y1=y - 9, y2=frame.floor, class_="mark"))
        parts.append(tag("text", text, x=at_x, y=y, text_anchor=anchor, class_="label strong"))
    parts.extend(_log_axis(frame, first, unit))
    words = ", ".join(f"p{100 * part:.0f} {duration(histogram.quantile(part))}" for part in _QUANTILES)
    described = f"How long {pluralize(histogram.number, 'chunk')} took: {words}, longest {duration(histogram.longest)}."
    return _picture(width, frame.floor + 24, described, parts)


def _log_axis(frame: Frame, first: int, unit: tuple[float, str]) -> Iterator[Markup]:
    free_from = 0.0
    for power in range(-5, 5):
        for digit in (1, 2, 5):
            seconds = digit * 10.0**power
            place = _place(seconds) - first
            if not 0 <= place <= frame.most_x:
                continue
            x = frame.x(place)
            yield tag("line", x1=x, x2=x, y1=frame.floor, y2=frame.floor + 5, class_="axis")
            text = in_unit(seconds, unit)
            half = 4 * len(text)  # pixels, with a distance to the next
            if x - half >= free_from and x <= frame.end - 20:
                yield tag("text", text, x=x, y=frame.floor + 19, text_anchor="middle", class_="label")
                free_from = x + half


def _place(seconds: float) -> float:
    """Return the bin of a latency, with the position in the bin as its fraction."""
    return math.log(max(seconds, begin_of(0)) / begin_of(0)) / math.log(begin_of(1) / begin_of(0))


def _picture(width: int, height: int, described: str, parts: list[Markup]) -> Markup:
    attributes = {"viewBox": f"0 0 {width} {height}", "role": "img", "aria_label": described}
    return tag("svg", *parts, width=width, height=height, **attributes)


def _described(run: LastRun) -> str:
    total, line = run.total, run.timeline
    outages = f" The server was unreachable {pluralize(run.outage_count, 'time')}." if run.outage_count else ""
    return (
        f"Rows per second over {duration(run.seconds)}: {pluralize(total.uploaded + total.recovered, 'row')} uploaded, "
        f"{number(total.rejected + total.recovered_rejected)} rejected, {number(line.total('retries'))} retries, "
        f"{number(line.total('errors'))} errors.{outages}"
    )


def _span(at: int, seconds: float) -> str:
    return f"{duration(at * seconds) if at else '0'} to {duration((at + 1) * seconds)}"


def _round_up(value: float) -> float:
    """Return the next greater axis limit, a multiple of its `_round_step`."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(digit * power for digit in (1, 2, 3, 4, 6, 8, 10) if digit * power >= value * 0.9999)


def _round_step(limit: float) -> float:
    """Return the distance of the levels for a limit of `_round_up`: a round part of it, such that there are 2 to 4."""
    power = 10.0 ** math.floor(math.log10(limit * 1.0001))
    return {1: 0.5, 2: 1.0, 3: 1.0}.get(round(limit / power), 2.0) * power
