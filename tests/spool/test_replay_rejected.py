"""What `replay --rejected` stores is what was scraped: printed values are refused until somebody replaced them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scrapy_supabase.rows.values import printable
from tests.fix_crawl import Crawler
from tests.spool.test_replay import Command, command, table  # noqa: F401 (fixtures)

Sql = Callable[..., list[tuple[Any, ...]]]
SELECTOR: dict[str, Any] = {"_class": "Selected", "id": 1, "title": "a title", "n": 7}


def lines(folder: Path) -> list[dict[str, Any]]:
    """The lines of the reject file."""
    path = folder / "spool" / "rejected.jsonl"
    return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []


def rewrite(folder: Path, *found: dict[str, Any]) -> None:
    """Write the reject file as an editor or a script does, which need not keep its bytes."""
    (folder / "spool" / "rejected.jsonl").write_text("".join(json.dumps(line, indent=None) + "\n" for line in found))


def test_printed_values_are_refused_until_they_are_replaced(
    crawl: Crawler,
    command: Command,  # noqa: F811
    table: Sql,  # noqa: F811
    tmp_path: Path,
) -> None:
    """After a forgotten `.get()` the line stays and is listed as unedited; once corrected, it is stored."""
    assert crawl({"items": [SELECTOR, {"id": 2, "title": "x"}]}).counts("uploaded", "failed") == (1, 1)
    (line,) = lines(tmp_path)
    assert (line["code"], line["row"]["n"]) == ("not_encodable", 7)
    assert line["printed"] == {"title": line["row"]["title"]}
    assert line["row"]["title"].startswith("<Selector ")
    listed = command("replay", "--rejected", "--dry-run")
    assert "unedited" in listed.stdout
    rewrite(tmp_path, line)
    refused = command("replay", "--rejected")
    assert refused.returncode == 1
    assert "0 rows uploaded" in refused.stdout
    assert (
        '1 line with printed values, which cannot be stored. Replace the values that "printed" lists.' in refused.stderr
    )
    assert table("select id from t") == [(2,)]
    assert lines(tmp_path) == [line]
    line["row"]["title"] = "a title"
    rewrite(tmp_path, line)
    assert command("replay", "--rejected").returncode == 0
    assert table("select title, n from t where id = 1") == [("a title", 7)]
    assert lines(tmp_path) == []


def test_a_corrected_line_is_sent_as_the_crawl_would_have_sent_it(
    crawl: Crawler,
    command: Command,  # noqa: F811
    sql: Sql,
    tmp_path: Path,
) -> None:
    """Column names, stamps, mode and key are those of the crawl."""
    sql(
        "create table t (no bigint generated always as identity primary key, id bigint unique, name text, n int, "
        "who text, run text); insert into t (id, name) values (1, 'old'); grant all on t to service_role"
    )
    settings: dict[str, Any] = {
        "SUPABASE_ON_CONFLICT": "id",
        "SUPABASE_TABLES": {"*": {"table": "t", "columns": {"title": "name"}}},
        "SUPABASE_STAMPS": {"who": "spider", "run": "run_id"},
        "SUPABASE_TABLE": None,
    }
    assert crawl({"items": [SELECTOR]}, **settings).counts("failed") == (1,)
    (line,) = lines(tmp_path)
    assert (line["mode"], line["on_conflict"], line["key"]) == ("upsert", ["id"], ["id"])
    line["row"]["name"] = "new"
    rewrite(tmp_path, line)
    assert command("replay", "--rejected").returncode == 0
    assert sql("select id, name, n, who, run from t") == [(1, "new", 7, "test0", line["run"])]


def test_real_values_are_sent_when_the_table_is_corrected(
    crawl: Crawler,
    command: Command,  # noqa: F811
    table: Sql,  # noqa: F811
    tmp_path: Path,
) -> None:
    """An unknown column, with and without a printed value beside it."""
    items = [{"id": 3, "extra": "<b>html</b>"}, {**SELECTOR, "extra": 1}]
    assert crawl({"items": items}, SUPABASE_UNKNOWN_COLUMNS="reject").counts("failed") == (2,)
    assert [(line["code"], list(line["printed"])) for line in lines(tmp_path)] == [
        ("unknown_column", []),
        ("unknown_column", ["title"]),
    ]
    table("alter table t add column extra text; notify pgrst, 'reload schema'")
    assert command("replay", "--rejected").returncode == 1
    assert table("select id, extra from t") == [(3, "<b>html</b>")]
    assert [line["row"]["id"] for line in lines(tmp_path)] == [1]
    line = {**lines(tmp_path)[0], "row": {"id": 1, "title": "x", "n": "no number"}}
    rewrite(tmp_path, line)
    assert command("replay", "--rejected").returncode == 1
    (again,) = lines(tmp_path)
    assert (again["code"], again["mode"], again["on_conflict"], again["key"]) == ("22P02", "upsert", [], ["id"])


def test_lines_without_a_table_wait_for_its_name(
    crawl: Crawler,
    command: Command,  # noqa: F811
    table: Sql,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Items of a class without a table cannot be replayed until the line names one."""
    crawl({"items": [{"id": 5, "title": "x"}]}, SUPABASE_TABLE=None, SUPABASE_TABLES={"tests.crawl.Tag": "t"})
    (line,) = lines(tmp_path)
    assert (line["code"], line["table"], line["printed"]) == ("no_table", "(none)", {})
    refused = command("replay", "--rejected")
    assert refused.returncode == 1
    assert '1 line without a table. Set "table" to its name.' in refused.stderr
    rewrite(tmp_path, {**line, "table": "t"})
    assert command("replay", "--rejected").returncode == 0
    assert table("select id, title from t") == [(5, "x")]


