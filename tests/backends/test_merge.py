"""The counting statement, alone and as the function, against a model of what it should store and count."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scrapy_supabase.backends.base import Backend, Merge, Merged, Write
from scrapy_supabase.backends.merge_sql import function_sql
from scrapy_supabase.backends.postgres import PostgresBackend
from scrapy_supabase.backends.postgrest import PostgrestBackend
from scrapy_supabase.models import Mode, RowCounts, WriteOptions
from tests.fix_project import Project

Sql = Callable[..., list[tuple[Any, ...]]]
Row = dict[str, Any]

objects = st.dictionaries(st.sampled_from("xyz"), st.integers(0, 2), max_size=2)
values = {
    "id": st.integers(0, 3),
    "a": st.sampled_from([None, "", "a", "b\\", '"c"']),
    "n": st.one_of(st.none(), st.integers(0, 2)),
    "j": st.one_of(st.none(), objects, st.lists(st.integers(0, 2), max_size=3, unique=True)),
}
rows = st.fixed_dictionaries(
    {"id": values["id"]}, optional={name: each for name, each in values.items() if name != "id"}
)
chunks = st.lists(rows, min_size=1, max_size=5)
options = st.builds(
    WriteOptions,
    insert_only=st.sampled_from([(), ("a",), ("a", "n")]),
    merge=st.sampled_from([(), ("j",)]),
    if_changed=st.booleans(),
    ignored=st.sampled_from([(), ("n",)]),
    fills=st.booleans(),
)


@pytest.fixture(params=["function", "database", "pooler"])
def backend(request: pytest.FixtureRequest, project: Project, sql: Sql) -> Iterator[Backend]:
    """Each backend that merges, and the table `t`."""
    sql("create table t (id int primary key, a text, n int default 7, j jsonb); grant all on t to service_role")
    sql(function_sql("public", "service_role"))
    made: Backend
    if request.param == "function":
        made = PostgrestBackend(project.url, project.key)
    else:
        over_pooler = request.param == "pooler"
        made = PostgresBackend(request.getfixturevalue("bouncer").url() if over_pooler else project.db_url)
    yield made
    made.close()


def test_stored_rows_and_counts(backend: Backend, sql: Sql, request: pytest.FixtureRequest) -> None:
    """Rows that share a key are reported as missed, and right when they are sent again one by one."""

    @settings(max_examples=20 if "pooler" in request.node.name else 80, deadline=None)
    @given(
        history=st.lists(chunks, min_size=1, max_size=4),
        mode=st.sampled_from([Mode.UPSERT, Mode.UPDATE]),
        chosen=options,
    )
    def holds(history: list[list[Row]], mode: Mode, chosen: WriteOptions) -> None:
        sql("truncate t; insert into t values (0, 'old', 1, '{\"x\": 0}')")
        model: dict[int, Row] = {0: {"id": 0, "a": "old", "n": 1, "j": {"x": 0}}}
        for chunk in history:
            found = write(backend, chunk, mode, chosen)
            keys = [row["id"] for row in chunk]
            if len(set(keys)) == len(keys):
                assert found == Merged(stored(model, chunk, mode, chosen), 0)
                continue
            assert found.missed or mode is Mode.UPDATE
            model = {row["id"]: row for (row,) in sql("select to_jsonb(t) from t")}
            shape = sorted({name for one in chunk for name in one})
            for row in chunk:
                counts = stored(model, [row], mode, chosen, shape)
                assert write(backend, [row], mode, chosen, shape) == Merged(counts, 0)
        assert {row["id"]: row for (row,) in sql("select to_jsonb(t) from t")} == model

    holds()


def write(
    backend: Backend, chunk: list[Row], mode: Mode, chosen: WriteOptions, shape: list[str] | None = None
) -> Merged:
    """Send a chunk."""
    columns = tuple(shape or sorted({name for row in chunk for name in row}))
    optional = tuple(name for name in columns if any(name not in row for row in chunk))
    merge = Merge(chosen, () if chosen.fills else optional)
    found = backend.write(Write("t", columns, msgspec.json.encode(chunk), mode, ("id",), chosen.fills, merge))
    assert found is not None
    return found


def stored(
    model: dict[int, Row], chunk: list[Row], mode: Mode, chosen: WriteOptions, shape: list[str] | None = None
) -> RowCounts:
    """Change the model as the chunk should change the table; the counts."""
    counts = RowCounts()
    columns = shape or sorted({name for row in chunk for name in row})
    for row in chunk:
        full = {name: row.get(name) for name in columns} if chosen.fills else row
        old = model.get(row["id"])
        if old is None and mode is Mode.UPDATE:
            counts.not_found += 1
        elif old is None:
            model[row["id"]] = {"a": None, "n": 7, "j": None, **full}
            counts.inserted += 1
        else:
            new = {name: value for name, value in full.items() if name != "id" and name not in chosen.insert_only}
            for name in set(new) & set(chosen.merge):
                new[name] = merged(old[name], new[name])
            changing = {name for name in columns if name != "id" and name not in chosen.insert_only}
            is_equal = all(new[name] == old[name] for name in new if name not in chosen.ignored)
            if not changing or (chosen.if_changed and is_equal):
                counts.unchanged += 1
            else:
                counts.updated += 1
                old.update(new)
    return counts


def merged(old: Any, new: Any) -> Any:
    """The stored value merged with the new one."""
    if old is None or new is None:
        return new if old is None else old
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **new}
    if isinstance(old, list) and isinstance(new, list):
        return [*old, *(value for value in new if value not in old)]
    return new
