"""Values of each type arrive unchanged in the database, over both backends."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import ipaddress
import json
import math
import random
import urllib.parse
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import msgspec
import numpy as np
import pandas as pd
import pydantic
import pytest
import scrapy
import yarl
from parsel import Selector
from scrapy.http import HtmlResponse

from scrapy_supabase.errors import ItemError
from scrapy_supabase.rows.values import encode_row, text_of, text_of_json
from scrapy_supabase.schema.item_fields import type_for
from tests.fix_project import MakeLine

Sql = Callable[..., list[tuple[Any, ...]]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test over REST and over a database connection."""
    if "line" in metafunc.fixturenames:
        metafunc.parametrize("line", ["rest", "database"], indirect=True)


class Colour(enum.Enum):
    """An enum."""

    RED = "red"


class Unit(float):
    """A subclass of float."""


class Money(decimal.Decimal):
    """A subclass of Decimal."""


class Stamp(dt.datetime):
    """A subclass of datetime, such as pandas' Timestamp and pendulum's DateTime."""


class Day(dt.date):
    """A subclass of date, such as pendulum's Date."""


class Hour(dt.time):
    """A subclass of time, such as pendulum's Time."""


class Span(dt.timedelta):
    """A subclass of timedelta whose attributes have another meaning, such as pendulum's Duration."""

    seconds = -1


class Ident(uuid.UUID):
    """A subclass of UUID."""


@dataclasses.dataclass
class Point:
    """A nested item."""

    x: int
    data: bytes = b"\x01"


class Thing(scrapy.Item):
    """A Scrapy item."""

    id = scrapy.Field()
    where = scrapy.Field()


class Links(pydantic.BaseModel):
    """URL types of pydantic."""

    page: pydantic.HttpUrl
    database: pydantic.PostgresDsn


Kind = tuple[str, Any, Any]  # type of the column, value of the item, what is stored
BERLIN, AMSTERDAM = ZoneInfo("Europe/Berlin"), ZoneInfo("Europe/Amsterdam")
LOCAL_MEAN_TIME = dt.timezone(dt.timedelta(minutes=53, seconds=28))
LINKS = Links.model_validate({"page": "https://a.example/ü", "database": "postgres://me@a.example/d"})

