"""POST, PUT, PATCH and DELETE of a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import quote as percent

from scrapy_supabase.backends.bulk_sql import BulkInsert, quote, rows_from_json
from scrapy_supabase.local.gateway.answer import Outcome, body_sql, finished, outcome_sql
from scrapy_supabase.local.gateway.catalog import Snapshot, Table
from scrapy_supabase.local.gateway.database import Context, Database, JsonBody, Plan, Row
from scrapy_supabase.local.gateway.errors import ApiError, Response
from scrapy_supabase.local.gateway.media import Form, choose_form
from scrapy_supabase.local.gateway.ranges import content_range
from scrapy_supabase.local.gateway.request import Request, check_affected, check_singular, find_table
from scrapy_supabase.local.gateway.statement import Statement, qualified
from scrapy_supabase.local.gateway.terms import Filter


def insert(database: Database, snapshot: Snapshot, context: Context, request: Request) -> Response:
    """Insert or upsert the rows of the body."""
    table = find_table(snapshot, request.schema, request.target)
    resolution, given = request.prefer.get("resolution"), request.query.on_conflict
    conflict = (table.primary_key if given is None else given) if resolution else ()
    merge = resolution == "merge-duplicates"
    bulk = _bulk(table, request, conflict=conflict, merge=merge, defaults=request.prefer.get("missing") == "default")
    statement = Statement(table.columns)
    sql = bulk.sql(statement.value(JsonBody(request.payload.body)))
    outcome, form = _change(database, context, request, table, statement, sql)
    resolves = ("resolution",) if table.primary_key or given is not None else ()
    headers = content_range(1, 0, outcome.rows if request.prefer.counts else None)
    headers |= request.prefer.applied("missing", "return", *resolves)
    if outcome.location:
        named = (part.partition("=") for part in outcome.location)
        pairs = "&".join(f"{percent(name, safe='')}={percent(value, safe='')}" for name, _, value in named)
        headers["location"] = f"/{table.name}?{pairs}"
    status = 200 if merge and not (outcome.inserted or 0) > 0 else 201
    return _answer(request, form, outcome, status, headers)


def put(database: Database, snapshot: Snapshot, context: Context, request: Request) -> Response:
    """Insert or replace the row whose key both the filters and the body have."""
    table = find_table(snapshot, request.schema, request.target)
    query, key = request.query, frozenset(table.primary_key)
    equal = all(isinstance(each, Filter) and _is_equality(each) for each in query.where)
    if not key or query.filtered != key or not equal:
        message = "Filters must include all and only primary key columns with 'eq' operators"
        raise ApiError(405, "PGRST105", message)
    bulk = _bulk(table, request, conflict=table.primary_key, merge=True)
    statement = Statement(table.columns)
    parameter = statement.value(JsonBody(request.payload.body))
    sql = bulk.sql(parameter, statement.conditions("pgrst_body", query.where))
    outcome, form = _change(database, context, request, table, statement, sql)
    status = 201 if (outcome.inserted or 0) > 0 else 200
    return _answer(request, form, outcome, status, request.prefer.applied("return"), without_body=204)


def update(database: Database, snapshot: Snapshot, context: Context, request: Request) -> Response:
    """Update the rows that match the filters."""
    table = find_table(snapshot, request.schema, request.target)
    bulk = _bulk(table, request, defaults=request.prefer.get("missing") == "default")
    statement, sql = Statement(table.columns), ""
    if bulk.columns:  # otherwise PostgREST affects no row
        source = rows_from_json(bulk, statement.value(JsonBody(request.payload.body)))
        changes = ", ".join(f"{quote(name)} = pgrst_body.{quote(name)}" for name in bulk.columns)
        where = statement.where(qualified(table), request.query.where)
        sql = f"UPDATE {qualified(table)} SET {changes} FROM ({source}) pgrst_body{where}"
    outcome, form = _change(database, context, request, table, statement, sql)
    total = outcome.rows if request.prefer.counts else None
    headers = content_range(0, outcome.rows - 1, total) | request.prefer.applied("missing", "return", "max-affected")
    return _answer(request, form, outcome, 200, headers, without_body=204)


def delete(database: Database, snapshot: Snapshot, context: Context, request: Request) -> Response:
    """Delete the rows that match the filters."""
    table = find_table(snapshot, request.schema, request.target)
    statement = Statement(table.columns)
    sql = f"DELETE FROM {qualified(table)}{statement.where(qualified(table), request.query.where)}"
    outcome, form = _change(database, context, request, table, statement, sql)
    headers = content_range(1, 0, outcome.rows if request.prefer.counts else None)
    headers |= request.prefer.applied("return", "max-affected")
    return _answer(request, form, outcome, 200, headers, without_body=204)


def _bulk(
    table: Table, request: Request, *, conflict: tuple[str, ...] = (), merge: bool = False, defaults: bool = False
) -> BulkInsert:
    names = request.payload.keys
    types = _types(table, names)
    request.query.check_columns()
    return BulkInsert(
        table.schema,
        table.name,
        types,
        on_conflict=conflict,
        merge=merge,
        defaults=_defaults(table, names) if defaults else None,
        count_inserted=merge,
        single=request.payload.single,
    )


def _change(
    database: Database, context: Context, request: Request, table: Table, statement: Statement, sql: str
) -> tuple[Outcome, Form]:
    """Run a change. Without SQL, no row is affected, but the columns are still checked."""
    request.prefer.check()
    form = choose_form(request.headers.get("accept", "*/*"))
    query, how = request.query, request.prefer.get("return")
    # As in PostgREST, returned columns are ordered by name, which a CSV header shows.
    names = sorted({field.path.column for field in query.select} | set(table.primary_key))
    shown = ["1"]
    if how in ("representation", "headers-only"):
        everything = any(field.path.column == "*" for field in query.select)
        relation = qualified(table) if sql else quote(table.name)
        shown = [f"{relation}.*"] if everything else [f"{relation}.{quote(name)}" for name in names]
    returning = ", ".join(shown)
    changed = f"{sql} RETURNING {returning}" if sql else f"SELECT {returning} FROM {qualified(table)} WHERE false"
    rows, body, location = "SELECT * FROM pgrst_source", "''", "null::text[]"
    if request.represents:
        alias = quote(table.name)
        order = statement.order(alias, query.order)
        rows = f"SELECT {statement.columns(alias, query.select)} FROM pgrst_source AS {alias}{order}"
        body = body_sql(form)
    elif how == "headers-only" and request.method == "POST":
        location = (
            "CASE WHEN count(_rows) = 1 THEN (SELECT array_agg(p.key || '=' || coalesce('eq.' || p.value, 'is.null')) "
            "FROM (SELECT row_to_json(s) AS r FROM pgrst_source s LIMIT 1) one CROSS JOIN json_each_text(one.r) p "
            f"WHERE p.key = ANY ({statement.value(list(table.primary_key))}::text[])) END"
        )
    plan = Plan(
        outcome_sql(changed, rows, body=body, location=location),
        statement.parameters,
        check=_check_of(request, form),
    )
    return Outcome(*database.run(context, plan)), form


def _check_of(request: Request, form: Form) -> Callable[[Row], None] | None:
    """Return the check of the affected rows, or None, which saves a round trip."""
    if request.method == "PUT":
        return _check_one
    most = request.prefer.max_affected if request.method in ("PATCH", "DELETE") else None
    if not form.singular and most is None:
        return None

    def check(row: Row) -> None:
        check_singular(form, row[1])
        if most is not None:
            check_affected(request.prefer, row[1])

    return check


def _check_one(row: Row) -> None:
    if row[1] != 1:
        raise ApiError(400, "PGRST115", "Payload values do not match URL in primary key column(s)")


def _answer(
    request: Request,
    form: Form,
    outcome: Outcome,
    status: int,
    headers: dict[str, str],
    *,
    without_body: int | None = None,
) -> Response:
    if request.represents:
        return finished(outcome, status, form.content_type | headers, (outcome.body or "").encode())
    return finished(outcome, without_body or status, headers)


def _is_equality(part: Filter) -> bool:
    return part.operator == "eq" and not part.negated and not part.quantifier


def _types(table: Table, names: tuple[str, ...]) -> dict[str, str]:
    """Return column → type. Raises `ApiError` PGRST204 for a column that the table does not have."""
    missing = next((name for name in names if name not in table.columns), None)
    if missing is not None:
        message = f"Could not find the '{missing}' column of '{table.name}' in the schema cache"
        raise ApiError(400, "PGRST204", message)
    return {name: table.columns[name].type for name in names}


def _defaults(table: Table, names: tuple[str, ...]) -> Mapping[str, str]:
    """Return column → default for columns that have one."""
    defaults = {name: table.columns[name].default for name in names}
    return {name: default for name, default in defaults.items() if default is not None}
