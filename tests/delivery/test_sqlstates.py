"""One bad row costs one row, whatever the error code: every SQLSTATE that psycopg knows, raised by a trigger."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.fix_crawl import Crawler
from tests.fix_project import Project

Sql = Callable[..., list[tuple[Any, ...]]]

CODES = sorted(
    {code for kind in vars(psycopg.errors).values() if isinstance(code := getattr(kind, "sqlstate", None), str)}
    | {"45000", "AB123"}  # codes of a user's own
)
# Codes for which it cannot hold, each with its reason.
EXCEPT: dict[str, str] = {}
ROWS = 50

TABLE = """
create table t (id bigint primary key, code text);
create or replace function t_raise() returns trigger language plpgsql as $$ begin
  if new.code is not null then raise exception 'a trigger says no' using errcode = new.code; end if; return new;
end $$;
create trigger raises before insert on t for each row execute function t_raise();
grant all on t to service_role
"""


def test_psycopg_lists_the_codes_of_postgresql() -> None:
    """The codes of appendix A of PostgreSQL's documentation."""
    assert len(CODES) > 230


@pytest.mark.timeout(300)
@pytest.mark.parametrize("over", ["rest", "database"])
def test_every_code_for_one_row_of_fifty(sql: Sql, crawl: Crawler, project: Project, over: str) -> None:
    """49 rows of each chunk are stored and one is rejected with its code; the next crawl finds nothing in the spool."""
    sql(TABLE)
    codes = [code for code in CODES if code not in EXCEPT]
    items = [
        {"id": ROWS * at + n, "code": code if n == at % ROWS else None}
        for at, code in enumerate(codes)
        for n in range(ROWS)
    ]
    settings: dict[str, Any] = {
        "SUPABASE_DB_URL": project.db_url if over == "database" else None,
        "BATCH_CHUNK_SIZE": ROWS,
        "BATCH_RETRY_ATTEMPTS": 2,
        "BATCH_RETRY_DELAY": 0.001,
    }
    first = crawl({"items": items}, **settings)
    assert sorted(line["code"] for line in first.rejected) == codes, first.log[-6000:]
    assert {line["message"] for line in first.rejected} == {"a trigger says no"}
    assert first.counts("uploaded", "failed", "spooled") == ((ROWS - 1) * len(codes), len(codes), 0)
    assert first.stats["finish_reason"] == "finished"
    assert sql("select count(*) from t") == [((ROWS - 1) * len(codes),)]
    second = crawl({"items": [{"id": -n, "code": None} for n in range(1, ROWS + 1)]}, **settings)
    assert second.counts("uploaded", "failed", "recovered", "recovered_failed") == (ROWS, 0, 0, 0)
