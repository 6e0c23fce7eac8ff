"""`scrapy supabase ddl` prints SQL of tables that store the items; `column_types` predicts what PostgreSQL accepts."""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import sys
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, NewType

import attrs
import numpy as np
import pandas as pd
import psycopg
import pydantic
import pytest
import scrapy
import yarl
from scrapy.settings import Settings

from scrapy_supabase.commands import ddl
from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.rows.values import encode_row
from scrapy_supabase.schema.column_types import Fit, fit
from scrapy_supabase.schema.inference import Inference
from scrapy_supabase.schema.item_fields import ItemField, fields_of
from scrapy_supabase.schema.remedies import identifier
from tests.fix_project import MakeLine

Sql = Callable[..., list[tuple[Any, ...]]]


class State(Enum):
    """An enumeration, with a quote in one of its values."""

    NEW = "new"
    USED = "used, 'ok'"


Price = NewType("Price", Decimal)


@dataclasses.dataclass
class TBookItem:
    """An item class with every type of value."""

    url: str
    title: str | None
    price: Price
    state: State
    order: int
    tags: list[str] = dataclasses.field(default_factory=list)
    seen: datetime | None = None
    day: date | None = None
    at: time | None = None
    took: timedelta | None = None
    number: int | float = 0
    ratio: float = 0.5
    good: bool = True
    mark: uuid.UUID | None = None
    cover: bytes = b""
    language: Literal["en", "de"] = "en"
    more: dict[str, Any] | None = None
    what: Any = None


@attrs.define
class TTag:
    """An attrs class with a type in its metadata."""

    id: int
    label: str = attrs.field(metadata={"sql_type": "varchar(20)"})


class TPrice(pydantic.BaseModel):
    """A pydantic class with the key in its metadata."""

    shop: str = pydantic.Field(json_schema_extra={"primary_key": True})
    day: date = pydantic.Field(json_schema_extra={"primary_key": True})
    amounts: list[Decimal] = []
    note: Annotated[str, "free text"] | None = None


class TPage(scrapy.Item):
    """A Scrapy item, which has no annotations."""

    url = scrapy.Field(type=str, primary_key=True)
    depth = scrapy.Field(type=int, required=True)
    title = scrapy.Field()


class TLinks(scrapy.Item):
    """A Scrapy item with a nested field."""

    url = scrapy.Field(type=str)
    depth = scrapy.Field(type=int)
    title = scrapy.Field()
    links = scrapy.Field(type=list)


@dataclasses.dataclass
class TVisit:
    """An item class with types of other libraries."""

    url: yarl.URL
    page: pydantic.HttpUrl
    file: Path
    address: IPv4Address
    network: IPv4Network
    seen: pd.Timestamp
    took: pd.Timedelta
    at: np.datetime64
    length: np.timedelta64
    number: np.int64
    large: np.uint64
    ratio: np.float32
    good: np.bool_
    name: np.str_
    vector: np.ndarray[Any, Any]
    links: list[pydantic.HttpUrl]


BOOK = TBookItem(
    "u", None, Price(Decimal("9.99")), State.USED, 1, ["a"], datetime(2026, 1, 1, tzinfo=UTC), date(2026, 1, 1),
    time(10), timedelta(hours=1), 1.5, 0.1, False, uuid.uuid4(), b"\x00\xff", "de", {"a": [1]}, {"b": 2},
)  # fmt: skip

PAGE = pydantic.TypeAdapter(pydantic.HttpUrl).validate_python("https://a.example/")
VISIT = TVisit(
    yarl.URL("https://a.example"), PAGE, Path("a"), IPv4Address("10.0.0.1"), IPv4Network("10.0.0.0/8"),
    pd.Timestamp("2026-01-01", tz="UTC"), pd.Timedelta(minutes=-5), np.datetime64("2026-01-01T00:00"),
    np.timedelta64(-5, "s"), np.int64(1), np.uint64(2**63), np.float32(0.5), np.bool_(True), np.str_("a"),
    np.array([0.5, np.nan]), [PAGE],
)  # fmt: skip


