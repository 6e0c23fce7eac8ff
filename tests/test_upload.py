"""The script API, against a real server."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from supabase import Client, create_client

from scrapy_supabase import init_supabase, upload_to_supabase
from scrapy_supabase.errors import ConfigurationError, FatalError
from tests.fault_proxy import FaultProxy, answers
from tests.fix_project import Project

Sql = Callable[..., list[tuple[Any, ...]]]
TABLE = "create table t (id bigint primary key, name text not null, stars int); grant all on t to service_role"


@pytest.fixture
def client(project: Project) -> Client:
    """Return supabase-py's client."""
    return create_client(project.url, project.key)


def test_rows_are_uploaded_and_counted(client: Client, sql: Sql, caplog: pytest.LogCaptureFixture) -> None:
    """The log numbers the chunks; the result has totals, chunks, requests and seconds."""
    sql(TABLE)
    caplog.set_level("INFO")
    result = upload_to_supabase(client, [{"id": i, "name": f"n{i}"} for i in range(250)], "t", chunk_size=100)
    assert result
    assert (result.uploaded, result.failed, result.chunks, result.failed_chunks, result.requests) == (250, 0, 3, 0, 3)
    assert 0 < result.average_chunk_seconds <= result.chunk_seconds
    assert "Chunk 3 of 3: " in caplog.text
    assert "250 rows uploaded, 0 failed" in caplog.text
    assert sql("select count(*), max(name) from t") == [(250, "n99")]


def test_bad_rows_are_in_the_result_with_their_reason(client: Client, sql: Sql) -> None:
    """All other rows are stored."""
    sql(TABLE)
    rows: list[dict[str, Any]] = [{"id": i, "name": f"n{i}"} for i in range(50)]
    rows[7]["name"] = None
    rows.append({"id": 99, "name": object()})
    result = upload_to_supabase(client, rows, "t")
    assert not result
    assert (result.uploaded, result.failed, result.failed_chunks) == (49, 2, 1)
    by_code = {rejection.code: rejection for rejection in result.rejected}
    assert b'"id":7' in by_code["23502"].data
    assert "name" in by_code["not_encodable"].message
    assert sql("select count(*) from t") == [(49,)]


def test_upsert_and_insert(client: Client, sql: Sql) -> None:
    """An upsert replaces the row; an insert of the same key is refused."""
    sql(TABLE)
    assert upload_to_supabase(client, [{"id": 1, "name": "a"}], "t")
    assert upload_to_supabase(client, [{"id": 1, "name": "b"}], "t", on_conflict="id")
    assert sql("select name from t") == [("b",)]
    result = upload_to_supabase(client, [{"id": 1, "name": "c"}, {"id": 2, "name": "d"}], "t", upsert=False)
    assert (result.uploaded, [r.code for r in result.rejected]) == (1, ["23505"])


@dataclasses.dataclass
class Repo:
    """An item that is not a dict."""

    id: int
    name: str
    stars: int | None


def test_top_n_and_order(client: Client, sql: Sql) -> None:
    """Descending or ascending; rows without the field last; any kind of item; generators, too."""
    stars = [5, None, 9, 1, 7]
    repos = [Repo(number, f"r{number}", value) for number, value in enumerate(stars)]

    def stored(**options: Any) -> list[int]:
        sql("drop table if exists t;" + TABLE)
        assert upload_to_supabase(client, (repo for repo in repos), "t", **options)
        return [number for (number,) in sql("select id from t order by id")]

    assert stored(top_n=2, order_by="stars") == [2, 4]
    assert stored(top_n=2, order_by="stars.asc") == [0, 3]
    assert stored(top_n=3) == [0, 1, 2]
    assert stored(top_n=5, order_by="stars.desc") == [0, 1, 2, 3, 4]
    assert stored(top_n=0) == []
    assert stored(order_by="stars") == [0, 1, 2, 3, 4]


def test_records_of_pandas(client: Client, sql: Sql) -> None:
    """`to_dict("records")` has numpy's scalars, timestamps and missing values: each is stored as what it means."""
    sql(
        "create table t (id bigint primary key, name text, price double precision, seen timestamptz, ok boolean, "
        "day date); grant all on t to service_role"
    )
    frame = pd.DataFrame(
        {
            "id": np.array([1, 2], "int64"),
            "name": ["a", None],
            "price": [1.5, float("nan")],
            "seen": pd.to_datetime(["2026-01-02T03:04:05Z", None]),
            "ok": pd.array([True, None], "boolean"),
            "day": [pd.Timestamp("2026-01-02"), pd.NaT],
        }
    )
    assert upload_to_supabase(client, frame.to_dict("records"), "t")
    scalars = {"id": np.int64(3), "name": np.str_("b"), "price": np.float32(0.5), "ok": np.bool_(False)}
    assert upload_to_supabase(client, [scalars], "t")
    seen = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert sql("select id, name, price, seen, ok, day from t order by id") == [
        (1, "a", 1.5, seen, True, date(2026, 1, 2)),
        (2, None, None, None, None, None),
        (3, "b", 0.5, None, False, None),
    ]


@dataclass
class Shop:
    """One row."""

    id: int


