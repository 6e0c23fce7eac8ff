"""`ddl --history`: a row for each change of the watched columns, however the rows are written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from scrapy_supabase.backends.merge_sql import function_sql
from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.models import Mode, WriteOptions
from scrapy_supabase.schema.history import History, history_sql
from tests.fix_project import MakeLine, Project
from tests.test_messages_commands import Command, command

__all__ = ["command"]  # a fixture
Sql = Callable[..., list[tuple[Any, ...]]]
TABLE = (
    "create table t (url text primary key, price numeric(8,2), stock int, tags jsonb, code char(3), title text, "
    "seen timestamptz); grant all on t to service_role;"
)
RELOAD = "; notify pgrst, 'reload schema'"
WRITINGS: dict[str, dict[str, Any]] = {
    "upsert": {},
    "if_changed": {"writing": WriteOptions(if_changed=True, ignored=("seen",))},
    "merge": {"writing": WriteOptions(merge=("tags",))},
    "update": {"mode": Mode.UPDATE},
}


@dataclasses.dataclass
class TOffer:
    """An item class."""

    url: str = dataclasses.field(metadata={"primary_key": True})
    price: Decimal
    title: str


@pytest.mark.parametrize("line", ["rest", "database"], indirect=True)
@pytest.mark.parametrize("how", WRITINGS)
def test_each_change_is_one_row(line: MakeLine, command: Command, sql: Sql, how: str) -> None:
    """The first value, too; a row of which only other columns change adds none. All columns have their types."""
    sql(TABLE + function_sql("public", "service_role") + RELOAD)
    printed = command("ddl", "--history", "price,stock,tags,code", "t", SUPABASE_STAMPS={"seen": "now"})
    assert command.code == 0, printed
    text = "\n".join(message.removeprefix("stdout: ") for message in printed)
    sql(text)
    sql(text)  # it may be run again
    if how == "update":
        sql("insert into t (url) values ('a'), ('b'); truncate t_history")
    stored = line(**WRITINGS[how])
    base = {"price": 4.5, "stock": 3, "tags": {"new": True}, "code": "abc", "title": "Emma"}
    one, two, three = (f"2026-11-0{day}T10:00:00Z" for day in (1, 2, 3))
    assert stored.upload({"url": "a", **base, "seen": one}, {"url": "b", **base, "seen": one}).uploaded == 2
    assert stored.upload({"url": "a", **base, "price": 3.9, "seen": two}).uploaded == 1
    assert stored.upload({"url": "a", **base, "price": 3.9, "title": "EMMA", "seen": three}).uploaded == 1
    assert stored.upload({"url": "a", "stock": None, "seen": three}).uploaded == 1
    found = sql("select url, price::text, stock, code, changed_at at time zone 'UTC' from t_history order by change_id")
    assert [(*row[:4], row[4].day) for row in found] == [
        ("a", "4.50", 3, "abc", 1),
        ("b", "4.50", 3, "abc", 1),
        ("a", "3.90", 3, "abc", 2),
        ("a", "3.90", None, "abc", 3),
    ]


def test_the_facts_come_from_the_database(command: Command, sql: Sql, project: Project) -> None:
    """Key and types over a connection, over REST, and from the item class; `--apply` runs the SQL."""
    sql(TABLE + RELOAD)
    over_rest = command("ddl", "--history", "price", "t", SUPABASE_TABLE=None)
    url: dict[str, Any] = {"SUPABASE_DB_URL": project.db_url, "SUPABASE_TABLE": None}
    assert over_rest == command("ddl", "--history", "price", "t", **url)
    assert "  price numeric," in "\n".join(over_rest)
    applied = command("ddl", "--apply", "--history", "price", "--public", "t", **url)
    assert command.code == 0, applied
    sql("insert into t (url, price) values ('a', 1)")
    assert sql("select url, price from t_history") == [("a", 1)]
    assert sql("select relrowsecurity from pg_class where relname = 't_history'") == [(True,)]
    assert sql("select has_table_privilege('anon', 't_history', 'select')") == [(True,)]
    # later with one more column
    assert command("ddl", "--apply", "--history", "price,code", "t", **url)
    sql("update t set code = 'x'")
    assert sql("select price, code from t_history order by change_id") == [(1, None), (1, "x")]
    nowhere: dict[str, Any] = {"SUPABASE_URL": "http://127.0.0.1:1", "SUPABASE_TABLE": None}
    entry = {f"{__name__}.TOffer": "t"}
    of_class = "\n".join(command("ddl", "--history", "price", "t", SUPABASE_TABLES=entry, **nowhere))
    assert "  price numeric," in of_class, of_class
    assert "values (new.url, new.price, now());" in of_class
    unknown = "\n".join(command("ddl", "--history", "price", "--key", "url", "t", **nowhere))
    assert "-- price: type unknown; text accepts any value." in unknown


def test_odd_names_and_types(sql: Sql) -> None:
    """Names are quoted, and a column of type json is compared, too. A key column is not watched."""
    sql('drop table if exists "t Odd", "t Odd_history" cascade')
    sql('create table "t Odd" ("Key" int primary key, "Was" json, "user" text)')
    types = {"Key": "integer", "Was": "json", "user": "text"}
    sql(history_sql(History("t Odd", "public", ("Key",), ("Was", "Key", "user"), types)))
    sql("""insert into "t Odd" values (1, '{}', 'a')""")
    sql("""update "t Odd" set "Was" = '{}'; update "t Odd" set "Was" = '[]'; update "t Odd" set "user" = null""")
    found = sql('select "Key", "Was"::text, "user" from "t Odd_history" order by change_id')
    assert found == [(1, "{}", "a"), (1, "[]", "a"), (1, "[]", None)]
    sql('drop table "t Odd", "t Odd_history" cascade')
    with pytest.raises(ConfigurationError, match="longer than"):
        history_sql(History("t" * 60, "public", ("id",), ("n",), {}))