def printed(capsys: pytest.CaptureFixture[str], *arguments: str, **settings: Any) -> str:
    """Return the output of the command."""
    parser = argparse.ArgumentParser()
    ddl.add_options(parser)
    assert ddl.run(Settings(settings), parser.parse_args(arguments)) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("item", "arguments"),
    [
        (BOOK, ["--key", "url"]),
        (TTag(1, "x"), []),
        (TPrice(shop="s", day=date(2026, 1, 1), amounts=[Decimal("1.10")]), []),
        (TPage(url="u", depth=1, title="t"), []),
        (VISIT, ["--key", "url"]),
    ],
)
def test_the_table_stores_the_items(
    capsys: pytest.CaptureFixture[str], sql: Sql, line: MakeLine, item: Any, arguments: list[str]
) -> None:
    """An item of each kind, upserted twice over the REST API, is stored once. The SQL may be run twice."""
    name = type(item).__name__
    statements = printed(capsys, f"tests.schema.test_ddl.{name}", "--table", "t_made", *arguments)
    sql(statements)
    sql(f"{statements}; notify pgrst, 'reload schema'")
    made = line("t_made")
    from itemadapter import ItemAdapter

    for _ in range(2):
        outcome = made.upload(dict(ItemAdapter(item)), table="t_made")
        assert (outcome.uploaded, outcome.rejections, outcome.fatal) == (1, (), None)
    assert sql("select count(*) from t_made") == [(1,)]


def test_the_columns_of_an_item_class(capsys: pytest.CaptureFixture[str]) -> None:
    """Types, NOT NULL for required fields, choices, reserved words, and text for unknown types."""
    text = printed(capsys, "tests.schema.test_ddl.TBookItem", "--key", "url")
    assert text == (
        "-- For items of tests.schema.test_ddl.TBookItem.\n"
        "-- what: type unknown; text accepts any value.\n"
        "create table if not exists public.t_book (\n"
        "  url text not null,\n"
        "  title text,\n"
        "  price numeric not null,\n"
        "  state text not null check (state in ('new', 'used, ''ok''')),\n"
        '  "order" bigint not null,\n'
        "  tags text[],\n"
        "  seen timestamptz,\n"
        "  day date,\n"
        "  at time,\n"
        "  took interval,\n"
        "  number numeric,\n"
        "  ratio double precision,\n"
        "  good boolean,\n"
        "  mark uuid,\n"
        "  cover bytea,\n"
        "  language text check (language in ('en', 'de')),\n"
        "  more jsonb,\n"
        "  what text,\n"
        "  primary key (url)\n"
        ");\n"
        "\n"
        "grant select, insert, update on public.t_book to service_role;\n"
        "alter table public.t_book enable row level security;\n"
    )


def test_types_of_other_libraries() -> None:
    """Each type is that of the values that a crawl sends."""
    assert {one.name: one.sql_type for one in fields_of(TVisit) or ()} == {
        "url": "text", "page": "text", "file": "text", "address": "inet", "network": "cidr",
        "seen": "timestamp with time zone", "took": "interval", "at": "timestamp with time zone", "length": "interval",
        "number": "bigint", "large": "numeric", "ratio": "double precision", "good": "boolean", "name": "text",
        "vector": "jsonb", "links": "text[]",
    }  # fmt: skip


def test_what_options_add_to_the_table(capsys: pytest.CaptureFixture[str], sql: Sql) -> None:
    """A hash as the key, constants, a path; beside a JSON column only the columns that options name."""
    common: dict[str, Any] = {
        "on_conflict": "key",
        "stamps": {"key": "hash(url)"},
        "constants": {"source": "{spider}", "active": True, "gone": None, "n": 1},
        "columns": {"title": "heading", "links.0": "first_link"},
    }
    page = "tests.schema.test_ddl.TLinks"
    sql(printed(capsys, page, SUPABASE_TABLES={page: {"table": "t_a", **common}}))
    sql(printed(capsys, page, SUPABASE_TABLES={page: {"table": "t_b", "json_column": "item", **common}}))
    columns = (
        "select column_name, data_type || ' ' || is_nullable from information_schema.columns where table_name = '{}'"
    )
    whole: dict[str, str] = dict(sql(columns.format("t_b")))
    assert whole == {
        "heading": "text YES",
        "first_link": "text YES",
        "item": "jsonb NO",
        "source": "text NO",
        "active": "boolean NO",
        "gone": "text YES",
        "n": "numeric NO",
        "key": "text NO",
    }
    all_columns: dict[str, str] = dict(sql(columns.format("t_a")))
    assert {"url", "depth"} < all_columns.keys()
    assert not {"links", "title"} & all_columns.keys()
    assert {name: all_columns.get(name) for name in whole if name != "item"}.items() <= all_columns.items()


