"""`SUPABASE_SKIP_STORED`: its forms. Wrong ones are in tests/test_messages_stored.py."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from scrapy.settings import Settings

from scrapy_supabase.backends.filters import Condition
from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.settings.config import Config
from scrapy_supabase.settings.skip_stored import SkipRule, skips_stored

GOOD = {"SUPABASE_URL": "https://abc.supabase.co", "SUPABASE_KEY": "sb_secret_x", "SUPABASE_TABLE": "books"}


def rules(value: Any, **more: Any) -> tuple[SkipRule, ...]:
    """The rules of the setting."""
    settings = Settings({**GOOD, "SUPABASE_SKIP_STORED": value, **more})
    return Config.from_settings(settings, {}, spiders=["shop"]).skip_stored


def test_it_is_off() -> None:
    """By default, and with the whole package."""
    assert Config.from_settings(Settings(GOOD), {}).skip_stored == ()
    assert not skips_stored(Settings(GOOD))
    assert skips_stored(Settings({"SUPABASE_SKIP_STORED": '{"books": {"url": "url"}}'}))
    assert not skips_stored(Settings({"SUPABASE_SKIP_STORED": {"t": {}}, "SUPABASE_ENABLED": "False"}))


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        ("7 days", timedelta(days=7)),
        ("1 day", timedelta(days=1)),
        (" 1.5 Hours", timedelta(minutes=90)),
        ("2weeks", timedelta(weeks=2)),
        ("90", timedelta(seconds=90)),
        (0.5, timedelta(seconds=0.5)),
        (timedelta(days=3), timedelta(days=3)),
    ],
)
def test_ages(age: Any, expected: timedelta) -> None:
    """Text, number or timedelta."""
    assert rules({"t": {"url": "u", "younger_than": age, "time": "at"}}) == (SkipRule("t", "u", expected, "at"),)


@pytest.mark.parametrize("age", [0, -1, "0 days", True, float("nan"), float("inf"), "1 month", "1.2.3 days", []])
def test_wrong_ages(age: Any) -> None:
    """Only what is a duration."""
    with pytest.raises(ConfigurationError, match="younger_than"):
        rules({"t": {"url": "u", "younger_than": age, "time": "at"}})


def test_the_time_is_the_stamp_now() -> None:
    """Of the table, or of the project."""
    value = {"books": {"url": "u", "younger_than": 60}, "{spider}_pages": {"url": "u", "younger_than": 60}}
    tables = {"*": {"table": "books", "stamps": {"seen": "now"}}}
    first, second = rules(value, SUPABASE_STAMPS={"day": "date", "at": "now"}, SUPABASE_TABLES=tables)
    assert (first.time, second.table, second.time) == ("seen", "shop_pages", "at")


def test_conditions() -> None:
    """As for `select_rows`."""
    (rule,) = rules({"books": {"url": "u", "where": {"title": {"not": None}}}})
    assert rule.where == (Condition("title", "not_null"),)
