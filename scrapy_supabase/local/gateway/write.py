"""POST, PATCH and DELETE of a table."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote as percent

from scrapy_supabase.local.gateway.catalog import Snapshot, Table
from scrapy_supabase.local.gateway.database import Context, Database, JsonBody, Plan, Row
from scrapy_supabase.local.gateway.errors import ApiError, Response
from scrapy_supabase.local.gateway.request import (
    Request,
    body_sql,
    check_singular,
    content_range,
    find_table,
    read_payload,
)
from scrapy_supabase.local.gateway.statement import Statement, qualified
from scrapy_supabase.sql import BulkInsert, literal, quote, rows_from_json


def insert(database: Database, snapshot: Snapshot, context: Context, request: Request) -> Response:
    """Insert or upsert the rows of the body."""
    table = find_table(snapshot, request.schema, request.target)
    payload = read_payload(request)
    names = request.query.columns if request.query.columns is not None else payload.keys or ()
    resolution = request.prefer.get("resolution")
    conflict = request.query.on_conflict or table.primary_key if resolution else ()
    merge = resolution == "merge-duplicates"
    bulk = BulkInsert(
        table.schema,
        table.name,
        _types(table, names),
        on_conflict=conflict,
        merge=merge,
        defaults=_defaults(table, names) if request.prefer.get("missing") == "default" else None,
        count_inserted=merge and bool(conflict),
        single=payload.single,
    )
    statement = Statement()
    sql = bulk.sql(statement.value(JsonBody(payload.json)))
    row = _change(database, context, request, table, statement, sql)
    applied = ("missing", "return", "count", *(("resolution",) if conflict else ()))
    headers = content_range(1, 0, row[0] if request.prefer.get("count") else None) | request.prefer.applied(*applied)
    status = 200 if bulk.count_inserted and not row[3] else 201
    if request.prefer.get("return") == "headers-only" and row[2]:
        headers["location"] = f"/{percent(table.name)}?{'&'.join(percent(part, safe='=.') for part in row[2])}"
    return _answer(request, status, row, headers)


def update(database: Database, snapshot: Snapshot, context: Context, request: Request) -> Response:
    """Change the rows that the filters find."""
    table = find_table(snapshot, request.schema, request.target)
    payload = read_payload(request)
    names = request.query.columns if request.query.columns is not None else payload.keys or ()
    bulk = BulkInsert(table.schema, table.name, _types(table, names), single=payload.single)
    statement = Statement()
    if bulk.columns:
        source = rows_from_json(bulk, statement.value(JsonBody(payload.json)))
        changes = ", ".join(f"{quote(name)} = pgrst_new.{quote(name)}" for name in bulk.columns)
        sql = f"UPDATE {qualified(table)} SET {changes} FROM ({source}) pgrst_new"
        row = _change(database, context, request, table, statement, sql, filtered=True)
    else:  # nothing to change: PostgREST touches no row
        row = _change(database, context, request, table, statement, "", filtered=True)
    total = row[0] if request.prefer.get("count") else None
    headers = content_range(0, row[0] - 1, total) | request.prefer.applied("missing", "return", "count")
    return _answer(request, 200, row, headers, without_body=204)


def delete(database: Database, snapshot: Snapshot, context: Context, request: Request) -> Response:
    """Delete the rows that the filters find."""
    table = find_table(snapshot, request.schema, request.target)
    statement = Statement()
    row = _change(database, context, request, table, statement, f"DELETE FROM {qualified(table)}", filtered=True)
    headers = content_range(1, 0, row[0] if request.prefer.get("count") else None)
    return _answer(request, 200, row, headers | request.prefer.applied("return", "count"), without_body=204)


def _change(
    database: Database,
    context: Context,
    request: Request,
    table: Table,
    statement: Statement,
    sql: str,
    *,
    filtered: bool = False,
) -> Row:
    """Run a change. Returns (rows changed, body, location, rows that were new)."""
    relation, how = quote(table.name), request.prefer.get("return")
    if filtered:
        sql += statement.where(relation, request.query.where)
    if how == "representation":
        returning = statement.columns(relation, request.query.select)
        body = body_sql(request)
    elif how == "headers-only" and table.primary_key:
        returning = ", ".join(f"{relation}.{quote(name)}" for name in table.primary_key)
        body = "''"
    else:
        returning, body = "1", "''"
    location = "null::text[]"
    if how == "headers-only" and table.primary_key:
        location = (
            "CASE WHEN count(_rows) = 1 THEN (SELECT array_agg(p.key || '=' || coalesce('eq.' || p.value, 'is.null')) "
            "FROM (SELECT row_to_json(s) AS r FROM pgrst_source s LIMIT 1) one CROSS JOIN json_each_text(one.r) p) END"
        )
    changed = f"{sql} RETURNING {returning}"
    if not sql.startswith(("INSERT", "UPDATE", "DELETE")):
        changed = f"SELECT {returning} FROM {qualified(table)} WHERE false"
    plan = Plan(
        f"WITH pgrst_source AS ({changed}) SELECT count(_rows), {body}, {location}, "
        "nullif(current_setting('pgrst.inserted', true), '')::int FROM (SELECT * FROM pgrst_source) _rows",
        statement.parameters,
        check=_check_of(request),
    )
    return database.run(context, plan)


def _check_of(request: Request) -> Callable[[Row], None] | None:
    """What must hold of the rows changed, or nothing is: one round trip less where nothing must."""
    most = request.prefer.max_affected if request.method != "POST" else None
    if not request.singular and most is None:
        return None

    def check(row: Row) -> None:
        if most is not None and row[0] > most:
            message = "Query result exceeds max-affected preference constraint"
            raise ApiError(400, "PGRST124", message, details=f"The query affects {row[0]} rows")
        check_singular(request, row[0])

    return check


def _answer(
    request: Request, status: int, row: Row, headers: dict[str, str], *, without_body: int | None = None
) -> Response:
    if request.prefer.get("return") == "representation":
        return Response(status, row[1].encode(), request.content_type | headers)
    return Response(without_body or status, b"", headers)


def _types(table: Table, names: tuple[str, ...]) -> dict[str, str]:
    """Column → type. Raises `ApiError` PGRST204 for one that the table does not have."""
    missing = next((name for name in names if name not in table.columns), None)
    if missing is not None:
        message = f"Could not find the '{missing}' column of '{table.name}' in the schema cache"
        raise ApiError(400, "PGRST204", message)
    return {name: table.columns[name].type for name in names}


def _defaults(table: Table, names: tuple[str, ...]) -> dict[str, str]:
    """Column → its default, for those that have one; an identity column's is its sequence."""
    found = {}
    for name in names:
        column = table.columns[name]
        if column.default is not None and not column.generated:
            found[name] = column.default
        elif column.identity:
            sequence = f"pg_get_serial_sequence({literal(qualified(table))}, {literal(name)})"
            found[name] = f"nextval({sequence})"
    return found
