"""The body of an unsuccessful answer: an error in JSON, or the HTML page of a proxy."""

from __future__ import annotations

import json
import re

_LONGEST_LINE = 160  # characters kept of an HTML page


def parse_body(body: bytes) -> dict[str, str]:
    """Return those of code, message, error, details and hint that an error body has; empty if it is not JSON."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in found.items()
        if name in {"code", "message", "error", "details", "hint"}
        and value
        and not (name == "code" and not isinstance(value, str))  # a gateway's number is a status, not a code
    }


def one_line(body: bytes) -> str:
    """Return the text of an HTML page, shortened to one line."""
    text = re.sub(r"<(style|script).*?</\1>|<[^>]*>", " ", body[:4000].decode("utf-8", "replace"), flags=re.DOTALL)
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE].rstrip()}…"
