"""The table that maps a server's answers to the errors of `errors.py`.

The `code` in the body decides (SQLSTATE or PGRSTnnn); the HTTP status counts only without such a code, since 21000 and
57014 both come as 500, and 25006 as 405. A code is fatal only if it is known to concern every request; a code without
a rule is an `UnknownError`. Sources: PostgREST docs, references/errors; PostgreSQL docs, appendix A; measured on
PostgREST 14.14.
"""

from __future__ import annotations

import re

from scrapy_supabase.backends import no_connection
from scrapy_supabase.backends.error_body import one_line, parse_body
from scrapy_supabase.errors import (
    BadRowsError,
    FatalError,
    MissingReferenceError,
    SchemaDriftError,
    ServerError,
    TooLargeError,
    TransientError,
    UnknownError,
    UpsertRefusedError,
    denied,
    is_policy_violation,
)

# The first rule whose pattern matches counts. `http_503` is an answer with that status and no code of PostgreSQL or
# PostgREST. Transient statuses are in `_is_transient_status`.
_RULES: tuple[tuple[type[ServerError], str], ...] = (
    (TransientError, r"PGRST00[0-3]|PGRSTX00|08...|25P03|40...|53(?!100)...|55P03|57P0[1235]|XX..."),
    (TooLargeError, r"57014|25P04|http_413"),
    (UpsertRefusedError, r"42P10"),
    (SchemaDriftError, r"PGRST204|42703|428C9"),
    (MissingReferenceError, r"23503"),
    (BadRowsError, r"22...|23...|21000|42804|44000|P0001|54000|PT4(?!0[1234])\d\d"),
    (FatalError, r"PGRST3..|PGRST106|PGRST125|PGRST205|53100|http_(?:401|402|404|414|431|540)"),
)
# The server did work on the request: XX000 is a fault inside it, 40001 a conflict, 55P03 a lock that another one held.
_REACHABLE = r"XX...|PGRSTX00|40...|55P03|25P03"
_TWICE_AT_MOST = r"XX...|PGRSTX00"  # a fault inside the server does not pass with time
_OVERLOAD = r"PGRST003|53300|(?:http_|PT)(?:420|429|503|529)"
_LOST = r"08..."  # of a database: there is no connection, or it broke
_OUTCOME_UNKNOWN = r"40003|08007|08P01"  # 08P01: PgBouncer lost its connection to the database
# The gateway stopped waiting; the database may have finished the work after that.
_GATEWAY_TIMEOUT = r"http_(?:499|504|524|544|598|599)"
_GIVEN_UP = r"(?:query|transaction)\stimeout"  # of PgBouncer's own settings
_DEFERRABLE = "does not support deferrable unique constraints"
_VIEW_COLUMN = r'(?s)cannot (?:insert into|update) column "(?P<computed>.*)" of view "(?P<view>.*)"$'
_NOT_WRITABLE = r'cannot (?:insert into|update) view "|cannot change materialized view "'
_STALE_TYPE = r'(?s)column ".*" is of type .* but expression is of type .*'

_KEY = (
    "Check SUPABASE_URL and SUPABASE_KEY against the project's API settings; a key belongs to one project, "
    "and a disabled or expired key must be replaced."
)
RELOAD_SQL = "NOTIFY pgrst, 'reload schema';"
_REASONS: tuple[tuple[str, str, str], ...] = (
    # pattern of the code, finish reason, remedy
    (r"PGRST3..|http_401|http_403|28...|3D000", "supabase_unauthorized", _KEY),
    (
        r"http_402",
        "supabase_payment_required",
        "The project is over its quota: see its billing page in the Supabase dashboard.",
    ),
    (
        r"http_540",
        "supabase_paused",
        "The project is paused: restore it in the Supabase dashboard, then run again.",
    ),
    (
        r"PGRST205|42P01",
        "supabase_no_table",
        "Create it, or correct SUPABASE_TABLE, SUPABASE_TABLES or SUPABASE_SCHEMA. If it is new, run: " + RELOAD_SQL,
    ),
    (
        r"http_404|PGRST125",
        "supabase_not_found",
        "SUPABASE_URL must be the project's URL alone, such as https://abcdefgh.supabase.co.",
    ),
    (
        r"PGRST106",
        "supabase_schema_not_exposed",
        "Correct SUPABASE_SCHEMA, or expose the schema in the Supabase dashboard: API settings > Exposed schemas.",
    ),
    (
        r"42501",
        "supabase_permission_denied",
        "",  # who asked knows the table, and prints the GRANT
    ),
    (
        r"25006",
        "supabase_read_only",
        "The database is read-only: free disk space, leave read-only mode, then run again.",
    ),
    (
        r"53100",
        "supabase_disk_full",
        "The database's disk is full: free space or enlarge it, then run again.",
    ),
    (
        r"http_414|http_431",
        "supabase_request_too_long",
        (
            "The URL or the headers are longer than a proxy or the server accepts: raise its limit (nginx: "
            "large_client_header_buffers), shorten the names of the table's columns, or set SUPABASE_DB_URL."
        ),
    ),
    (
        r"PGRST204|42703|428C9",
        "supabase_schema",
        "This column cannot be left out: check the table's columns, triggers and defaults.",
    ),
)
_NO_ROWS = (
    "Upload into a table: rows cannot be stored in this view. An INSTEAD OF trigger makes an ordinary view accept them."
)
_UNKNOWN = "Look up the code in the error lists of PostgreSQL and PostgREST, fix the cause, then run again."


