"""OPTIONS: the methods that a table, a function or the root allows."""

from __future__ import annotations

from scrapy_supabase.local.gateway.catalog import Snapshot
from scrapy_supabase.local.gateway.errors import Response
from scrapy_supabase.local.gateway.functions import choose_function
from scrapy_supabase.local.gateway.request import Request, find_table


def info(snapshot: Snapshot, request: Request, resource: str) -> Response:
    """Answer with the allowed methods."""
    methods = "OPTIONS,GET,HEAD"
    if resource == "function":
        names = tuple(sorted({name for name, _ in request.query.arguments}))
        function = choose_function(snapshot, request, names, posted=False)
        methods = "OPTIONS,POST" if function.volatile else "OPTIONS,GET,HEAD,POST"
    elif resource == "table":
        table = find_table(snapshot, request.schema, request.target)
        more = {
            "POST": table.insertable,
            "PUT": table.insertable and table.updatable and bool(table.primary_key),
            "PATCH": table.updatable,
            "DELETE": table.deletable,
        }
        methods = ",".join([methods, *(name for name, allowed in more.items() if allowed)])
    return Response(200, b"", {"access-control-allow-origin": "*", "allow": methods})
