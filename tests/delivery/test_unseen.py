"""The option `unseen`: the rows that a complete crawl did not store are marked or deleted, over both backends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from scrapy_supabase.backends.base import Backend
from scrapy_supabase.backends.filters import Condition, Filter, differs, equal, one_of
from scrapy_supabase.backends.postgres import PostgresBackend
from scrapy_supabase.backends.postgrest import PostgrestBackend
from scrapy_supabase.delivery.unseen import change_unseen, check_unseen
from scrapy_supabase.errors import FatalError, MissingReferenceError, SchemaDriftError, ServerError
from scrapy_supabase.models import Mode
from scrapy_supabase.monitoring.run import Run
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.schema.table_spec import TableSpec, Unseen
from tests.fix_project import Project, as_role
from tests.polling import eventually

Sql = Callable[..., list[tuple[Any, ...]]]
TABLE = """create table t ("Id" int primary key, title text, source text, "RunId" text, "IsActive" boolean,
  gone_at timestamptz, seen_at timestamptz);
create table t_other (id int primary key, t_id int references t); grant all on t, t_other to service_role"""


@pytest.fixture(params=["rest", "database", "pooler"])
def backend(request: pytest.FixtureRequest, project: Project) -> Iterator[Backend]:
    """A backend of each kind."""
    made: Backend
    if request.param == "rest":
        made = PostgrestBackend(project.url, project.key)
    elif request.param == "pooler":
        made = PostgresBackend(request.getfixturevalue("bouncer").url("service_role"))
    else:
        made = PostgresBackend(as_role(project.db_url, "service_role"))
    yield made
    made.close()


@pytest.fixture
def table(sql: Sql) -> Sql:
    """Ten rows of this run, ten of another one, of which one has no id of a run; and rows of another source."""
    sql(f"{TABLE}; notify pgrst, 'reload schema'")
    sql("""insert into t select n, 'a, "b"', 'shop', case when n < 10 then 'own' when n < 19 then 'old' end, true, null,
      now() - case when n < 10 then interval '0' else interval '1 day' end from generate_series(0, 19) n""")
    sql("""insert into t values (90, null, 'else', null, true, null, null)""")
    return sql


def own_run() -> Run:
    """A run with the id `own`."""
    run = Run("books")
    run.id = "own"
    return run


def once(func: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function, without retries."""
    return func(*arguments)


def change(backend: Backend, unseen: Unseen) -> tuple[int, int, bool]:
    """Change the unseen rows; return their number, that of the candidates, and whether they were too many."""
    found = change_unseen(backend, once, "t", unseen, own_run())
    return found.rows, found.candidates, found.too_many


MARK = Unseen("RunId", constants={"IsActive": False}, stamps={"gone_at": "now"}, where={"source": "shop"}, at_most=0.5)


def test_rows_are_marked_once(backend: Backend, table: Sql) -> None:
    """At the limit, all are; rows that are marked already are no candidates. Names and NULL need care."""
    assert change(backend, MARK) == (10, 20, False)
    assert table('select min("Id"), max("Id"), count(*) from t where not "IsActive" and gone_at is not null') == [
        (10, 19, 10)
    ]
    assert change(backend, MARK) == (0, 0, False)
    assert table('select "IsActive", gone_at from t where "Id" = 90') == [(True, None)]
    table("""update t set "IsActive" = null where "Id" = 12""")
    assert change(backend, MARK) == (1, 11, False)


def test_too_many_rows(backend: Backend, table: Sql) -> None:
    """Nothing is changed."""
    unseen = Unseen("RunId", constants={"IsActive": False}, where={"source": ["shop", "x"]}, at_most=0.49)
    assert change(backend, unseen) == (10, 20, True)
    assert table('select count(*) from t where not "IsActive"') == [(0,)]


def test_rows_are_deleted_all_or_none(backend: Backend, table: Sql) -> None:
    """A row that another one refers to keeps them all."""
    unseen = Unseen("RunId", where={"title": 'a, "b"', "Id": {"gte": 15}}, at_most=1.0)
    table("insert into t_other values (1, 19)")
    with pytest.raises(MissingReferenceError):
        change(backend, unseen)
    assert table("select count(*) from t") == [(21,)]
    table("delete from t_other")
    assert change(backend, unseen) == (5, 5, False)
    assert table("select count(*) from t") == [(16,)]


def test_stamps_alone_and_rows_by_their_time(backend: Backend, table: Sql) -> None:
    """Without a constant, rows without a value are not marked yet. All stamps have the value of the run."""
    stamps = {"gone_at": "date", "title": "spider", "RunId": "run_id"}
    unseen = Unseen("seen_at", by_time=True, stamps=stamps, at_most=0.6)
    run = Run("books")
    table("update t set seen_at = %s where \"RunId\" = 'own'", run.started)
    table("update t set \"RunId\" = 'old', title = 'x' where \"RunId\" is null")
    found = change_unseen(backend, once, "t", unseen, run)
    assert (found.rows, found.candidates) == (11, 21)
    today = "(now() at time zone 'utc')::date"
    assert table(f"select gone_at::date = {today}, title, count(*) from t group by 1, 2 order by 2") == [
        (None, 'a, "b"', 10),
        (True, "books", 11),
    ]
    assert change_unseen(backend, once, "t", unseen, run).rows == 0


