"""HTML and SVG elements. All text is escaped unless it is `Markup`, because scraped text may be hostile."""

from __future__ import annotations

import html
import re


class Markup(str):
    """Text that is HTML. Only `tag`, `join` and the reader of the style sheet create it."""

    __slots__ = ()


Child = str | int | float | None


def tag(element: str, /, *children: Child, **attributes: Child) -> Markup:
    """Return an element. Children that are not `Markup` are escaped.

    Children and attributes that are None are omitted. `class_` becomes `class`, other underscores become hyphens.
    """
    listed = "".join(
        f' {"class" if key == "class_" else key.replace("_", "-")}="{_escaped(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if element in _VOID:
        return Markup(f"<{element}{listed}>")
    return Markup(f"<{element}{listed}>{join(*children)}</{element}>")


def join(*children: Child) -> Markup:
    """Concatenate elements and texts."""
    return Markup("".join(_escaped(child) for child in children if child is not None))


def _escaped(value: Child) -> str:
    if isinstance(value, Markup):
        return value
    if isinstance(value, float):
        value = f"{value:.2f}".rstrip("0").rstrip(".")
    return html.escape(_NOT_IN_HTML.sub("\ufffd", str(value)))


_VOID = frozenset({"meta", "br", "hr"})
_NOT_IN_HTML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
