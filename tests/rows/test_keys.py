"""The newest version of a row is stored, for every type of key and every spelling of its values."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scrapy.settings import Settings

from scrapy_supabase.assembly import new_schema
from scrapy_supabase.backends.postgres import PostgresBackend
from scrapy_supabase.backends.postgrest import PostgrestBackend
from scrapy_supabase.delivery.upload_state import Slice, UploadState
from scrapy_supabase.errors import ServerError
from scrapy_supabase.models import Chunk, Mode, Row, UncertainKey, group_of, may_overlap
from scrapy_supabase.monitoring.run import Run
from scrapy_supabase.rows.keys import KeyForm
from scrapy_supabase.script import Upload
from scrapy_supabase.settings.config import Config
from scrapy_supabase.spool.disk import DiskSpool
from scrapy_supabase.spool.no_spool import NoSpool
from tests.fix_project import Project, as_role

Sql = Callable[..., list[tuple[Any, ...]]]

SPELLINGS: dict[str, list[Any]] = {
    "text": ["a", "A", "a ", "", "\u00e9", "e\u0301", 1, "1", True, "true", "\x1f", 1.0],
    "varchar(2)": ["a", "A", "a ", "a  ", "ab", "ab ", 1, "1"],
    "char(4)": ["ab", "ab  ", "ab ", "AB", " ab", "", 1, "1 "],
    "citext": ["ann", "Ann", "ANN", "ann ", "\u00e9", "\u00c9", "i", "I", "1", 1],
    "t_domain": ["ann", "Ann", "bob", "Bob"],
    "integer": [1, "1", " 1", "+1", "01", "-0", 0, "0", 2, "0x1"],
    "bigint": [2**53, 2**53 + 1, str(2**53), f" +{2**53 + 1} "],
    "numeric": [
        1,
        1.0,
        "1",
        "1.0",
        "1e0",
        "0.1e1",
        " 1 ",
        1.5,
        "1.50",
        "-0",
        0,
        "0.0",
        "NaN",
        "nan",
        2**70,
        f"{2**70}.0",
    ],
    "numeric(5,2)": [1, 1.0, "1.001", "1.004", "1.005", "1.01", 1.5],
    "real": [1, 1.0, "1.00000001", 0.1, "0.10000000149", 16777216, 16777217],
    "double precision": [
        1,
        1.0,
        "1e0",
        "1.00000000000000000001",
        0.1,
        "0.1",
        "-0",
        0,
        "Infinity",
        "inf",
        2**53,
        2**53 + 1,
    ],
    "boolean": [True, "t", "TRUE", "yes", "on", "1", 1, False, "f", "n", "of", 0, " no "],
    "uuid": [
        "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
        "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}",
        "a0eebc999c0b4ef8bb6d6bb9bd380a11",
        "a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11",
        "00000000-0000-0000-0000-000000000000",
    ],
    "bytea": ["\\xdead", "\\xDEAD", "\\xde ad", "\\336\\255", "a", "\\x61", 1, "\\x31", ""],
    "inet": ["10.0.0.1", "10.0.0.1/32", "10.0.0.1/24", "::1", "0:0:0:0:0:0:0:1", "::ffff:1.2.3.4", "::ffff:102:304"],
    "date": [
        "2026-01-02",
        "2026-01-02T23:59:59Z",
        "2026-01-02 10:00+05",
        "2026-01-02T23:59:59.9999999",
        "Jan 2, 2026",
        "20260102",
        "2026-01-03",
        "infinity",
        "2026-02-28",
    ],
    "timestamp": [
        "2026-01-01",
        "2026-01-01T00:00:00",
        "2026-01-01 00:00",
        "2026-01-01T00:00:00+02:00",
        "2026-01-01T00:00:00.0",
        "2026-01-01T00:00:00.1234565",
        "2026-01-01T00:00:00.123456",
        "2025-12-31T23:59:59.9999999",
        "Jan 1, 2026",
    ],
    "timestamp(0)": ["2026-01-01T00:00:00.2", "2026-01-01T00:00:00", "2026-01-01T00:00:00.5", "2026-01-01T00:00:01"],
    "timestamptz": [
        "2026-01-01T10:00:00Z",
        "2026-01-01T10:00:00+00:00",
        "2026-01-01t10:00:00z",
        "2026-01-01 12:00:00+02",
        "2026-01-01 04:30:00-0530",
        "2026-01-01T10:00:00",
        "2026-01-01 10:00:00 UTC",
        "2026-01-01T10:00:00.000000Z",
    ],
    "timestamptz(3)": ["2026-01-01T10:00:00.0001Z", "2026-01-01T10:00:00Z", "2026-01-01T10:00:00.0006Z"],
    "interval": ["1 day", "24:00:00", "PT24H", "P1D", "1 hour"],
    "time": ["10:00", "10:00:00", "T10:00:00", "10:00:00.0000001"],
    "t_mood": ["sad", "glad"],
    "jsonb": ['{"a": 1}', '{"a": 1.0}', '{"b": 2, "a": 1}', {"a": 1}, 1],
    "int[]": ["{1,2}", "{1, 2}", [1, 2], "{2,1}"],
    "macaddr": ["08:00:2b:01:02:03", "08-00-2b-01-02-03", "08002b:010203"],
}
TYPES = {name: f"t_k{number}" for number, name in enumerate(SPELLINGS)}


@pytest.fixture
def tables(sql: Sql) -> Iterator[Sql]:
    """For each type of key, a table with that key and one with a two-column key, and a second pair for comparison."""
    sql("create extension if not exists citext")
    sql("drop type if exists t_mood cascade; drop domain if exists t_domain, t_inner")
    sql(
        "create type t_mood as enum ('sad', 'glad'); create domain t_inner as citext; create domain t_domain as t_inner"
    )
    for kind, name in TYPES.items():
        for other in ("", "_expected"):
            sql(f"""create table {name}{other} (k {kind} primary key, version int, note text);
                create table {name}_two{other} (k {kind}, part int, version int, note text, primary key (part, k));
                grant all on {name}{other}, {name}_two{other} to service_role, anon""")
    sql("notify pgrst, 'reload schema'")
    yield sql
    for name in TYPES.values():
        sql(f"drop table {name}, {name}_expected, {name}_two, {name}_two_expected")
    sql("drop type t_mood; drop domain t_domain, t_inner")


def as_sent(value: Any) -> str:
    """Return the JSON of a row with this key."""
    return json.dumps({"k": value})


@pytest.mark.parametrize("told", ["database", "document", "refusals"])
def test_keys_are_compared_as_the_database_compares_them(tables: Sql, project: Project, told: str) -> None:
    """For each pair of spellings of each type, and each source of a column's type."""
    backend = (
        PostgresBackend(project.db_url)
        if told == "database"
        else PostgrestBackend(project.url, project.key if told == "document" else project.anon_key)
    )
    described = backend.describe() or {}
    assert bool(described) == (told != "refusals")
    known = 0
    for kind, table in TYPES.items():
        info = described.get(table)
        types = {**info.columns, **info.key_types} if info else {"k": backend.type_of(table, "k")}
        assert types["k"] or kind in ("jsonb", "int[]")
        form = KeyForm(("k",), types)
        read = f"(select k from json_to_record(%s) as r(k {kind}))"
        for one, other in product(SPELLINGS[kind], repeat=2):
            try:
                [(equal,)] = tables(f"select {read} = {read}", as_sent(one), as_sent(other))
            except psycopg.DataError:
                continue  # no value of the type
            first, second = form.of({"k": one}), form.of({"k": other})
            assert first is not None
            assert second is not None
            meet = may_overlap({group_of(first)}, {group_of(second)})
            assert meet or not equal, (kind, one, other)
            assert equal or first != second, (kind, one, other)
            if type(first) is str and type(second) is str:
                known += 1
                assert (first == second) == equal, (kind, one, other)
    assert known > 500
    backend.close()