OWN: list[Kind] = [
    ("text", "é\U0001f600", "é\U0001f600"),
    ("numeric", decimal.Decimal("1.10"), decimal.Decimal("1.10")),
    ("numeric", 2**80, decimal.Decimal(2**80)),
    ("double precision", -math.inf, -math.inf),
    ("text", math.inf, "Infinity"),
    ("double precision", Unit(1.5), 1.5),
    ("numeric", Money("9.90"), decimal.Decimal("9.90")),
    ("date", dt.date(2026, 2, 3), dt.date(2026, 2, 3)),
    ("date", Day(2026, 2, 3), dt.date(2026, 2, 3)),
    ("time", dt.time(4, 5, 6), dt.time(4, 5, 6)),
    ("time", Hour(4, 5, 6), dt.time(4, 5, 6)),
    ("timetz", dt.time(12, tzinfo=dt.UTC), dt.time(12, tzinfo=dt.UTC)),
    ("text", dt.time(12, tzinfo=LOCAL_MEAN_TIME), "12:00:00+00:53:28"),
    ("interval", dt.timedelta(days=1, seconds=2.5), dt.timedelta(days=1, seconds=2.5)),
    ("interval", dt.timedelta(minutes=-5), dt.timedelta(minutes=-5)),
    ("interval", dt.timedelta(days=-2, microseconds=1), dt.timedelta(days=-2, microseconds=1)),
    ("interval", Span(hours=-1), dt.timedelta(hours=-1)),
    ("interval[]", [dt.timedelta(minutes=-5)], [dt.timedelta(minutes=-5)]),
    ("timestamp", dt.datetime(2026, 2, 3, 4, 5), dt.datetime(2026, 2, 3, 4, 5)),
    ("timestamptz", Stamp(2026, 2, 3, 4, 5, tzinfo=dt.UTC), dt.datetime(2026, 2, 3, 4, 5, tzinfo=dt.UTC)),
    ("timestamptz", dt.datetime(1885, 5, 1, 12, tzinfo=BERLIN), dt.datetime(1885, 5, 1, 11, 6, 32, tzinfo=dt.UTC)),
    ("timestamptz", dt.datetime(1930, 5, 1, 12, tzinfo=AMSTERDAM), dt.datetime(1930, 5, 1, 11, 40, 28, tzinfo=dt.UTC)),
    ("timestamp", dt.datetime(1885, 5, 1, 12, tzinfo=BERLIN), dt.datetime(1885, 5, 1, 12)),
    (
        "timestamptz",
        dt.datetime(2026, 1, 1, tzinfo=dt.timezone(dt.timedelta(microseconds=5))),
        dt.datetime(2025, 12, 31, 23, 59, 59, 999995, tzinfo=dt.UTC),
    ),
    ("uuid", uuid.UUID(int=5), uuid.UUID(int=5)),
    ("uuid", Ident(int=5), uuid.UUID(int=5)),
    ("text", Colour.RED, "red"),
    ("bytea", b"\x00\xff", b"\x00\xff"),
    ("boolean", True, True),
    ("text[]", ("a", None), ["a", None]),
    ("int[]", {7}, [7]),
    ("jsonb", {"p": Point(1), 2: [math.inf, b"\x01"]}, {"p": {"x": 1, "data": "\\x01"}, "2": ["Infinity", "\\x01"]}),
    ("jsonb", [Thing(id=1, where={"a": "b"})], [{"id": 1, "where": {"a": "b"}}]),
    ("text", PurePosixPath("/a/b"), "/a/b"),
    ("text", Path("a"), "a"),
    ("inet", ipaddress.ip_address("10.0.0.1"), ipaddress.ip_address("10.0.0.1")),
    ("inet", ipaddress.ip_address("::1"), ipaddress.ip_address("::1")),
    ("inet", ipaddress.ip_interface("10.0.0.1/24"), ipaddress.ip_interface("10.0.0.1/24")),
    ("cidr", ipaddress.ip_network("10.0.0.0/24"), ipaddress.ip_network("10.0.0.0/24")),
    ("text", urllib.parse.urlsplit("https://a.example/?q=1"), "https://a.example/?q=1"),
    ("text", urllib.parse.urlparse("https://a.example/?q=1"), "https://a.example/?q=1"),
]
LIBRARIES: list[Kind] = [
    ("text", LINKS.page, "https://a.example/%C3%BC"),
    ("text", LINKS.database, "postgres://me@a.example/d"),
    ("jsonb", LINKS, {"page": "https://a.example/%C3%BC", "database": "postgres://me@a.example/d"}),
    ("text", yarl.URL("https://a.example/ü"), "https://a.example/%C3%BC"),
    ("text", httpx.URL("https://a.example/"), "https://a.example/"),
    ("timestamptz", pd.Timestamp("2026-01-01 12:00", tz="UTC"), dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)),
    ("timestamp", pd.Timestamp("2026-01-01 12:00:00.123456789"), dt.datetime(2026, 1, 1, 12, 0, 0, 123456)),
    ("interval", pd.Timedelta(minutes=-5), dt.timedelta(minutes=-5)),
    ("bigint", np.int64(2**60), 2**60),
    ("numeric", np.uint64(2**63), decimal.Decimal(2**63)),
    ("double precision", np.float64(1.5), 1.5),
    ("double precision", np.float32(0.1), 0.10000000149011612),
    ("double precision", np.float64(-np.inf), -math.inf),
    ("boolean", np.bool_(True), True),
    ("text", np.str_("a"), "a"),
    ("bytea", np.bytes_(b"a"), b"a"),
    ("timestamp", np.datetime64("2026-01-01T12:00:00.123456789"), dt.datetime(2026, 1, 1, 12, 0, 0, 123456)),
    ("date", np.datetime64("2026-01-01"), dt.date(2026, 1, 1)),
    ("interval", np.timedelta64(-5, "m"), dt.timedelta(minutes=-5)),
    ("interval", np.timedelta64(-5, "ns"), dt.timedelta(microseconds=-1)),
    ("bigint[]", np.array([1, 2]), [1, 2]),
    ("float8[]", np.array([1, np.nan, np.inf]), [1, None, math.inf]),
    ("jsonb", np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
    ("jsonb", {"a": np.array(5), "b": np.int64(1)}, {"a": 5, "b": 1}),
    ("timestamp[]", np.array(["2026-01-01T12:00", "NaT"], "datetime64[ns]"), [dt.datetime(2026, 1, 1, 12), None]),
]
MISSING: list[Any] = [
    math.nan, decimal.Decimal("NaN"), Money("sNaN"), np.float64("nan"), np.float32("nan"), np.datetime64("NaT", "s"),
    np.timedelta64("NaT", "s"), np.ma.masked, pd.NA, pd.NaT,
]  # fmt: skip


@pytest.mark.parametrize("kinds", [OWN, LIBRARIES], ids=["python", "libraries"])
def test_values_arrive_unchanged(sql: Sql, line: MakeLine, kinds: list[Kind]) -> None:
    """All values are sent in one row and read back, also from columns of the types that `ddl` proposes."""
    columns = {f"v{number}": kind for number, (kind, _, _) in enumerate(kinds)}
    proposed = {f"d{number}": type_for(value) for number, (_, value, _) in enumerate(kinds)}
    listed = ", ".join(f"{name} {kind}" for name, kind in {**columns, **proposed}.items())
    sql(f"create table t (id bigint primary key, {listed}); grant all on t to service_role")
    item = {name: value for prefix in "vd" for name, (_, value, _) in zip(_names(prefix, kinds), kinds, strict=True)}
    outcome = line().upload({"id": 1, **item})
    assert outcome.rejections == ()
    (found,) = sql(f"select {', '.join(columns)} from t")
    assert dict(zip(columns, found, strict=True)) == {f"v{n}": stored for n, (_, _, stored) in enumerate(kinds)}