def classify(status: int, body: bytes, retry_after: str | None = None, *, table: str = "") -> ServerError:
    """Return the error for an unsuccessful answer. Never raises.

    `retry_after` is the text of that header; only seconds are understood (a date is ignored). `table` is the table the
    rows were sent to: a message that names another table is about a statement of a trigger.
    """
    parsed = parse_body(body)
    code = parsed.get("code", "")
    if not code or code == str(status):  # a gateway in front of PostgREST sends the status as code
        code = f"http_{status}"
    message = parsed.get("message") or parsed.get("error") or one_line(body) or "the answer has no message"
    error = _classify(code, message, parsed.get("details"), parsed.get("hint"), status, table)
    if isinstance(error, TransientError):
        error.retry_after = _seconds(retry_after)
    return error


def classify_sql(
    code: str, message: str, details: str | None = None, hint: str | None = None, *, table: str = ""
) -> ServerError:
    """Return the error for a database's own answer: an SQLSTATE and its texts."""
    if no_connection.is_from_pooler(code, message):
        return classify_connection(message)
    error = _classify(code, message, details, hint, table=table)
    if isinstance(error, FatalError) and error.reason == "supabase_unauthorized":
        error.remedy = no_connection.CREDENTIALS
    if isinstance(error, TransientError) and code == no_connection.PGBOUNCER:
        error.unanswered = True
        error.splittable = re.fullmatch(_GIVEN_UP, message) is not None
    return error


def classify_connection(message: str) -> ServerError:
    """Return the error for a failed attempt to connect to a database, which has libpq's message and no SQLSTATE."""
    code, remedy = no_connection.explain(message)
    kind = TransientError if re.fullmatch(_RULES[0][1], code) else FatalError
    error = _new_error(kind, code, code, message)
    if isinstance(error, TransientError | FatalError):
        error.remedy = remedy
    if isinstance(error, TransientError):
        error.unanswered = True
    return error


def _classify(
    code: str, message: str, details: str | None, hint: str | None, status: int = 0, table: str = ""
) -> ServerError:
    # A user-defined code (`RAISE SQLSTATE 'PGRST'`) or a gateway's word means less than the status beside it.
    own = re.fullmatch(r"[0-9A-Z]{5}|PGRST\w+|http_\d+", code) is None and status > 0
    decisive = f"http_{status}" if own else code
    kind = _kind(decisive, message, status, table)
    if own and kind is not TransientError:
        kind = UnknownError
    error = _new_error(kind, decisive, code, message, status=status, details=details, hint=hint)
    if isinstance(error, SchemaDriftError) and not error.column:
        error = _new_error(UnknownError, decisive, code, message, status=status, details=details, hint=hint)
    error.stale_schema = _may_be_stale(error, table)
    return error


def _kind(code: str, message: str, status: int, table: str) -> type[ServerError]:
    if is_policy_violation(code, message):
        return BadRowsError
    if _is_role_refused(code, message, status):
        return FatalError
    if code == "55000" and _DEFERRABLE in message:
        return UpsertRefusedError
    if code == "0A000" and (found := re.match(_VIEW_COLUMN, message)) and found["view"] == table:
        return SchemaDriftError
    if code in ("42501", "42P01"):
        return FatalError if _names(code, message, table) else UnknownError
    if _is_transient_status(code):
        return TransientError
    return next((kind for kind, pattern in _RULES if re.fullmatch(pattern, code)), UnknownError)


