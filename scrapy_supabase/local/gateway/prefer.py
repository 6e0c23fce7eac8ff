"""The `Prefer` header (source: PostgREST docs, references/api/preferences)."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from scrapy_supabase.local.gateway.errors import ApiError

# In the order of `preference-applied`.
_KNOWN = {
    "resolution": ("merge-duplicates", "ignore-duplicates"),
    "missing": ("default", "null"),
    "return": ("representation", "minimal", "headers-only"),
    "count": ("exact", "planned", "estimated"),
    "handling": ("strict", "lenient"),
}
_NOT_HEARD = ("tx=commit", "tx=rollback")  # `db-tx-end` is `commit` on Supabase
_ALWAYS = ("count", "handling", "timezone")


@dataclass(frozen=True, slots=True)
class Preferences:
    """Preferences by name; the first of a name counts. `invalid` are unknown preferences."""

    values: dict[str, str]
    invalid: tuple[str, ...] = ()

    def get(self, name: str) -> str:
        """Return the value of a preference."""
        return self.values.get(name, "")

    @property
    def strict(self) -> bool:
        """Return whether unknown preferences are an error."""
        return self.get("handling") == "strict"

    @property
    def max_affected(self) -> int | None:
        """Return the most rows that a change may affect; only with `handling=strict`."""
        return int(self.values["max-affected"]) if self.strict and "max-affected" in self.values else None

    @property
    def counts(self) -> bool:
        """Return whether rows that were written or returned by a function are counted."""
        return self.get("count") in ("exact", "estimated")

    def check(self) -> None:
        """Raise `ApiError` PGRST122 for unknown preferences, with `handling=strict`."""
        if self.invalid and self.strict:
            details = f"Invalid preferences: {', '.join(self.invalid)}"
            raise ApiError(400, "PGRST122", "Invalid preferences given with handling=strict", details=details)

    def applied(self, *names: str) -> dict[str, str]:
        """Return the `preference-applied` header for the `names` that were sent, and for those that always apply."""
        heard = {*names, *_ALWAYS} - (set() if self.strict else {"max-affected"})
        order = (*_KNOWN, "timezone", "max-affected")
        given = [f"{name}={self.values[name]}" for name in order if name in heard and name in self.values]
        return {"preference-applied": ", ".join(given)} if given else {}


def parse_prefer(header: str | None, timezones: Callable[[], Collection[str]]) -> Preferences:
    """Parse the header. `timezones` returns the names that the database knows."""
    found: dict[str, str] = {}
    invalid: list[str] = []
    texts = [text.strip() for text in header.split(",")] if header else []
    zone = next((text for text in texts if text.startswith("timezone=")), None)
    known_zone = zone is not None and zone.partition("=")[2] in timezones()
    for text in texts:
        name, _, value = text.partition("=")
        if name == "max-affected":  # values that are not numbers are ignored
            if re.fullmatch(r"\s*-?[0-9]{1,18}\s*", value):
                found.setdefault(name, value.strip())
        elif value in _KNOWN.get(name, ()) or (name == "timezone" and known_zone):
            found.setdefault(name, value)
        elif text not in _NOT_HEARD:
            invalid.append(text)
    return Preferences(found, tuple(invalid))