@pytest.mark.parametrize("kind", ["integer", "numeric", "double precision", "boolean", "uuid"])
def test_an_invalid_key_is_certain(sql: Sql, kind: str) -> None:
    """The database rejects such a row, so that no other row has to wait for it."""
    form = KeyForm(("k",), {"k": kind})
    for value in ("seven", "", " ", "N/A", "12 EUR", "1,5", "nano", "-", "None"):
        try:
            sql(f"select k from json_to_record(%s) as r(k {kind})", as_sent(value))
        except psycopg.DataError:
            assert type(form.of({"k": value})) is str or value == "-"
        else:
            pytest.fail(f"{value!r} is a value of {kind}")


@pytest.mark.parametrize("known", ["generated", "primary key not told"])
def test_chunks_of_a_table_with_an_unknown_key_are_sent_one_by_one(sql: Sql, project: Project, known: str) -> None:
    """The key is a generated column, or a primary key that the anonymous role cannot read."""
    generated = known == "generated"
    sql("""create table t (url text primary key, version int,
        hash text generated always as (lower(url)) stored unique); grant all on t to service_role, anon;
        create or replace function t_slowly() returns trigger language plpgsql as $$ begin
        perform pg_sleep(case when new.version = 12 then 0.3 else 0 end); return new; end $$;
        create trigger slowly before insert on t for each row execute function t_slowly();
        notify pgrst, 'reload schema'""")
    given = {
        "SUPABASE_URL": project.url,
        "SUPABASE_KEY": project.key if generated else project.anon_key,
        "SUPABASE_TABLE": "t",
        "SUPABASE_ON_CONFLICT": ["hash"] if generated else [],
        "BATCH_CHUNK_SIZE": 1,
    }
    config = Config.from_settings(Settings(given), {})
    with Upload(config, Run("keys"), new_schema(config), NoSpool()) as upload:
        upload.begin()
        upload.build_and_add({"url": "u", "version": version} for version in range(1, 14))
        upload.finish()
    assert upload.result.uploaded == 13
    assert sql("select version from t") == [(13,)]


ARRIVALS = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 1), st.booleans()), min_size=2, max_size=25)


