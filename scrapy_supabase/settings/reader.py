"""A reader of single settings, from Scrapy's settings or the environment, that collects wrong values."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from scrapy.settings import BaseSettings

from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.messages import pluralize

_SECRET = ("SUPABASE_DB_URL", "SUPABASE_KEY")
_SECRET_VALUE = re.compile(r"sb_secret_|eyJ[\w-]{5}|://[^\s/]*:\S*@")  # a key or a password, in the wrong setting
_JSON_STARTS = ("{", "[")

T = TypeVar("T")


class Reader:
    """Reads one setting at a time and collects `problems` and `warnings`.

    A setting that Scrapy's settings lack is read from the environment variable of the same name. Text is parsed (see
    `_value_of`), since the command line, Scrapyd and the environment have only text.
    """

    def __init__(self, settings: BaseSettings, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._environ = environ
        self.problems: list[str] = []
        self.warnings: list[str] = []

    def check(self, noun: str = "setting") -> None:
        """Raise `ConfigurationError`, which lists all problems, if there are any; `noun` names what was read."""
        if self.problems:
            self.problems[:] = dict.fromkeys(self.problems)  # a wrong common setting is recorded once per table
            listed = "\n".join(f"  - {problem}" for problem in self.problems)
            number = pluralize(len(self.problems), f"wrong {noun}")
            raise ConfigurationError(f"{number} for scrapy-supabase:\n{listed}", self.problems)

    def raw(self, name: str, default: Any = None) -> Any:
        """Return the value of the setting, else of the environment variable, else `default`."""
        value = _value_of(self._settings.get(name) if self.is_setting(name) else self._environ.get(name) or None)
        return default if value is None else value

    def is_set(self, name: str) -> bool:
        """Return whether the setting or the environment variable is set, also to None."""
        return self.is_setting(name) or bool(self._environ.get(name))

    def is_setting(self, name: str) -> bool:
        """Return whether Scrapy's settings have the setting, also as None."""
        return name in self._settings

    def names(self) -> list[str]:
        """Return the names of all settings, including Scrapy's."""
        return [name for name in self._settings if isinstance(name, str)]

    def variables(self) -> list[str]:
        """Return the names of all environment variables that are not empty."""
        return [name for name, value in self._environ.items() if value]

    def wrong(self, name: str, value: Any, allowed: str, default: T) -> T:
        """Record that `value` is not allowed, and return `default`."""
        if value is None:
            self.problems.append(f"{name} is missing. It must be {allowed}.")
            return default
        hidden = name in _SECRET or _SECRET_VALUE.search(str(value))
        printed = "set (value hidden)" if hidden else _printed(value)
        if isinstance(value, str) and value.strip()[:1] in _JSON_STARTS:
            allowed += ". The text is not valid JSON, which has double quotes"
        self.problems.append(f"{name} is {printed}: it must be {allowed}.")
        return default

    def unknown_option(self, name: str, option: Any, options: Sequence[str]) -> None:
        """Record that `name` has no such option among its `options`."""
        from difflib import get_close_matches  # few runs need it

        close = get_close_matches(str(option), options, 1)
        meant = f" Did you mean {close[0]!r}?" if close else ""
        self.problems.append(f"{name} has no option {option!r}.{meant} Its options are {', '.join(options)}.")

    def number(self, name: str, default: T, convert: Callable[[Any], T], least: float, allowed: str) -> T:
        """Return a finite number of at least `least`; `convert` is int or float."""
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
        """Return a truth value, parsed as Scrapy's `getbool` does."""
        value = self.raw(name, default)
        try:
            return BaseSettings({name: value}).getbool(name)
        except (TypeError, ValueError):
            return self.wrong(name, value, "True or False", default)

    def text(self, name: str, default: str) -> str:
        """Return a text that is not empty, without surrounding blanks."""
        value = self.raw(name, default)
        if not isinstance(value, str) or not value.strip():
            return self.wrong(name, value, "a text that is not empty", default)
        return value.strip()

    def column_names(self, name: str, value: Any) -> tuple[str, ...]:
        """Return the column names in `value`, a list or a comma-separated text."""
        is_json = isinstance(value, str) and value.strip()[:1] in _JSON_STARTS  # that cannot be parsed
        names = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
        if is_json or not isinstance(names, (list, tuple)) or not all(isinstance(part, str) and part for part in names):
            return self.wrong(name, value, "column names: a list, or a comma-separated text", ())
        return tuple(dict.fromkeys(names))

    def text_map(self, name: str, value: Any) -> dict[str, str]:
        """Return `value`, a dict whose keys and values are texts that are not empty."""
        if not isinstance(value, Mapping) or not all(isinstance(p, str) and p for pair in value.items() for p in pair):
            return self.wrong(name, value, "a dict with texts as keys and values", {})
        return dict(value)


def read_enabled(reader: Reader) -> bool:
    """Read whether the pipeline is switched on."""
    return reader.flag("SUPABASE_ENABLED", True)


def _value_of(value: Any) -> Any:
    """Return the parsed value of a text: None for `None`, a dict or list for JSON, else the value itself."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text == "None":
        return None
    if text[:1] in _JSON_STARTS:
        with suppress(ValueError):
            return json.loads(text)
    return value


def _printed(value: Any) -> str:
    text = repr(value)
    return f"{text[:80]}{'…' if len(text) > 80 else ''} ({type(value).__name__})"