def _names(prefix: str, kinds: list[Kind]) -> list[str]:
    return [f"{prefix}{number}" for number in range(len(kinds))]


@pytest.mark.parametrize("kind", ["double precision", "numeric", "text", "timestamptz", "jsonb"])
def test_missing_values_are_null(sql: Sql, line: MakeLine, kind: str) -> None:
    """NaN, NaT and pandas' NA are NULL in any column, and null in nested values."""
    listed = ", ".join(f"v{number} {kind}" for number in range(len(MISSING)))
    sql(f"create table t (id bigint primary key, {listed}, nested jsonb); grant all on t to service_role")
    item = {f"v{number}": value for number, value in enumerate(MISSING)}
    assert line().upload({"id": 1, **item, "nested": MISSING}).rejections == ()
    nulls = [None] * len(MISSING)
    assert sql("select * from t") == [(1, *nulls, nulls)]


def test_times_and_durations(sql: Sql, line: MakeLine) -> None:
    """Positive and negative durations, and UTC offsets with seconds."""
    sql("create table t (id bigint primary key, at timestamptz, d interval); grant all on t to service_role")
    some = random.Random(7)
    items = [
        {
            "id": number,
            "at": dt.datetime(some.randint(1000, 9998), 1, 1, tzinfo=_zone(some.randint(-50_000, 50_000)))
            + dt.timedelta(microseconds=some.randint(0, 10**12)),
            "d": dt.timedelta(some.randint(-(10**5), 10**5), some.randint(-(10**5), 10**5), some.randint(0, 10**6)),
        }
        for number in range(300)
    ]
    outcome = line().upload(*items)
    assert outcome.rejections == ()
    assert sql("select id, at, d from t order by id") == [tuple(item.values()) for item in items]


def _zone(seconds: int) -> dt.timezone:
    return dt.timezone(dt.timedelta(seconds=seconds))


@pytest.mark.parametrize(
    "value",
    [*(value for _, value, _ in [*OWN, *LIBRARIES] if not isinstance(value, (dict, pydantic.BaseModel))), *MISSING],
    ids=repr,
)
def test_the_key_of_an_item_and_of_its_json(value: Any) -> None:
    """A key read from the spool equals the key computed from the item."""
    sent = msgspec.json.decode(encode_row({"key": value})[0], type=dict[str, msgspec.Raw])["key"]
    assert text_of(value) == text_of_json(sent)


def _generator() -> Iterator[int]:
    yield 1


async def _async_generator() -> AsyncIterator[int]:
    yield 1


PAGE = Selector("<a>1</a>")
NO_VALUES: Mapping[str, tuple[Any, str]] = {
    "Selector": (PAGE, r"\.get\(\) or \.getall\(\)"),
    "SelectorList": (PAGE.css("b"), r"\.get\(\) or \.getall\(\)"),  # also where it is empty
    "HtmlResponse": (HtmlResponse("https://a.example"), r"response\.url"),
    "generator": (_generator(), r"list\(\)"),
    "async_generator": (_async_generator(), "list"),
}


@pytest.mark.parametrize("name", NO_VALUES)
@pytest.mark.parametrize("nested", [False, True])
def test_an_object_that_is_no_value(name: str, *, nested: bool) -> None:
    """It is rejected; the message names the field, the type and the remedy."""
    value, remedy = NO_VALUES[name]
    with pytest.raises(ItemError, match=f"field 'title' has an object of type {name}, .*{remedy}") as raised:
        encode_row({"id": 1, "title": [value] if nested else value})
    assert (raised.value.code, raised.value.field) == ("not_encodable", "title")


def test_a_coroutine_is_no_value() -> None:
    """The message tells the user to await it."""

    async def title() -> str:
        return "a"

    with closing(title()) as forgotten, pytest.raises(ItemError, match=r"type coroutine, .* Await it"):
        encode_row({"id": 1, "title": forgotten})


@pytest.mark.parametrize("value", [np.longdouble(1), np.timedelta64(5, "M"), np.complex64(1), pd.Series([1])], ids=repr)
def test_a_value_that_would_be_rounded(value: Any) -> None:
    """It is rejected."""
    with pytest.raises(ItemError, match="field 'v' of type"):
        encode_row({"v": value})


def test_dict_keys_that_are_not_text() -> None:
    """None and NaN become different names."""
    assert json.loads(encode_row({"v": {None: 1, math.nan: 2, 3: 4}})[0]) == {"v": {"null": 1, "nan": 2, "3": 4}}