@pytest.mark.parametrize(
    ("rows", "remedy"),
    [
        (pd.DataFrame({"id": [1]}), r'rows is a DataFrame. Upload its rows as dicts: rows.to_dict\("records"\).'),
        ({"id": 1}, r"rows is one row, of type dict. Put it into a list: \[rows\]."),
        (Shop(1), r"rows is one row, of type Shop. Put it into a list"),
        ("rows.jsonl", "rows is of type str. It must be an iterable of dicts"),
        (5, "rows is of type int. It must be an iterable of dicts"),
    ],
)
def test_rows_that_are_no_rows(client: Client, rows: Any, remedy: str) -> None:
    """One sentence has the remedy, before the server is asked."""
    with pytest.raises(ConfigurationError, match=remedy):
        upload_to_supabase(client, rows, "t_nowhere")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"top_n": -1}, "top_n is -1"),
        ({"top_n": True}, "top_n is True"),
        ({"order_by": "stars.down"}, "order_by is 'stars.down'"),
        ({"order_by": "name"}, "cannot be compared"),
        ({"chunk_size": 0}, "chunk_size is 0"),
        ({"on_conflict": 5}, "on_conflict is 5"),
    ],
)
def test_wrong_arguments(client: Client, sql: Sql, options: dict[str, Any], says: str) -> None:
    """The error names the argument, before any row is sent."""
    sql(TABLE)
    with pytest.raises(ConfigurationError, match=says):
        upload_to_supabase(client, [{"id": 1, "name": "a"}, {"id": 2, "name": 3}], "t", **options)
    assert sql("select count(*) from t") == [(0,)]


def test_a_table_that_accepts_no_rows_is_an_error_at_once(client: Client, sql: Sql) -> None:
    """The message has the remedy."""
    with pytest.raises(FatalError, match="PGRST205"):
        upload_to_supabase(client, iter([{"id": 1}]), "t_missing")
    sql("create table t (id int)")
    with pytest.raises(FatalError, match=r"GRANT select, insert, update ON public\.t TO service_role;"):
        upload_to_supabase(client, iter([{"id": 1}]), "t")


def test_a_fatal_error_during_the_upload_is_in_the_result(project: Project, proxy: FaultProxy, sql: Sql) -> None:
    """No further row is read; each row not stored is in the result."""
    sql(TABLE)
    read: list[int] = []

    def rows() -> Iterator[dict[str, Any]]:
        for number in range(10_000):
            if number == 500:
                proxy.always = answers(540, {"message": "paused"})
            read.append(number)
            yield {"id": number, "name": "n"}

    result = upload_to_supabase(create_client(proxy.url, project.key), rows(), "t")
    assert result.error is not None
    assert result.error.reason == "supabase_paused"
    assert not result
    assert len(read) < 10_000
    (stored,) = sql("select count(*) from t")[0]
    assert result.uploaded == stored
    assert result.uploaded + result.failed == len(read)
    assert len(result.rejected) == result.failed


def test_daily_snapshots(client: Client, snapshots: Sql) -> None:
    """Each upload keeps its rows, with the day's next version."""
    sql = snapshots
    sql(
        "create table t (id bigint, snapshot_date date, snapshot_version int, primary key (id, snapshot_date,"
        " snapshot_version)); grant all on t to service_role"
    )
    for _ in range(2):
        assert upload_to_supabase(client, [{"id": 1}], "t", enable_daily_snapshots=True)
        assert upload_to_supabase(client, [{"id": 1}], "t", on_conflict="id", enable_daily_snapshots=True)
    found = sql("select id, snapshot_date = (now() at time zone 'UTC')::date, snapshot_version from t order by 3")
    assert found == [(1, True, version) for version in (1, 2, 3, 4)]


def test_memory_is_constant(client: Client, sql: Sql) -> None:
    """A generator is read during the upload: of 100 MB of rows, at most 30 MB are in memory at any time."""
    sql("create table t (id bigint primary key, name text); grant all on t to service_role")
    rows = ({"id": i, "name": "x" * 1000} for i in range(100_000))
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        assert upload_to_supabase(client, rows, "t", chunk_size=500).uploaded == 100_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < 30_000_000


def test_init_supabase_reads_the_environment(project: Project, monkeypatch: pytest.MonkeyPatch, sql: Sql) -> None:
    """URL and key. The error names a missing variable, and never shows the key."""
    sql(TABLE)
    monkeypatch.setenv("SUPABASE_URL", project.url)
    monkeypatch.setenv("SUPABASE_KEY", project.key)
    found = init_supabase()
    assert found.table("t").select("id").execute().data == []
    found.postgrest.session.close()
    monkeypatch.delenv("SUPABASE_KEY")
    with pytest.raises(ConfigurationError, match="SUPABASE_KEY is missing"):
        init_supabase()
    with pytest.raises(ConfigurationError, match="SUPABASE_URL is 'ftp") as caught:
        init_supabase("ftp://x", project.key)
    assert project.key not in str(caught.value)


def test_a_script_on_the_local_supabase(open_folder: Path) -> None:
    """`init_supabase("local")` starts one until the script ends; a progress bar is shown on request."""
    folder = open_folder / "script"
    folder.mkdir()
    (folder / "m").mkdir()
    script = """
from scrapy_supabase import init_supabase, upload_to_supabase
client = init_supabase("local")
import psycopg, scrapy_supabase.script as upload
result = upload_to_supabase(client, [{"id": 1}], "books", progress=True)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False)
    assert "PGRST205" in done.stderr  # there is no table yet: so it was the local one that answered
    made = subprocess.run(
        [sys.executable, "-m", "scrapy", "supabase", "sql",
         "create table books (id int primary key); grant all on books to service_role"],
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "GRANT" in made.stdout
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    assert "books: 100%" in done.stderr
