"""GET and HEAD of a table."""

from __future__ import annotations

from scrapy_supabase.local.gateway.answer import Outcome, body_sql, outcome_sql, ranged
from scrapy_supabase.local.gateway.catalog import Snapshot
from scrapy_supabase.local.gateway.database import Context, Database, Plan
from scrapy_supabase.local.gateway.errors import Response
from scrapy_supabase.local.gateway.media import choose_form
from scrapy_supabase.local.gateway.ranges import MAX_ROWS, Range
from scrapy_supabase.local.gateway.request import Request, check_singular, find_table
from scrapy_supabase.local.gateway.statement import Statement, qualified


def read(database: Database, snapshot: Snapshot, context: Context, request: Request) -> Response:
    """Answer with the rows of a table or view."""
    table = find_table(snapshot, request.schema, request.target)
    form = choose_form(request.headers.get("accept", "*/*"))
    request.prefer.check()
    relation, query, statement = qualified(table), request.query, Statement(table.columns)
    source = (
        f"SELECT {statement.columns(relation, query.select)} FROM {relation}{statement.where(relation, query.where)}"
        f"{statement.order(relation, query.order)}{limited(statement, request.rows)}"
    )
    counting, total, explain = request.prefer.get("count"), "null::bigint", None
    if counting in ("planned", "estimated"):
        explained = Statement(table.columns)
        explain = f"SELECT 1 FROM {relation}{explained.where(relation, query.where)}", explained.parameters
    if request.prefer.counts:
        most = f" LIMIT {MAX_ROWS + 1}" if counting == "estimated" else ""
        matching = f"SELECT 1 FROM {relation}{statement.where(relation, query.where)}{most}"
        total = f"(SELECT count(*) FROM ({matching}) counted)"
    head = request.method == "HEAD"
    sql = outcome_sql(source, body="''" if head else body_sql(form), total=total)
    plan = Plan(sql, statement.parameters, read_only=True, explain=explain)
    outcome = Outcome(*database.run(context, plan))
    check_singular(form, outcome.rows)
    if counting == "planned" or (counting == "estimated" and (outcome.total or 0) > MAX_ROWS):
        outcome = outcome._replace(total=max(plan.estimate or 0, outcome.total or 0))
    return ranged(outcome, request.rows, form.content_type | request.prefer.applied(), head=head)


def limited(statement: Statement, rows: Range) -> str:
    """Return the LIMIT and OFFSET clauses."""
    return f" LIMIT {rows.limit}" + (f" OFFSET {statement.value(str(rows.lower))}::bigint" if rows.lower else "")
