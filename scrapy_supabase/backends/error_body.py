"""The body of an unsuccessful answer: an error in JSON, or a page of whatever stands in between."""

from __future__ import annotations

import json
import re

_LONGEST_LINE = 160  # of a page in HTML


def parse_body(body: bytes) -> dict[str, str]:
    """Return code, message, details and hint of an error body as far as they are there, and nothing from HTML."""
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
    """Return the text of a page in HTML, or its beginning, on one line."""
    text = re.sub(r"<(style|script).*?</\1>|<[^>]*>", " ", body[:4000].decode("utf-8", "replace"), flags=re.DOTALL)
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE].rstrip()}…"
