"""One setting at a time, from Scrapy's settings or the environment; what is wrong is collected, to be said at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from scrapy.settings import BaseSettings

from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.messages import pluralize

FROM_ENVIRONMENT = (
    "BATCH_CHUNK_SIZE",
    "BATCH_RETRY_ATTEMPTS",
    "BATCH_RETRY_DELAY",
    "SUPABASE_DB_URL",
    "SUPABASE_KEY",
    "SUPABASE_URL",
)
_SECRET = ("SUPABASE_DB_URL", "SUPABASE_KEY")

T = TypeVar("T")


class Reader:
    """Reads one setting at a time and collects what is wrong."""

    def __init__(self, settings: BaseSettings, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._environ = environ
        self.problems: list[str] = []
        self.warnings: list[str] = []

    def check(self, noun: str = "setting") -> None:
        """Raise `ConfigurationError` that lists what is wrong; `noun` says what these are."""
        if self.problems:
            listed = "\n".join(f"  - {problem}" for problem in self.problems)
            number = pluralize(len(self.problems), f"wrong {noun}")
            raise ConfigurationError(f"{number} for scrapy-supabase:\n{listed}", self.problems)

    def raw(self, name: str, default: Any = None) -> Any:
        """The value, from the environment where the setting has none and may be there; `default` for None."""
        value = self._settings.get(name)
        if value is None and name in FROM_ENVIRONMENT:
            value = self._environ.get(name) or None
        return default if value is None else value

    def is_set(self, name: str) -> bool:
        """Whether the setting has a value, be it None."""
        return name in self._settings

    def names(self) -> list[str]:
        """The names of all settings."""
        return [name for name in self._settings if isinstance(name, str)]

    def wrong(self, name: str, value: Any, allowed: str, default: T) -> T:
        """Note that a value cannot be used, and go on with `default`."""
        shown = "set (not shown here)" if name in _SECRET and value is not None else _shown(value)
        self.problems.append(f"{name} is {shown}: it must be {allowed}.")
        return default

    def number(self, name: str, default: T, convert: Callable[[Any], T], least: float, allowed: str) -> T:
        """A number of at least `least`."""
        value = self.raw(name, default)
        try:
            if isinstance(value, bool):
                return self.wrong(name, value, allowed, default)
            number = convert(value)
            if number != float(value) or not number >= least or number == float("inf"):
                return self.wrong(name, value, allowed, default)
        except (TypeError, ValueError, OverflowError):
            return self.wrong(name, value, allowed, default)
        return number

    def flag(self, name: str, default: bool) -> bool:
        """A truth value, as Scrapy reads it."""
        value = self.raw(name, default)
        try:
            return self._settings.getbool(name, default) if self.is_set(name) else bool(value)
        except (TypeError, ValueError):
            return self.wrong(name, value, "True or False", default)

    def text(self, name: str, default: str) -> str:
        """A text that is not empty."""
        value = self.raw(name, default)
        if not isinstance(value, str) or not value.strip():
            return self.wrong(name, value, "a text that is not empty", default)
        return value.strip()

    def names_of(self, name: str, value: Any) -> tuple[str, ...]:
        """Names of columns: a list, or a text with commas."""
        names = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
        if not isinstance(names, (list, tuple)) or not all(isinstance(part, str) and part for part in names):
            return self.wrong(name, value, "column names: a list, or a text with commas", ())
        return tuple(dict.fromkeys(names))

    def text_map(self, name: str, value: Any) -> dict[str, str]:
        """A dict of text to text."""
        if not isinstance(value, Mapping) or not all(isinstance(p, str) and p for pair in value.items() for p in pair):
            return self.wrong(name, value, "a dict of text to text", {})
        return dict(value)


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    text = repr(value)
    return f"{text[:80]}{'…' if len(text) > 80 else ''} ({type(value).__name__})"
