"""The setting `SUPABASE_SKIP_STORED`: the tables whose stored URLs are not requested again."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import msgspec
from scrapy.settings import BaseSettings

from scrapy_supabase.backends.filters import Filter
from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.rows.where import filters_of
from scrapy_supabase.settings.reader import Reader, read_enabled
from scrapy_supabase.settings.table_options import SPIDER
from scrapy_supabase.settings.tables import entries_of

SETTING = "SUPABASE_SKIP_STORED"
_KEYS = ("url", "younger_than", "time", "where")
_AGE = "a text such as '7 days' or '12 hours', a number of seconds, or a timedelta"


class SkipRule(msgspec.Struct, frozen=True):
    """A table with URLs that are not requested. `url` is their column.

    With `younger_than`, only rows count whose `time` is later than that long ago.
    """

    table: str
    url: str
    younger_than: timedelta | None = None
    time: str = ""
    where: tuple[Filter, ...] = ()


def skips_stored(settings: BaseSettings) -> bool:
    """Return whether the setting is used, without validating it."""
    reader = Reader(settings, os.environ)
    return bool(reader.raw(SETTING)) and read_enabled(reader)


def read_skip_stored(reader: Reader, spiders: Sequence[str] = ()) -> tuple[SkipRule, ...]:
    """Read the setting. `spiders`: the name that `{spider}` in a table's name stands for."""
    value = reader.raw(SETTING, {})
    if not isinstance(value, Mapping) or not all(isinstance(table, str) and table for table in value):
        return reader.wrong(SETTING, value, "a dict that maps tables to dicts such as {'url': 'url'}", ())
    spider = spiders[0] if len(spiders) == 1 else SPIDER
    return tuple(_rule(reader, table.replace(SPIDER, spider), table, options) for table, options in value.items())


def _rule(reader: Reader, table: str, entry: str, options: Any) -> SkipRule:
    name = f"{SETTING}[{entry!r}]"
    if not isinstance(options, Mapping):
        return reader.wrong(name, options, f"a dict with the keys {', '.join(_KEYS)}", SkipRule(table, ""))
    if unknown := [key for key in options if key not in _KEYS]:
        reader.unknown_option(name, unknown[0], _KEYS)
    url = options.get("url")
    if not isinstance(url, str) or not url:
        url = reader.wrong(f"{name}['url']", url, "the name of the column with the URL", "")
    time = options.get("time")
    if time is not None and (not isinstance(time, str) or not time):
        time = reader.wrong(f"{name}['time']", time, "the name of a column with a date or time", "")
    age = options.get("younger_than")
    younger_than = None if age is None else _age(age)
    if age is not None and younger_than is None:
        reader.wrong(f"{name}['younger_than']", age, _AGE, None)
    elif age is not None and time is None and (time := _now_column(reader, entry)) is None:
        reader.problems.append(
            f"{name} has younger_than, and table {table!r} has no stamp 'now'. Add 'time' with the column that has the "
            "time at which a row was stored."
        )
    if any(one.get("unseen") for one in _entries_of(reader, entry)):
        reader.problems.append(
            f"{name} and the option 'unseen' of the same table contradict each other: a row whose page is skipped "
            "would count as no longer there. Remove one of them."
        )
    where: tuple[Filter, ...] = ()
    if options.get("where") is not None:
        try:
            where = filters_of(options["where"], f"{name}['where']")
        except ConfigurationError as error:
            reader.problems.append(str(error))
    return SkipRule(table, url, younger_than, time or "", where)


_UNITS = ("seconds", "minutes", "hours", "days", "weeks")


def _age(value: Any) -> timedelta | None:
    """Return a duration; None if the value is not one."""
    try:
        if isinstance(value, timedelta):
            age = value
        elif isinstance(value, str) and (found := re.fullmatch(r"\s*([\d.]+)\s*([a-z]+?)s?\s*", value.lower())):
            age = timedelta(**{f"{found[2]}s": float(found[1])}) if f"{found[2]}s" in _UNITS else timedelta()
        else:
            age = timedelta(seconds=float("nan" if isinstance(value, bool) else value))
    except (TypeError, ValueError, OverflowError):
        return None
    return age if age > timedelta() else None


def _now_column(reader: Reader, table: str) -> str | None:
    """Return the column with the stamp `now` of a table in the settings."""
    stamps = next((one["stamps"] for one in _entries_of(reader, table) if "stamps" in one), None)
    stamps = reader.raw("SUPABASE_STAMPS") if stamps is None else stamps
    if not isinstance(stamps, Mapping):
        return None
    return next((column for column, stamp in stamps.items() if stamp == "now" and isinstance(column, str)), None)


def _entries_of(reader: Reader, table: str) -> Iterator[Mapping[str, Any]]:
    """Yield the entries of `SUPABASE_TABLES` with options of a table."""
    for one in entries_of(reader.raw("SUPABASE_TABLES")):
        if isinstance(one, Mapping) and one.get("table") == table:
            yield one