def test_the_settings_of_the_table(capsys: pytest.CaptureFixture[str], sql: Sql) -> None:
    """Name, mapping, key, stamps, snapshots and the column for unknown fields; a unique index for the upsert's key."""
    text = printed(
        capsys,
        "tests.schema.test_ddl.TPage",
        SUPABASE_TABLES={
            "tests.schema.test_ddl.TPage": {
                "table": "t_pages",
                "columns": {"title": "Heading"},
                "on_conflict": ["depth", "run"],
            }
        },
        SUPABASE_STAMPS={"run": "run_id", "page": "url"},
        SUPABASE_DAILY_SNAPSHOTS=True,
        SUPABASE_UNKNOWN_COLUMNS="rest",
    )
    sql(text)
    columns = sql(
        "select column_name, data_type, is_nullable from information_schema.columns where table_name = 't_pages' "
        "order by ordinal_position"
    )
    assert columns == [
        ("url", "text", "NO"),
        ("depth", "bigint", "NO"),
        ("Heading", "text", "YES"),
        ("snapshot_date", "date", "NO"),
        ("snapshot_version", "integer", "NO"),
        ("run", "uuid", "NO"),
        ("page", "text", "YES"),
        ("rest", "jsonb", "YES"),
    ]
    indexes = {
        row[0].partition(" USING btree ")[2]
        for row in sql("select indexdef from pg_indexes where tablename = 't_pages'")
    }
    assert indexes == {"(url, snapshot_date, snapshot_version)", "(depth, run, snapshot_date, snapshot_version)"}


def test_the_id_of_a_parent(capsys: pytest.CaptureFixture[str]) -> None:
    """A column of the usual type of ids, instead of the field that identifies the parent."""
    options = {"table": "t_pages", "references": {"p": {"table": "t_p", "match": {"n": "depth"}, "column": "key"}}}
    text = printed(capsys, "tests.schema.test_ddl.TPage", SUPABASE_TABLES={"tests.schema.test_ddl.TPage": options})
    assert "-- p: the value of t_p.key. If that is no bigint, change the type.\n" in text
    assert "\n  p bigint" in text
    assert "depth" not in text


def test_a_public_key_gets_policies(capsys: pytest.CaptureFixture[str], sql: Sql, project: Any) -> None:
    """They are for the role of the key; with --public, everybody may read."""
    if not project.anon_key:
        return  # of somebody's project, without one
    text = printed(capsys, "tests.schema.test_ddl.TTag", "--table", "t_tags", "--public", SUPABASE_KEY=project.anon_key)
    sql(text)
    policies = sql("select cmd, roles::text from pg_policies where tablename = 't_tags' order by cmd, roles")
    assert policies == [("INSERT", "{anon}"), ("SELECT", "{anon}"), ("SELECT", "{public}"), ("UPDATE", "{anon}")]


