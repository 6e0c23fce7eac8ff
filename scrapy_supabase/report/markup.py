"""HTML and SVG elements from Python. Every text is escaped unless it is markup already: scraped text is hostile."""

from __future__ import annotations

import html
import re


class Markup(str):
    """Text that is HTML already. Only `tag`, `join` and the style sheet's reader make it."""

    __slots__ = ()


Child = str | int | float | None


def tag(element: str, /, *children: Child, **attributes: Child) -> Markup:
    """An element. Children are escaped where they are no `Markup`; None is left out.

    Attributes that are None are left out; `class_` is `class`, other underscores are hyphens.
    """
    given = "".join(
        f' {"class" if key == "class_" else key.replace("_", "-")}="{_escaped(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if element in _VOID:
        return Markup(f"<{element}{given}>")
    return Markup(f"<{element}{given}>{join(*children)}</{element}>")


def join(*children: Child) -> Markup:
    """Elements and texts, one after the other."""
    return Markup("".join(_escaped(child) for child in children if child is not None))


def _escaped(value: Child) -> str:
    if isinstance(value, Markup):
        return value
    if isinstance(value, float):
        value = f"{value:.2f}".rstrip("0").rstrip(".")
    return html.escape(_NOT_IN_HTML.sub("\ufffd", str(value)))


_VOID = frozenset({"meta", "br", "hr"})
_NOT_IN_HTML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