def test_a_column_that_rounds_times(backend: Backend, table: Sql) -> None:
    """A row that is stored in the second in which the run starts is seen."""
    table("alter table t alter seen_at type timestamptz(0)")
    run = Run("books")
    run.started = run.started.replace(microsecond=200_000)
    table("update t set seen_at = %s where \"RunId\" = 'own'", run.started.replace(microsecond=400_000))
    assert change_unseen(backend, once, "t", Unseen("seen_at", by_time=True, at_most=1), run).rows == 11


def test_counts_and_conditions(backend: Backend, table: Sql) -> None:
    """What is sent changes only rows that meet all conditions, also if there are none."""
    where: tuple[Filter, ...] = (equal("source", "shop"), one_of("Id", ["1", "2", "77"]), differs("RunId", None))
    assert backend.count("t", where) == 2
    assert backend.update("t", where, ["title", "gone_at"], b'{"title": "\\u00e9", "gone_at": null}') == 2
    assert backend.update("t", [*where, Condition("title", "null")], ["title"], b'{"title": "no"}') == 0
    assert table("select count(*) from t where title = 'é'") == [(2,)]
    assert backend.count("t", ()) == 21
    with pytest.raises(SchemaDriftError):
        backend.update("t", where, ["nope"], b'{"nope": 1}')
    with pytest.raises(ServerError):
        backend.count("t", [equal("nope", "1")])
    assert backend.delete("t", where) == 2
    assert backend.count("t", where) == 0


@pytest.mark.parametrize(
    ("unseen", "code", "remedy"),
    [
        (Unseen("run_id"), "PGRST204", "ALTER TABLE public.t ADD COLUMN run_id text;"),
        (
            Unseen("RunId", constants={"on": True, "n": 1, "x": None}, stamps={"gone": "now"}, where={"shop": ["a"]}),
            "PGRST204",
            "ALTER TABLE public.t ADD COLUMN x text; ALTER TABLE public.t ADD COLUMN gone timestamptz;",
        ),
        (Unseen("RunId", where={"Id": "shop"}), "22P02", "Correct the columns and values of unseen"),
        (Unseen("RunId", stamps={"IsActive": "now"}), "22P02", "Correct the columns and values of unseen"),
        (Unseen("RunId", constants={"gone_at": "soon"}), "22007", "Correct the columns and values of unseen"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found_when_the_crawl_opens(
    backend: Backend, table: Sql, unseen: Unseen, code: str, remedy: str
) -> None:
    """Columns that are missing, and values that do not fit; a right option passes and changes nothing."""
    schema = Schema({"t": TableSpec("t", unseen=MARK)})
    for name, info in (backend.describe() or {}).items():
        schema.learn(name, info)
    check_unseen(TableSpec("t", unseen=MARK), schema, backend, once)
    with pytest.raises(FatalError) as failed:
        check_unseen(TableSpec("t", unseen=unseen), schema, backend, once)
    assert failed.value.code == code
    assert remedy in failed.value.remedy
    assert table("select count(*) from t where \"IsActive\" and source in ('shop', 'else')") == [(21,)]


def test_rights_are_checked_when_the_crawl_opens(backend: Backend, table: Sql) -> None:
    """The GRANT in the message is enough."""
    table("revoke delete, update on t from service_role")
    schema = Schema({"t": TableSpec("t", on_conflict=("Id",))})
    for unseen in (MARK, Unseen("RunId")):
        with pytest.raises(FatalError) as failed:
            check_unseen(TableSpec("t", unseen=unseen), schema, backend, once)
        assert failed.value.reason == "supabase_permission_denied"
        table(failed.value.remedy.partition("run: ")[2])
        check_unseen(TableSpec("t", unseen=unseen), schema, backend, once)


def test_a_table_without_a_key(backend: Backend, sql: Sql) -> None:
    """Each crawl adds its rows, so that all others would look unseen."""
    sql("create table t (id int, run_id text); grant all on t to service_role")
    spec = TableSpec("t", Mode.UPSERT, unseen=Unseen("run_id"))
    with pytest.raises(FatalError, match="the key of table t is not known"):
        check_unseen(spec, Schema({"t": spec}), backend, once)


@pytest.mark.parametrize("returns", ["void", "json", "setof int", "t_other"])
def test_functions(backend: Backend, table: Sql, returns: str) -> None:
    """Found without a call, by name and names of arguments, and called whatever they return."""
    arguments, name = ["run_id", "reason", "counts"], f"t_end_{returns.replace(' ', '_')}"
    drop = f"drop function if exists {name}(text, text, json); notify pgrst, 'reload schema'"
    table(drop)
    assert eventually(lambda: backend.lacks_function(name, arguments))
    body = {"void": "", "json": "select counts", "setof int": "select 1", "t_other": "select * from t_other"}[returns]
    insert = "insert into t_other values (length(run_id), null)"
    table(
        f"create function {name}(run_id text, reason text, counts json) returns {returns} language sql as "
        f"$$ {insert}; {body or insert.replace('run_id', 'reason')} $$; notify pgrst, 'reload schema'"
    )
    try:
        assert eventually(lambda: not backend.lacks_function(name, arguments))  # the schema is read again soon
        assert backend.lacks_function(name, arguments[:2])
        backend.call(name, {"run_id": "abc", "reason": "finished", "counts": {"total": {"uploaded": 1}}})
        assert (3,) in table("select id from t_other")
    finally:
        table(drop)
