"""Calls of functions: `/rpc/name`."""

from __future__ import annotations

import json
from collections.abc import Iterable

from scrapy_supabase.backends.bulk_sql import quote
from scrapy_supabase.local.gateway.answer import Outcome, body_sql, outcome_sql, ranged
from scrapy_supabase.local.gateway.catalog import Function, Parameter, Snapshot
from scrapy_supabase.local.gateway.database import Context, Database, JsonBody, Plan, Row
from scrapy_supabase.local.gateway.errors import ApiError, Response, not_built
from scrapy_supabase.local.gateway.functions import choose_function
from scrapy_supabase.local.gateway.media import choose_form
from scrapy_supabase.local.gateway.read import limited
from scrapy_supabase.local.gateway.request import Request, check_affected, check_singular
from scrapy_supabase.local.gateway.statement import Statement
from scrapy_supabase.local.gateway.terms import Filter, Logic

Pairs = Iterable[tuple[str, str]]


def call(database: Database, snapshot: Snapshot, context: Context, request: Request) -> Response:
    """Call the function that takes these arguments. GET, HEAD and functions that are not volatile may not write."""
    posted = request.method == "POST"
    keys = request.payload.keys if posted else tuple(sorted({name for name, _ in request.query.arguments}))
    function = choose_function(snapshot, request, keys, posted=posted)
    if function.returns == "media":
        raise not_built("functions that return a media type of their own")
    form = choose_form(request.headers.get("accept", "*/*"))
    request.prefer.check()
    single, scalar, void = not function.returns_set, function.returns != "composite", function.returns == "void"
    if single and request.prefer.max_affected is not None:
        message = "Function must return SETOF or TABLE when max-affected preference is used with handling=strict"
        raise ApiError(400, "PGRST128", message)
    query = request.query
    name = function.row[1] if not scalar else function.name
    table = snapshot.tables.get((function.schema, name))
    statement = Statement(table.columns if table else None)
    source = _source(statement, function, request, frozenset(keys))
    alias = quote(name)
    found = f"FROM pgrst_source AS {alias}{statement.where(alias, query.where)}"
    rows = (
        f"SELECT {statement.columns(alias, query.select)} {found}{statement.order(alias, query.order)}"
        f"{limited(statement, request.rows)}"
    )
    total = "null::bigint"
    if request.prefer.counts:
        matching = f"FROM pgrst_source AS {alias}{statement.where(alias, query.where)}"
        total = f"(SELECT count(*) FROM (SELECT 1 {matching}) counted)"
    head = request.method == "HEAD"
    body = "''" if head or void else body_sql(form, scalar=scalar, single=single)

    def check(row: Row) -> None:
        check_singular(form, row[1])
        check_affected(request.prefer, row[1])

    plan = Plan(
        outcome_sql(source, rows, body=body, total=total, count="1" if single else "count(_rows)"),
        statement.parameters,
        read_only=not (posted and function.volatile),
        check=check if form.singular or request.prefer.max_affected is not None else None,
        settings=function.settings,
        absent=Outcome(0, 0, "", None, None, None, None),
    )
    outcome = Outcome(*database.run(context, plan))
    headers = form.content_type | request.prefer.applied("max-affected")
    return ranged(outcome, request.rows, headers, head=head, void=void)


def _source(statement: Statement, function: Function, request: Request, keys: frozenset[str]) -> str:
    """Return the call as a SELECT of the selected and filtered columns, or of the scalar."""
    called, before = _call(statement, function, request, keys)
    if function.returns != "composite":
        return f"SELECT pgrst_call.pgrst_scalar FROM {before}(SELECT {called} pgrst_scalar) pgrst_call"
    names = {field.path.column for field in request.query.select} | _filtered(request.query.where)
    columns = "pgrst_call.*" if "*" in names else ", ".join(f"pgrst_call.{quote(name)}" for name in sorted(names))
    return f"SELECT {columns} FROM {before}{called} pgrst_call"


def _filtered(parts: Iterable[Filter | Logic]) -> set[str]:
    names: set[str] = set()
    for part in parts:
        names |= _filtered(part.parts) if isinstance(part, Logic) else {part.path.column}
    return names


def _call(statement: Statement, function: Function, request: Request, keys: frozenset[str]) -> tuple[str, str]:
    """Return the call's SQL, and what must precede it in the FROM clause."""
    name = f"{quote(function.schema)}.{quote(function.name)}"
    payload = request.payload
    pairs = payload.pairs if request.method == "POST" else request.query.arguments
    if [parameter.name for parameter in function.parameters] == [""]:
        body = payload.body if pairs is None else json.dumps(dict(pairs)).encode()
        return f"{name}({_whole(statement, function.parameters[0], body)})", ""
    passed = [parameter for parameter in function.parameters if parameter.name in keys]
    if not passed:
        return f"{name}()", ""
    if pairs is not None:
        return f"{name}({_named(passed, _values(statement, passed, pairs))})", ""
    # The body's first row, cast by PostgreSQL, so that no number is converted to a float.
    record = "json_to_record" if payload.single else "json_to_recordset"
    typed = ", ".join(f"{quote(parameter.name)} {parameter.cast}" for parameter in passed)
    rows = f"SELECT * FROM {record}({statement.value(JsonBody(payload.body))}::json) AS _({typed}) LIMIT 1"
    values = {parameter.name: f"pgrst_body.{quote(parameter.name)}" for parameter in passed}
    return f"{name}({_named(passed, values)})", f"({rows}) pgrst_body, LATERAL "


def _whole(statement: Statement, parameter: Parameter, body: bytes) -> str:
    """Return the body as the single argument."""
    if parameter.type == "bytea":
        return statement.value(body)
    if parameter.type in ("json", "jsonb"):
        return f"{statement.value(JsonBody(body))}::{parameter.type}"
    try:
        return f"{statement.value(body.decode())}::{parameter.type}"
    except UnicodeDecodeError as error:
        message = f'invalid byte sequence for encoding "UTF8": 0x{error.object[error.start]:02x}'
        raise ApiError(400, "22021", message) from None


def _values(statement: Statement, passed: list[Parameter], pairs: Pairs) -> dict[str, str]:
    """Return the SQL of arguments sent as text: the last of a name counts, or all of a variadic parameter."""
    texts: dict[str, list[str]] = {}
    for name, value in pairs:
        texts.setdefault(name, []).append(value)
    return {
        parameter.name: f"{statement.value(texts[parameter.name])}::text[]::{parameter.cast}"
        if parameter.variadic
        else f"{statement.value(texts[parameter.name][-1])}::{parameter.cast}"
        for parameter in passed
    }


def _named(passed: list[Parameter], values: dict[str, str]) -> str:
    return ", ".join(
        f"{'VARIADIC ' if parameter.variadic else ''}{quote(parameter.name)} => {values[parameter.name]}"
        for parameter in passed
    )
