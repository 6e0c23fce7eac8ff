"""`/rpc/name`: calling a function."""

from __future__ import annotations

import json
from typing import Any

from scrapy_supabase.local.gateway.catalog import Function, Snapshot
from scrapy_supabase.local.gateway.database import Context, Database, JsonBody, Plan, Row
from scrapy_supabase.local.gateway.errors import ApiError, Response
from scrapy_supabase.local.gateway.read import ranged, window_of
from scrapy_supabase.local.gateway.request import JSON, Request, body_sql, check_singular, nearest, parse_json
from scrapy_supabase.local.gateway.statement import Statement
from scrapy_supabase.sql import quote


def call(database: Database, snapshot: Snapshot, context: Context, request: Request) -> Response:
    """Call the function that the arguments' names fit. GET and HEAD may not write."""
    name = request.target
    posted = request.method == "POST"
    arguments = _arguments(request)
    function, whole_body = _choose(snapshot, request, name, tuple(arguments), posted=posted)
    statement = Statement()
    called = (
        f"{quote(function.schema)}.{quote(function.name)}({_pass(statement, function, arguments, request, whole_body)})"
    )
    query = request.query
    window = window_of(request)
    if function.returns == "composite":
        source = (
            f"SELECT {statement.columns('pgrst_call', query.select)} FROM {called} pgrst_call"
            f"{statement.where('pgrst_call', query.where)}{statement.order('pgrst_call', query.order)}"
        )
    else:
        source = f"SELECT pgrst_call.pgrst_scalar FROM {called} pgrst_call(pgrst_scalar)"
    if function.returns_set:
        source += window.sql(statement)
    single = not function.returns_set
    counting = request.prefer.get("count")
    scalar = "" if function.returns == "composite" else "pgrst_scalar"
    body = f"coalesce((json_agg(_rows{'.' + scalar if scalar else ''})->0)::text, 'null')"
    if not single:
        body = body_sql(request, scalar=scalar)
    total_sql = "count(_rows)" if counting else "null::bigint"
    if function.returns == "void":
        source, body = f"SELECT 1 AS pgrst_scalar FROM {called} pgrst_call", "''"

    def check(row: Row) -> None:
        if not single:
            check_singular(request, row[1])

    plan = Plan(
        f"WITH pgrst_source AS ({source}) SELECT {total_sql}, count(_rows), {body} "
        "FROM (SELECT * FROM pgrst_source) _rows",
        statement.parameters,
        read_only=not posted,
        check=check if request.singular else None,
    )
    total, rows, text = database.run(context, plan)
    headers = request.content_type | request.prefer.applied("count")
    if function.returns == "void":
        return Response(204, b"", request.prefer.applied("count") | {"content-range": "0-0/*"})
    return ranged(request, window, rows, total, text, headers)


def _arguments(request: Request) -> dict[str, Any]:
    if request.method != "POST":
        found: dict[str, Any] = {}
        for name, value in request.query.arguments:
            found[name] = [*found[name], value] if isinstance(found.get(name), list) else value
        return found
    if not request.body.strip():
        return {}
    kind = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    if kind not in (JSON, ""):
        raise ApiError(400, "PGRST102", f"Content-Type not acceptable: {kind}")
    body = parse_json(request.body)
    if isinstance(body, list) and body and isinstance(body[0], dict):
        body = body[0]
    return body if isinstance(body, dict) else {}


def _choose(
    snapshot: Snapshot, request: Request, name: str, given: tuple[str, ...], *, posted: bool
) -> tuple[Function, bool]:
    """The function to call, and whether it takes the whole body as one unnamed json parameter."""
    candidates = snapshot.functions.get((request.schema, name), ())
    fitting = [f for f in candidates if _fits(f, given)]
    if len(fitting) > 1:
        shown = ", ".join(
            f"{f.schema}.{f.name}({', '.join(f'{p.name} => {p.type}' for p in f.parameters)})" for f in fitting
        )
        hint = (
            "Try renaming the parameters or the function itself in the database so function overloading can be resolved"
        )
        message = f"Could not choose the best candidate function between: {shown}"
        raise ApiError(300, "PGRST203", message, hint=hint)
    if fitting:
        return fitting[0], False
    unnamed = [f for f in candidates if [(p.name, p.type) for p in f.parameters] in ([("", "json")], [("", "jsonb")])]
    if posted and unnamed:
        return unnamed[0], True
    raise _not_found(snapshot, request.schema, name, given, candidates, posted=posted)


def _fits(function: Function, given: tuple[str, ...]) -> bool:
    names = {parameter.name for parameter in function.parameters}
    required = {parameter.name for parameter in function.parameters if parameter.required}
    return "" not in names and set(given) <= names and required <= set(given)


def _not_found(
    snapshot: Snapshot,
    schema: str,
    name: str,
    given: tuple[str, ...],
    candidates: tuple[Function, ...],
    *,
    posted: bool,
) -> ApiError:
    listed = ", ".join(sorted(given))
    shown = f"({listed})" if given else " without parameters"
    details = f" with parameter{'s' if len(given) > 1 else ''} {listed}" if given else " without parameters"
    if posted:
        details += " or with a single unnamed json/jsonb parameter"
    if candidates:
        signatures = [f"({', '.join(sorted(p.name for p in f.parameters))})" for f in candidates]
        close = nearest(f"({listed})", signatures, 0.33)
        close = name + close if close else None
    else:
        close = nearest(name, [other for where, other in snapshot.functions if where == schema], 0.75)
    return ApiError(
        404,
        "PGRST202",
        f"Could not find the function {schema}.{name}{shown} in the schema cache",
        details=f"Searched for the function {schema}.{name}{details}, but no matches were found in the schema cache.",
        hint=f"Perhaps you meant to call the function {schema}.{close}" if close else None,
    )


def _pass(
    statement: Statement, function: Function, arguments: dict[str, Any], request: Request, whole_body: bool
) -> str:
    """The argument list: each value cast to its parameter's type, from JSON where it came as JSON."""
    if whole_body:
        return f"{statement.value(JsonBody(request.body or b'null'))}::{function.parameters[0].type}"
    if not arguments:
        return ""
    types = {parameter.name: parameter for parameter in function.parameters}
    if request.method == "POST":
        body = statement.value(JsonBody(json.dumps(arguments).encode()))
        typed = {
            name: f"(SELECT v FROM json_to_record({body}::json) AS r({quote(name)} {types[name].type}) CROSS JOIN "
            f"LATERAL (SELECT r.{quote(name)} AS v) one)"
            for name in arguments
        }
    else:
        typed = {name: f"{statement.value(str(value))}::{types[name].type}" for name, value in arguments.items()}
    return ", ".join(
        f"{'VARIADIC ' if types[name].variadic else ''}{quote(name)} => {sql}" for name, sql in typed.items()
    )