@pytest.mark.parametrize("over", ["rest", "database", "anon"])
def test_the_newest_version_is_stored(tables: Sql, project: Project, over: str, tmp_path_factory: Any) -> None:
    """For any type, chunk size and concurrency; with `ignore`, the oldest. Some uploads are slowed down."""
    sql = tables
    sql("""create or replace function t_slowly() returns trigger language plpgsql as $$ begin
        perform pg_sleep(case when new.version % 3 = 0 then 0.003 else 0 end); return new; end $$""")
    for name in TYPES.values():
        for table in (name, f"{name}_two"):
            sql(f"create trigger slowly before insert on {table} for each row execute function t_slowly()")

    @settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
    @given(
        kind=st.sampled_from(list(SPELLINGS)),
        arrivals=ARRIVALS,
        two=st.booleans(),
        rows=st.integers(1, 6),
        uploads=st.integers(1, 4),
        mode=st.sampled_from([Mode.UPSERT, Mode.IGNORE]),
        spooled=st.booleans(),
    )
    def check(
        kind: str, arrivals: list[tuple[int, int, bool]], two: bool, rows: int, uploads: int, mode: Mode, spooled: bool
    ) -> None:
        table = TYPES[kind] + ("_two" if two else "")
        key = ["part", "k"] if two else ["k"]
        sql(f"truncate {table}, {table}_expected")
        items: list[dict[str, Any]] = []
        for version, (which, part, noted) in enumerate(arrivals, 1):
            spelled = SPELLINGS[kind][which % len(SPELLINGS[kind])]
            items.append(
                {
                    "k": spelled,
                    "version": version,
                    **({"part": part} if two else {}),
                    **({"note": "n"} if noted else {}),
                }
            )
            names = [*key, "version"]
            change = "nothing" if mode is Mode.IGNORE else "update set version = excluded.version"
            try:
                sql(
                    f"insert into {table}_expected ({', '.join(names)}) select {', '.join(names)} "
                    f"from json_to_record(%s) as r(k {kind}, part int, version int) "
                    f"on conflict ({', '.join(key)}) do {change}",
                    json.dumps(items[-1]),
                )
            except psycopg.DataError:
                items.pop()
        given = {
            "SUPABASE_URL": project.url,
            "SUPABASE_KEY": project.anon_key if over == "anon" else project.key,
            "SUPABASE_TABLE": table,
            "SUPABASE_MODE": mode.value,
            "SUPABASE_ON_CONFLICT": key if over == "anon" else [],
            "BATCH_CHUNK_SIZE": rows,
            "BATCH_RETRY_DELAY": 0.01,
            "SUPABASE_CONCURRENT_UPLOADS": uploads,
        }
        if over == "database":
            given["SUPABASE_DB_URL"] = as_role(project.db_url, "service_role")
        config = Config.from_settings(Settings(given), {})
        run, schema = Run("keys"), new_schema(config)
        folder = tmp_path_factory.mktemp("spool")
        spool = DiskSpool(folder, run.folder, schema, {"project": "p"}) if spooled else NoSpool()
        with Upload(config, run, schema, spool) as upload:
            upload.begin()
            upload.build_and_add(items)
            upload.finish()
        result = upload.result
        assert (result.failed, result.left, result.error) == (0, 0, None)
        assert result.uploaded + result.superseded == len(items)
        read = "select version from {} order by version"
        assert sql(read.format(table)) == sql(read.format(f"{table}_expected"))

    check()


def state_of(*keys: Any) -> tuple[UploadState[Any], tuple[Row, ...]]:
    """Return the upload state and the rows of a chunk whose rows have these keys, before any request."""
    rows = tuple(Row("t", ("k",), key, str(number).encode()) for number, key in enumerate(keys))
    return UploadState(Chunk(1, rows, "1.jsonl"), []), rows


UNCERTAIN = [UncertainKey("n", (str(number),)) for number in range(5)]
SURE = [str(number) for number in range(5)]


@pytest.mark.parametrize(("keys", "later"), [(UNCERTAIN, 4), (SURE, 2)])
def test_a_newer_row_waits_for_a_kept_row_of_its_key(keys: list[Any], later: int) -> None:
    """If a row is deferred or left, rows that may have the same key are not sent before it."""
    for kept in ("deferred", "left"):
        state, rows = state_of(*keys[:4])
        state.slices.append(Slice(rows[2:]))
        (state.defer if kept == "deferred" else state.leave)(rows[:2])
        assert getattr(state.outcome(), kept) == rows[:later]


@pytest.mark.parametrize(("keys", "order"), [(UNCERTAIN, ["0", "1", "2", "34"]), (SURE, ["034", "1", "2"])])
def test_a_suspect_row_keeps_its_order_among_rows_of_uncertain_keys(keys: list[Any], order: list[str]) -> None:
    """The suspect row may be good, and older than another row of its key."""
    state, rows = state_of(*keys)
    state.set_aside(rows[1:3], rows, ServerError("no", code="23514"), sure=False)
    sent = [b"".join(row.data for row in part.rows).decode() for part in reversed(state.slices)]
    assert sent == order
