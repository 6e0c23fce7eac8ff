"""PostgREST's error responses: bodies, codes and statuses (source: PostgREST docs, references/errors)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

JSON = "application/json; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Response:
    """HTTP response. Header names are lower case, because tests compare them with PostgREST's."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class ApiError(Exception):
    """Error response. `www_authenticate` is the value of that header."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        details: object = None,
        hint: str | None = None,
        www_authenticate: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = details
        self.hint = hint
        self.headers = {"www-authenticate": www_authenticate} if www_authenticate else {}

    def response(self) -> Response:
        """Return the response that PostgREST gives."""
        body = {"code": self.code, "details": self.details, "hint": self.hint, "message": self.message}
        encoded = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        headers = {"content-type": JSON, "proxy-status": f"PostgREST; error={self.code}", **self.headers}
        if self.status == 503:
            headers.setdefault("retry-after", "0")  # the next request tries to connect at once
        return Response(self.status, encoded, headers)


def bad_query(parameter: str, source: str, details: str, line: int = 1, column: int = 1) -> ApiError:
    """Return PGRST100: a query parameter that does not parse."""
    message = f'"failed to parse {parameter} ({source})" (line {line}, column {column})'
    return ApiError(400, "PGRST100", message, details=details)


def not_built(feature: str) -> ApiError:
    """Return the error for a route or feature of PostgREST that the gateway lacks: it never succeeds wrongly."""
    message = f"The local gateway does not have {feature}."
    hint = "Name a PostgREST program in SCRAPY_SUPABASE_POSTGREST to have all of it."
    return ApiError(501, "PGRST127", message, details="scrapy_supabase.local", hint=hint)


# SQLSTATE or a prefix of it → status; the longest match counts.
_STATUS = {
    "08": 503, "09": 500, "0L": 403, "0P": 403, "23503": 409, "23505": 409, "25": 500, "25006": 405, "21000": 500,
    "28": 403, "2D": 500, "38": 500, "39": 500, "3B": 500, "40": 500, "53": 503, "53400": 500, "54": 500, "55": 500,
    "57": 500, "57P01": 503, "58": 500, "F0": 500, "HV": 500, "P0": 500, "P0001": 400, "XX": 500, "42883": 404,
    "42P01": 404, "42P17": 500,
}  # fmt: skip


def from_database(error: psycopg.Error, *, anonymous: bool) -> ApiError:
    """Return PostgREST's response to an error of PostgreSQL."""
    state = error.sqlstate
    if state is None:
        return ApiError(503, "PGRST001", "Database client error. Retrying the connection.", details=str(error).strip())
    diag = error.diag
    message = diag.message_primary or ""
    if state == "PGRST":
        return _raised(message, diag.message_detail)
    status = next((_STATUS[state[:n]] for n in (5, 2) if state[:n] in _STATUS), 400)
    if state.startswith("PT") and state[2:].isdigit() and int(state[2:]) >= 100:
        status = int(state[2:])
    elif state.startswith("PT"):
        status = 500
    elif state == "42501":
        status = 401 if anonymous else 403
    elif state == "22023" and re.fullmatch(r"role .* does not exist", message, re.DOTALL):
        status = 401
    elif state == "21000" and message.endswith("requires a WHERE clause"):
        status = 400
    challenge = "Bearer" if status == 401 else None
    hint, details = diag.message_hint, diag.message_detail
    return ApiError(status, state, message, details=details, hint=hint, www_authenticate=challenge)


def _raised(message: str, detail: str | None) -> ApiError:
    """Return the response that a function defines in JSON by `RAISE SQLSTATE 'PGRST'`."""
    fault = "Could not parse JSON in the \"RAISE SQLSTATE 'PGRST'\" error"
    answer = _object(message, {"code": str, "message": str}, {"details": str, "hint": str})
    if answer is None:
        hint = "MESSAGE must be a JSON object with obligatory keys: 'code', 'message' "
        hint += "and optional keys: 'details', 'hint'."
        return ApiError(500, "PGRST121", fault, details=f"Invalid JSON value for MESSAGE: '{message}'", hint=hint)
    hint = "DETAIL must be a JSON object with obligatory keys: 'status', 'headers' and optional key: 'status_text'."
    if detail is None:
        return ApiError(500, "PGRST121", fault, details="DETAIL is missing in the RAISE statement", hint=hint)
    options = _object(detail, {"status": int, "headers": dict}, {"status_text": str})
    if options is None or not all(isinstance(value, str) for value in options["headers"].values()):
        return ApiError(500, "PGRST121", fault, details=f"Invalid JSON value for DETAIL: '{detail}'", hint=hint)
    error = ApiError(
        options["status"], answer["code"], answer["message"], details=answer.get("details"), hint=answer.get("hint")
    )
    error.headers |= {name.lower(): value for name, value in options["headers"].items()}
    return error


def _object(text: str, required: dict[str, type], optional: dict[str, type]) -> dict[str, Any] | None:
    """Return a JSON object whose values have these types, or None for anything else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not all(isinstance(found.get(name), kind) for name, kind in required.items()):
        return None
    given = {name: found[name] for name in optional if found.get(name) is not None}
    return found if all(isinstance(value, optional[name]) for name, value in given.items()) else None
