"""Views: their keys, upserts into them, and the remedy if the database refuses upserts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from scrapy_supabase.backends.postgres import PostgresBackend
from scrapy_supabase.errors import FatalError
from tests.fix_project import MakeLine, Project

Sql = Callable[..., list[tuple[Any, ...]]]

TABLE = """
create table t (id bigint, lang text, title text, author bigint, gone int, primary key (id, lang));
alter table t drop column gone; grant all on t to service_role;
"""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test over REST and over a database connection."""
    if "line" in metafunc.fixturenames:
        metafunc.parametrize("line", ["rest", "database"], indirect=True)


@pytest.fixture
def schema(sql: Sql) -> Iterator[Sql]:
    """Return `sql`, with a schema `mine` that is dropped after the test."""
    sql("create schema mine")
    yield sql
    sql("drop schema mine cascade")


KEYS = {
    "select * from t": ["id", "lang"],
    "select lang, title, id as number from t": ["number", "lang"],
    "select id, title from t": [],
    "select id + 0 as id, lang from t": [],
    "select id, lang, (select max(a.id) from mine.authors a) as author from t": ["id", "lang"],
    "select id, lang from t where author in (select a.id from mine.authors a where a.name <> '')": ["id", "lang"],
    "select * from (select lang, id as inner_id from t) s": ["inner_id", "lang"],
    "with found as (select id, lang from t) select * from found": ["id", "lang"],
    "select id, id as again, lang from t": ["id", "lang"],
    'select id as ":resno 1 {", lang as "a } \\ ( b" from t': [":resno 1 {", "a } \\ ( b"],
    "select second as third, lang from mine.first_view": ["third", "lang"],
    "select name, id from mine.authors": ["id"],
    "select t.id, t.lang, a.id as author_id from t join mine.authors a on a.id = t.author": ["id", "lang", "author_id"],
    "select title from t group by title": [],
    "select id, lang from t union all select id, lang from t": [],
}


def test_the_key_of_a_view(schema: Sql, project: Project) -> None:
    """The key of its table by the view's names, if the view has all its columns; also through other views."""
    schema(TABLE)
    schema("create table mine.authors (id bigint primary key, name text)")
    schema("create view mine.first_view as select id as second, lang from t")
    for number, query in enumerate(KEYS):
        schema(f"create view t_{number} as {query}")
    schema("create materialized view t_stored as select * from t")
    try:
        backend = PostgresBackend(project.db_url)
        found = backend.describe()
        views = {name: backend.view(name) for name in found}
        backend.close()
    finally:
        for number in range(len(KEYS)):
            schema(f"drop view if exists t_{number} cascade")
    assert {query: list(found[f"t_{n}"].primary_key) for n, query in enumerate(KEYS)} == KEYS
    assert found["t_stored"].primary_key == ("id", "lang")
    assert found["t"].primary_key == ("id", "lang")
    assert [name for name, view in views.items() if view is None and name.startswith("t_")] == []
    assert views["t"] is None


def test_upserts_into_a_view(sql: Sql, line: MakeLine, caplog: pytest.LogCaptureFixture) -> None:
    """Without SUPABASE_ON_CONFLICT, upserts use the key of its table."""
    sql(TABLE)
    sql("create view t_view as select id as number, lang, title from t where id > 0 with check option")
    sql("grant all on t_view to service_role; notify pgrst, 'reload schema'")
    made = line("t_view", fields={"t_view": ["number", "lang", "title"]})
    for title in ("old", "new"):
        assert made.upload({"number": 1, "lang": "en", "title": title}, table="t_view").uploaded == 1
    assert sql("select id, title from t") == [(1, "new")]
    assert not caplog.messages


TRIGGER = """
create view t_inbox as select id, lang, title from t;
create or replace function t_take() returns trigger language plpgsql as $$ begin insert into t (id, lang, title)
values (new.id, new.lang, new.title) on conflict (id, lang) do update set title = excluded.title; return new; end $$;
create trigger take instead of insert on t_inbox for each row execute function t_take();
grant all on t_inbox to service_role; notify pgrst, 'reload schema'
"""


def test_a_view_with_a_trigger(sql: Sql, line: MakeLine, caplog: pytest.LogCaptureFixture) -> None:
    """The trigger stores the rows; the message proposes no index, as a view can have none."""
    sql(TABLE + TRIGGER)
    made = line("t_inbox")
    for title in ("old", "new"):
        assert made.upload({"id": 1, "lang": "en", "title": title}, table="t_inbox").uploaded == 1
    assert sql("select title from t") == [("new",)]
    (said,) = (message for message in caplog.messages if "refuses upserts" in message)
    assert 'set SUPABASE_MODE = "insert"' in said
    assert "CREATE UNIQUE INDEX" not in caplog.text
    with pytest.raises(FatalError) as raised:
        line("t_inbox", fallback=False)
    assert "CREATE UNIQUE INDEX" not in str(raised.value)


def test_a_view_that_was_not_checked(sql: Sql, line: MakeLine, caplog: pytest.LogCaptureFixture) -> None:
    """The remedy is the same for a table that only rows of an earlier run go to."""
    sql(TABLE + TRIGGER)
    made = line("t_inbox", check=False, on_conflict=("id", "lang"))
    assert made.upload({"id": 1, "lang": "en", "title": "a"}, table="t_inbox").uploaded == 1
    assert 'set SUPABASE_MODE = "insert"' in caplog.text
    assert "CREATE UNIQUE INDEX" not in caplog.text


def test_a_view_whose_table_lacks_the_index(
    sql: Sql, line: MakeLine, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    """The remedy is an index on the table, with its column names. Only a database connection reports the table."""
    sql("create table t (id bigint primary key, link text); grant all on t to service_role")
    sql("create view t_view as select id, link as url from t; grant all on t_view to service_role")
    sql("notify pgrst, 'reload schema'")
    line("t_view", on_conflict=("url",))
    (said,) = (message for message in caplog.messages if "refuses upserts" in message)
    assert "INDEX ON public.t_view" not in said
    if "database" not in request.node.name:
        assert "It is a view: create the unique index on its table" in said
        return
    assert said.endswith("Run: CREATE UNIQUE INDEX ON public.t (link);")
    sql(said.partition("Run: ")[2])
    caplog.clear()
    line("t_view", on_conflict=("url",))
    assert "refuses upserts" not in caplog.text


def test_a_partial_index(
    sql: Sql, line: MakeLine, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    """The message names it and proposes no other. A partial index on other columns does not count."""
    sql("create table t (id bigint primary key, url text, live bool); grant all on t to service_role")
    sql("create unique index t_live on t (url) include (id) where live")
    line(on_conflict=("url",))
    if "database" not in request.node.name:  # the REST API tells nothing of indexes
        return
    assert "Its unique index t_live is partial" in caplog.text
    assert "CREATE UNIQUE INDEX" not in caplog.text
    caplog.clear()
    line(on_conflict=("live",))
    assert "Run: CREATE UNIQUE INDEX ON public.t (live);" in caplog.text