def test_lines_of_older_versions_are_refused_until_they_are_confirmed(
    crawl: Crawler,
    command: Command,  # noqa: F811
    table: Sql,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Such lines do not list the printed values."""
    crawl({"items": [SELECTOR]})
    (line,) = lines(tmp_path)
    for name in ("printed", "mode", "on_conflict", "key"):
        del line[name]
    rewrite(tmp_path, line)
    refused = command("replay", "--rejected")
    assert refused.returncode == 1
    assert "1 line of an older version, in which values may be only printed." in refused.stderr
    assert table("select count(*) from t") == [(0,)]
    line["row"]["title"] = "right"
    rewrite(tmp_path, {**line, "printed": {}})
    assert command("replay", "--rejected").returncode == 0
    assert table("select title from t") == [("right",)]


def test_rejected_rows_are_never_called_duplicates(
    crawl: Crawler,
    command: Command,  # noqa: F811
    sql: Sql,
) -> None:
    """They were not stored before, unlike rows that a dead run left."""
    sql("create table t (id bigint, title text check (title <> 'bad')); grant all on t to service_role")
    assert crawl({"items": [{"id": 1, "title": "bad"}]}).counts("failed") == (1,)
    sql("alter table t drop constraint t_title_check")
    done = command("replay", "--rejected")
    assert done.returncode == 0
    assert "duplicated" not in done.stderr
    assert "without a key" not in done.stderr
    assert sql("select count(*) from t") == [(1,)]


@pytest.mark.parametrize(
    ("item", "printed"),
    [
        ({"a": 1, "b": object}, ("b",)),
        ({"a": "<Selector x>", "b": None}, ()),
        ({1: "x", "b\x00": 2, "c": "\ud800"}, ("1", "b")),
        ("no item", ("item",)),
    ],
)
def test_which_fields_are_only_printed(item: Any, printed: tuple[str, ...]) -> None:
    """`printed` lists the fields whose values cannot be encoded, or whose names are no texts."""
    assert printable(item)[1] == printed
