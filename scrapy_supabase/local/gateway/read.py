"""GET and HEAD of a table, and the range of rows that any reading route answers with."""

from __future__ import annotations

import re
from dataclasses import dataclass

from scrapy_supabase.local.gateway.catalog import Snapshot
from scrapy_supabase.local.gateway.database import Context, Database, Plan
from scrapy_supabase.local.gateway.errors import ApiError, Response
from scrapy_supabase.local.gateway.request import (
    MAX_ROWS,
    Request,
    body_sql,
    check_singular,
    content_range,
    find_table,
)
from scrapy_supabase.local.gateway.statement import Statement, qualified
from scrapy_supabase.sql import quote


@dataclass(frozen=True, slots=True)
class Window:
    """Which rows: `limit` at most, from `offset` on."""

    offset: int
    limit: int

    def sql(self, statement: Statement) -> str:
        """LIMIT and OFFSET."""
        text = f" LIMIT {statement.value(str(self.limit))}::bigint"
        return text + (f" OFFSET {statement.value(str(self.offset))}::bigint" if self.offset else "")


def window_of(request: Request) -> Window:
    """What `limit`, `offset`, the `Range` header and the server's maximum leave."""
    offset, limit = request.query.offset, request.query.limit
    given = re.fullmatch(r"(\d{1,18})-(\d{0,18})", request.headers.get("range", ""))
    if given and request.method in ("GET", "HEAD"):
        lower, upper = int(given[1]), int(given[2]) if given[2] else None
        if upper is not None and upper < lower:
            details = "The lower boundary must be lower than or equal to the upper boundary in the Range header."
            raise ApiError(416, "PGRST103", "Requested range not satisfiable", details=details)
        last = min(upper if upper is not None else 2**62, offset + limit - 1 if limit is not None else 2**62)
        offset = max(offset, lower)
        limit = max(0, last - offset + 1)
    return Window(offset, MAX_ROWS if limit is None else min(limit, MAX_ROWS))


def read(database: Database, snapshot: Snapshot, context: Context, request: Request) -> Response:
    """Answer with the rows of a table or view."""
    table = find_table(snapshot, request.schema, request.target)
    relation, query, statement = quote(table.name), request.query, Statement()
    window = window_of(request)
    source = (
        f"SELECT {statement.columns(relation, query.select)} FROM {qualified(table)}"
        f"{statement.where(relation, query.where)}{statement.order(relation, query.order)}{window.sql(statement)}"
    )
    plan = Plan("", (), read_only=True)
    counting = request.prefer.get("count")
    count = "null::bigint"
    if counting:
        counted = f"SELECT 1 FROM {qualified(table)}{statement.where(relation, query.where)}"
        if counting != "exact":
            explained = Statement()
            plan.explain = (
                f"SELECT 1 FROM {qualified(table)}{explained.where(relation, query.where)}",
                explained.parameters,
            )
        if counting == "estimated":
            counted += f" LIMIT {MAX_ROWS + 1}"
        if counting != "planned":
            count = f"(SELECT count(*) FROM ({counted}) counted)"
    plan.sql = (
        f"WITH pgrst_source AS ({source}) SELECT {count}, count(_rows), {body_sql(request)} "
        "FROM (SELECT * FROM pgrst_source) _rows"
    )
    plan.parameters = statement.parameters
    total, rows, body = database.run(context, plan)
    if counting == "planned" or (counting == "estimated" and total > MAX_ROWS):
        total = max(plan.estimate or 0, total or 0)
    check_singular(request, rows)
    headers = request.content_type | request.prefer.applied("count")
    return ranged(request, window, rows, total, body, headers)


def ranged(
    request: Request, window: Window, rows: int, total: int | None, body: str, headers: dict[str, str]
) -> Response:
    """The answer for `rows` rows from the window's offset on, of `total` (None: not counted)."""
    lower, upper = window.offset, window.offset + rows - 1
    status = 200
    if total is not None:
        if lower > total:
            details = f"An offset of {lower} was requested, but there are only {total} rows."
            raise ApiError(416, "PGRST103", "Requested range not satisfiable", details=details)
        status = 206 if 1 + upper - lower < total else 200
    encoded = b"" if request.method == "HEAD" else body.encode()
    return Response(status, encoded, headers | content_range(lower, upper, total))