def test_types_are_inferred_from_a_file(
    capsys: pytest.CaptureFixture[str], sql: Sql, line: MakeLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The narrowest type for all values; the table stores the rows unchanged."""
    rows: list[dict[str, Any]] = [
        {"id": 1, "n": 1, "big": 1, "price": 1.5, "day": "2026-01-01", "at": "2026-01-01T10:00:00+00:00", "mixed": 1,
         "tags": ["a"], "numbers": [1, 2.5], "nested": {"a": 1}, "none": None, "flag": True, "list": [{"a": 1}]},
        {"id": 2, "n": None, "big": 2**70, "price": 2, "day": "2026-02-28", "at": "2026-01-02T10:00:00+00:00",
         "mixed": "x", "tags": [], "numbers": [], "nested": [1], "flag": False, "list": []},
    ]  # fmt: skip
    lines = "\n".join(map(json.dumps, rows)).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(lines))))
    text = printed(capsys, "--from", "-", "--table", "t_rows", "--key", "id")
    for column in (
        "id bigint not null", "n bigint", "big numeric", "price numeric", "day date", "at timestamptz", "mixed text",
        "tags text[]", "numbers numeric[]", "nested jsonb", "none text", "flag boolean", "list jsonb",
    ):  # fmt: skip
        assert f"\n  {column},\n" in text, column
    sql(f"{text}; notify pgrst, 'reload schema'")
    for row in rows:
        outcome = line("t_rows").upload(row, table="t_rows")
        assert outcome.uploaded == 1, outcome
    stored = [row[0] for row in sql("select to_jsonb(t_rows) from t_rows order by id")]
    assert [{name: value for name, value in row.items() if name != "none"} for row in stored] == [
        {**{name: value for name, value in rows[0].items() if name != "none"}, "mixed": "1"},
        rows[1],
    ]


def test_types_are_inferred_from_csv(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A number with leading zeros is text: a number would lose them."""
    path = tmp_path / "shops.csv"
    path.write_text("id,zip,price,open,since\n1,01234,9.90,true,2026-01-01\n2,80331,10.00,false,\n")
    text = printed(capsys, "--from", str(path))
    assert "create table if not exists public.shops (" in text
    for column in ("id bigint not null", "zip text", "price numeric", "open boolean", "since date"):
        assert f"\n  {column},\n" in text, column


def test_snapshots_and_ledger(capsys: pytest.CaptureFixture[str], sql: Sql) -> None:
    """The function of the snapshots, and the ledger under any name. Both may be run twice."""
    text = printed(capsys, "--snapshots", "--runs", "t_Ledger of runs")
    sql(text)
    sql(text)
    sql("insert into \"t_Ledger of runs\" (run_id, spider, started_at) values (gen_random_uuid(), 's', now())")
    assert sql("select next_snapshot_version(array['t'], '2026-01-01')") == [(1,)]
    assert "scrapy_runs" not in text


def test_a_table_without_a_key(capsys: pytest.CaptureFixture[str], sql: Sql, line: MakeLine) -> None:
    """Its rows get a number, and a note warns of duplicates."""
    text = printed(capsys, "tests.schema.test_ddl.TBookItem", "--table", "t_made")
    assert "-- No columns are known to make a row unique: rows sent twice are stored twice." in text
    sql(f"{text}; notify pgrst, 'reload schema'")
    for number in (1, 2):
        outcome = line("t_made").upload(dataclasses.asdict(BOOK), table="t_made")
        assert (outcome.uploaded, outcome.fatal) == (1, None)
        assert sql("select max(id) from t_made") == [(number,)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["2026-01-01", "2026-02-30"], "text"),
        (["2026-01-01 10:00:00", "2026-01-01T10:00:00"], "timestamp without time zone"),
        (["2026-01-01T10:00:00Z", "2026-01-01"], "text"),
        (["10:00:00", "23:59:59.5"], "time without time zone"),
        ([str(uuid.UUID(int=1))], "uuid"),
        (["00000000-0000-0000-0000-00000000000A"], "text"),
        ([1, True], "text"),
        ([1, [1]], "jsonb"),
        ([[1], ["a"]], "text[]"),
        ([["a"], [{"b": 1}]], "jsonb"),
        (["a", {"b": 1}], "jsonb"),
        ([2**63 - 1], "bigint"),
        ([2**63], "numeric"),
        ([None], ""),
        ([float("nan"), "a"], "text"),
    ],
)
def test_inferred_types(values: list[Any], expected: str) -> None:
    """The type stores all of the values unchanged."""
    rows = Inference()
    rows.add_all({"x": value} for value in values)
    assert rows.fields == (ItemField("x", expected),)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Name either item classes"),
        (["a.B", "--from", "x.jsonl"], "Name either item classes"),
        (["tests.schema.test_ddl.Missing"], "doesn't define any object named 'Missing'"),
        (["tests.nothing.Missing"], "No module named 'tests.nothing'"),
        (["builtins.dict"], "--from rows.jsonl"),
        (["tests.schema.test_ddl.printed"], "is not an item class"),
        (["tests.schema.test_ddl.TTag", "--key", "nope"], r"--key names 'nope', .* It has: id, label\."),
        (["tests.schema.test_ddl.TTag", "--key", "id,"], "column names separated by commas"),
        (["tests.schema.test_ddl.TTag", "tests.schema.test_ddl.TPage", "--table", "t"], "--table names one table"),
        (["--from", "/does/not/exist.jsonl"], "cannot be read"),
    ],
)
def test_wrong_arguments(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    """The error names the argument."""
    with pytest.raises(ConfigurationError, match=message):
        printed(capsys, *arguments)


def test_a_bad_line_of_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The error names the line, and nothing is printed."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n[2]\n')
    with pytest.raises(ConfigurationError, match=r"rows\.jsonl, line 2: .* Fix or delete the line\."):
        printed(capsys, "--from", str(path))


def test_field_names_cannot_inject_sql(capsys: pytest.CaptureFixture[str], sql: Sql, tmp_path: Path) -> None:
    """Keys of scraped JSON are untrusted: they never become a statement, also not in comments."""
    path = tmp_path / "rows.jsonl"
    names = ["a\ndrop table t_kept;--", 'b"); drop table t_kept;--', "c'"]
    path.write_text(json.dumps({names[0]: None, names[1]: 1, names[2]: "x"}))
    sql("create table t_kept ()")
    sql(printed(capsys, "--from", str(path), "--table", "t_odd"))
    sql("select from t_kept")
    found = sql(
        "select column_name from information_schema.columns where table_name = 't_odd' order by ordinal_position"
    )
    assert [name for (name,) in found] == ["id", *names]


@dataclasses.dataclass
class Odd:
    """A field whose sql_type is not a text."""

    a: int = dataclasses.field(metadata={"sql_type": 5})


def test_wrong_metadata() -> None:
    """The error names the class and the field."""
    with pytest.raises(ConfigurationError, match=r"The sql_type of Odd\.a is 5 \(int\)"):
        fields_of(Odd)


def test_every_reserved_word_is_quoted(sql: Sql) -> None:
    """A column may have any name that PostgreSQL allows."""
    words = [row[0] for row in sql("select word from pg_get_keywords()")]
    sql(f"create table t_words ({', '.join(f'{identifier(word)} int' for word in words)})")
    assert len(sql("select column_name from information_schema.columns where table_name = 't_words'")) == len(words)


VALUES: dict[str, Any] = {
    "text": "twelve", "bigint": 7, "numeric": Decimal("9.99"), "double precision": 0.5, "boolean": True,
    "timestamp with time zone": datetime(2026, 1, 1, 10, tzinfo=UTC), "date": date(2026, 1, 1),
    "time without time zone": time(10), "interval": timedelta(hours=1), "uuid": uuid.UUID(int=1), "bytea": b"\xff",
    "jsonb": {"a": 1}, "text[]": ["a"], "bigint[]": [1],
    "inet": ip_address("10.0.0.1"), "cidr": ip_network("10.0.0.0/8"),
}  # fmt: skip


@pytest.mark.parametrize("value_type", VALUES)
def test_fit_agrees_with_postgresql(sql: Sql, value_type: str) -> None:
    """For values of each type in a column of each type, GOOD is accepted and NEVER is refused."""
    row, _ = encode_row({"x": VALUES[value_type]})
    for column_type in VALUES:
        try:
            sql(f"select x from json_to_recordset(%s::json) as _(x {column_type})", f"[{row.decode()}]")
            taken = True
        except psycopg.DataError:
            taken = False
        fits = fit(value_type, column_type)
        assert taken or fits is not Fit.GOOD, (value_type, column_type)
        assert not taken or fits is not Fit.NEVER, (value_type, column_type)
