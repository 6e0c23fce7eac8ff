"""The `Prefer` header (source: PostgREST docs, references/api/preferences)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from scrapy_supabase.local.gateway.errors import ApiError

_KNOWN = {
    "resolution": ("merge-duplicates", "ignore-duplicates"),
    "missing": ("default", "null"),
    "return": ("representation", "minimal", "headers-only"),
    "count": ("exact", "planned", "estimated"),
    "tx": ("commit", "rollback"),
    "handling": ("strict", "lenient"),
}
_APPLIED = ("resolution", "missing", "return", "count", "handling", "timezone", "max-affected")


@dataclass(frozen=True, slots=True)
class Preferences:
    """What was asked for, by name; the first of a name counts."""

    values: dict[str, str]

    def get(self, name: str, default: str = "") -> str:
        """The value of a preference."""
        return self.values.get(name, default)

    @property
    def max_affected(self) -> int | None:
        """The most rows a change may touch; it is heard with `handling=strict` only."""
        if self.get("handling") != "strict" or "max-affected" not in self.values:
            return None
        return int(self.values["max-affected"])

    def applied(self, *names: str) -> dict[str, str]:
        """The `preference-applied` header for those of `names` that were given."""
        given = [
            f"{name}={self.values[name]}"
            for name in _APPLIED
            if name in self.values and name in {*names, "handling", "timezone", "max-affected"}
        ]
        if self.get("handling") != "strict":
            given = [text for text in given if not text.startswith("max-affected")]
        return {"preference-applied": ", ".join(given)} if given else {}


def parse_prefer(header: str | None) -> Preferences:
    """Parse the header. Raises `ApiError` PGRST122 for what is not known, with `handling=strict`."""
    found: dict[str, str] = {}
    invalid: list[str] = []
    for part in (header or "").split(","):
        text = part.strip()
        name, _, value = (piece.strip() for piece in text.partition("="))
        if not text:
            continue
        known = value in _KNOWN.get(name, ()) or (name == "max-affected" and re.fullmatch(r"\d{1,18}", value))
        if known or (name == "timezone" and value):
            found.setdefault(name, value)
        else:
            invalid.append(text)
    if invalid and found.get("handling") == "strict":
        details = f"Invalid preferences: {', '.join(invalid)}"
        raise ApiError(400, "PGRST122", "Invalid preferences given with handling=strict", details=details)
    found.pop("tx", None)  # `db-tx-end` is `commit` on Supabase: it is not heard
    return Preferences(found)
