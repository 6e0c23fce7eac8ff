"""Choice of a function among overloads, which differ only in the names of their arguments."""

from __future__ import annotations

from scrapy_supabase.local.gateway.catalog import Function, Snapshot
from scrapy_supabase.local.gateway.errors import ApiError
from scrapy_supabase.local.gateway.media import BYTES, JSON, TEXT, XML
from scrapy_supabase.local.gateway.request import Request, nearest

# Media type of a body → types of the single unnamed parameter that takes the whole body.
_WHOLE = {JSON: ("json", "jsonb"), TEXT: ("text",), XML: ("xml",), BYTES: ("bytea",)}


def choose_function(snapshot: Snapshot, request: Request, keys: tuple[str, ...], *, posted: bool) -> Function:
    """Return the function that takes these arguments, or else one that takes the whole body. Raises `ApiError`."""
    candidates = snapshot.functions.get((request.schema, request.target), ())
    kind = request.kind if posted else JSON
    fitting = [f for f in candidates if _fits(f, frozenset(keys), raw=kind in (TEXT, XML, BYTES))]
    if not fitting and posted:
        types = _WHOLE.get(kind, ())
        fitting = [f for f in candidates if len(f.parameters) == 1 and _takes_whole(f, types)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise _ambiguous(fitting)
    raise _not_found(snapshot, request, keys, candidates, kind if posted else None)


def _fits(function: Function, keys: frozenset[str], *, raw: bool) -> bool:
    names = {parameter.name for parameter in function.parameters}
    required = {parameter.name for parameter in function.parameters if parameter.required}
    if not names:
        return not keys and not raw
    return required <= keys <= names


def _takes_whole(function: Function, types: tuple[str, ...]) -> bool:
    parameter = function.parameters[0]
    return not parameter.name and parameter.type in types


def _ambiguous(fitting: list[Function]) -> ApiError:
    ordered = sorted(fitting, key=lambda f: (len(f.parameters), [(p.name, p.type) for p in f.parameters]))
    signatures = ", ".join(
        f"{f.schema}.{f.name}({', '.join(f'{p.name} => {p.type}' for p in f.parameters)})" for f in ordered
    )
    hint = "Try renaming the parameters or the function itself in the database so function overloading can be resolved"
    return ApiError(300, "PGRST203", f"Could not choose the best candidate function between: {signatures}", hint=hint)


def _not_found(
    snapshot: Snapshot, request: Request, keys: tuple[str, ...], candidates: tuple[Function, ...], kind: str | None
) -> ApiError:
    schema, name = request.schema, request.target
    raw = {TEXT: "text", XML: "xml", BYTES: "bytea"}.get(kind or "")
    listed = ", ".join(keys)
    with_keys = f" with parameter{'s' if len(keys) > 1 else ''} {listed}" if keys else " without parameters"
    signature, details, close = f"({listed})" if keys else " without parameters", with_keys, None
    if raw:
        signature, details = "", f" with a single unnamed {raw} parameter"
    else:
        if kind == JSON:
            details += " or with a single unnamed json/jsonb parameter"
        if candidates:
            signatures = [f"({', '.join(sorted(p.name for p in f.parameters))})" for f in candidates]
            near = nearest(f"({listed})", signatures, 0.33)
            close = name + near if near else None
        else:
            close = nearest(name, [other for where, other in snapshot.functions if where == schema], 0.75)
    return ApiError(
        404,
        "PGRST202",
        f"Could not find the function {schema}.{name}{signature} in the schema cache",
        details=f"Searched for the function {schema}.{name}{details}, but no matches were found in the schema cache.",
        hint=f"Perhaps you meant to call the function {schema}.{close}" if close else None,
    )