def _new_error(
    kind: type[ServerError],
    decisive: str,
    code: str,
    message: str,
    *,
    status: int = 0,
    details: str | None = None,
    hint: str | None = None,
) -> ServerError:
    """Make an error of `kind` and set its attributes by `decisive`: the code, or the status that counts instead."""
    error = kind(message, code=code, status=status, details=details, hint=hint)
    if isinstance(error, TransientError):
        error.reachable = re.fullmatch(_REACHABLE, decisive) is not None
        error.tries = 2 if re.fullmatch(_TWICE_AT_MOST, decisive) else None
        error.overload = re.fullmatch(_OVERLOAD, decisive) is not None
        error.busy = error.tries is None and (status > 0 or re.fullmatch(_LOST, decisive) is None)
        error.splittable = re.fullmatch(_GATEWAY_TIMEOUT, decisive) is not None
        error.ambiguous = error.splittable or re.fullmatch(_OUTCOME_UNKNOWN, decisive) is not None
    elif isinstance(error, MissingReferenceError):
        found = re.search(_NOT_PRESENT, details or "")
        error.parent = found["table"] if found else ""
    elif isinstance(error, SchemaDriftError):
        error.column = _column_of(error)
        error.is_generated = code in ("428C9", "0A000")
    elif isinstance(error, FatalError):
        wanted = "http_401" if _is_role_refused(code, message, status) else decisive
        for pattern, reason, remedy in _REASONS:
            if re.fullmatch(pattern, wanted):
                error.reason, error.remedy = reason, remedy
                break
        else:
            error.remedy = _NO_ROWS if re.match(_NOT_WRITABLE, message) else _UNKNOWN
    return error


def _is_role_refused(code: str, message: str, status: int) -> bool:
    """Return whether the key's role does not exist or must not be used. PostgREST answers that with 401 or 403."""
    if code == "22023":
        return status == 401
    return code == "42501" and message.startswith("permission denied to set role")


def _is_transient_status(code: str) -> bool:
    """Return whether an HTTP status, or an error raised as one (PT503), is transient.

    All from 500 on are, except 501 and 505 (not supported) and 540 (the project is paused).
    """
    found = re.fullmatch(r"(?:http_|PT)(\d\d\d)", code)
    number = int(found[1]) if found else 0
    return number in (408, 420, 425, 429, 499) or (500 <= number < 600 and number not in (501, 505, 540))


def _names(code: str, message: str, table: str) -> bool:
    """Return whether the message is about `table` itself: a trigger's statements may name another one."""
    if code == "42501":
        kind, name = denied(message) or ("", "")
        if kind == "sequence":  # of a serial key: only requests with rows use it, so that a probe would not find it
            return True
    else:
        found = re.search(_NO_RELATION, message)
        kind, name = "table", next(filter(None, found.groups()), "") if found else ""
    return kind == "table" and bool(table) and (name == table or name.endswith(f".{table}"))


def _may_be_stale(error: ServerError, table: str) -> bool:
    """Return whether PostgREST's schema cache, or our catalog, may be older than the table."""
    if error.code == "42P01":
        return _names(error.code, error.message, table)
    if error.code == "42804":
        return re.fullmatch(_STALE_TYPE, error.message) is not None
    return error.code in ("PGRST204", "PGRST205")


def _seconds(retry_after: str | None) -> float | None:
    try:
        return max(0.0, float(retry_after)) if retry_after else None
    except ValueError:
        return None


_NOT_PRESENT = r'(?s)is not present in table "(?P<table>.*)"\.$'
_NO_RELATION = r"(?s)relation \"(.*)\" does not exist|Could not find the table '(.*?)'(?: in the schema cache)?$"

# 42703 from INSERT: column "x" of relation "t" does not exist; from ON CONFLICT: column "x" does not exist.
_COLUMN = (
    r"(?s)Could not find the '(?P<cache>.*)' column of '"
    r'|column "(?P<plain>.*?)"(?: of relation ".*")? does not exist'
    r"|column (?P<bare>\S+) does not exist"
    r'|column "(?P<computed>.*)" of view "'
    r'|column "(?P<generated>.*)"$'
)


def _column_of(error: ServerError) -> str:
    found = re.search(_COLUMN, error.message)
    return next((name for name in found.groups() if name), "") if found else ""
