"""What can go wrong, and the one table that classifies a server's answer.

    SupabaseError
    ├── ConfigurationError      the settings; the crawl does not start
    ├── ItemError               an item that cannot become a row; that row is rejected
    └── ServerError             an answer, or none, to a request
        ├── TransientError      the same request may work later
        ├── TrialStoredError    rows that were only to be judged are stored
        ├── TooLargeError       half of it may work
        ├── UpsertRefusedError  a plain insert may work
        ├── SchemaDriftError    it may work without one column
        ├── BadRowsError        some rows are not acceptable
        │   └── MissingReferenceError   to rows that may still be on their way
        └── FatalError          no request will work until somebody mends something

The `code` in the body decides (SQLSTATE or PGRSTnnn), the HTTP status only where there is no code: 21000 and 57014 both
come as 500, 25006 as 405. Sources: PostgREST docs, references/errors; PostgreSQL docs, appendix A; measured on 14.14.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from scrapy_supabase.wording import sentence


class SupabaseError(Exception):
    """Base of all errors of this package."""


class ConfigurationError(SupabaseError):
    """Settings that cannot be used. The message lists all of them, each with what is allowed.

    `problems` are the entries of that list, where it is one.
    """

    def __init__(self, message: str, problems: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)

    def __repr__(self) -> str:
        """Only the first line: Scrapy logs this above a traceback whose last lines are the message."""
        first, more, _ = str(self).partition("\n")
        return f"{type(self).__name__}({first + ' …' * bool(more)!r})"


class ItemError(SupabaseError):
    """An item that cannot become a row.

    `code` is a short name for grouping, `field` the field at fault (or None).
    """

    def __init__(self, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.field = field


class ServerError(SupabaseError):
    """A server's answer that is not a success, or no answer (`status` 0).

    `code` is the SQLSTATE or PGRST code, else `http_503` and the like, else the name of the network failure.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        status: int = 0,
        details: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.status = status
        self.details = details
        self.hint = hint

    def __str__(self) -> str:
        return self.answer

    @property
    def answer(self) -> str:
        """What the server said, in whole sentences: code, message, details, hint."""
        parts = [f"{self.code}: {self.message}"]
        if self.details:
            parts.append(self.details)
        if self.hint:
            parts.append(f"Hint: {self.hint}")
        return " ".join(map(sentence, parts))


class TransientError(ServerError):
    """May work later.

    `ambiguous`: the rows may have been stored; `splittable`: fewer rows may work; `retry_after`: seconds the server
    asked for; `tries`: how often at most, where it is less than the setting; `internal`: it may be about these rows,
    so that other requests may work meanwhile; `overload`: the server has too much to do.
    """

    ambiguous: bool = False
    splittable: bool = False
    retry_after: float | None = None
    tries: int | None = None
    internal: bool = False
    overload: bool = False


class TrialStoredError(ServerError):
    """Rows that were sent only to be judged are in the table: a trigger of its own left one of them."""


class TooLargeError(ServerError):
    """Too many rows or bytes for one request or one statement."""


class UpsertRefusedError(ServerError):
    """The database takes no upsert here: no unique index for the conflict columns (42P10), or 42501."""


class SchemaDriftError(ServerError):
    """The table lacks `column`, or it may not be written (generated, identity)."""

    column: str = ""


class BadRowsError(ServerError):
    """At least one row of the request violates a rule of the table."""


class MissingReferenceError(BadRowsError):
    """A row refers to one that is not stored (23503); `parent` is the table where it should be, if that was said."""

    parent: str = ""


class FatalError(ServerError):
    """Nothing will work until somebody mends something.

    `reason` is the crawl's finish reason, `remedy` a sentence that says what to do.
    """

    reason: str = "supabase_error"
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.answer} {self.remedy}".rstrip()


def fatal(error: ServerError, reason: str, remedy: str) -> FatalError:
    """Make `error` a `FatalError` with a finish reason and a remedy."""
    made = FatalError(error.message, code=error.code, status=error.status, details=error.details, hint=error.hint)
    made.reason, made.remedy = reason, remedy
    return made


_TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 530, 544})
# The gateway gave up waiting: the database may have finished the work after that.
_AMBIGUOUS_STATUS = frozenset({504, 524, 544})
_OVERLOAD_STATUS = (429, 503)
_OVERLOAD_CODE = ("PGRST003", "53300")  # no connection to the database is free
_TRANSIENT_CODE = r"PGRST00[0-3]|PGRSTX00|08...|53(?!100)...|40001|40P01|55P03|57P0[123]|XX..."
_TWICE_AT_MOST = r"XX...|PGRSTX00"
_DRIFT_CODE = r"PGRST204|42703|428C9"
_BAD_ROWS_CODE = r"22...|23...|21000|P0001|54000|PT4\d\d"

_KEY = (
    "Check SUPABASE_URL and SUPABASE_KEY against the project's API settings; a key belongs to one project, "
    "and a disabled or expired key must be replaced."
)
_RELOAD_SQL = "NOTIFY pgrst, 'reload schema';"
_FATAL: tuple[tuple[str, str, str], ...] = (
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
        "Create it, or correct SUPABASE_TABLE, SUPABASE_TABLES or SUPABASE_SCHEMA. If it is new, run: " + _RELOAD_SQL,
    ),
    (
        r"http_404",
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
)
_UNKNOWN = "Look the code up in the lists of errors of PostgreSQL and PostgREST, mend what it says, then run again."
# What PostgreSQL, PgBouncer and Supavisor say to who may not connect, and the SQLSTATE it stands for.
_NO_CONNECTION = (
    (r"database \".*\" does not exist|no such database", "3D000"),
    (r"authentication failed|no password supplied|role \".*\" does not exist|not permitted to log in", "28000"),
    (r"no pg_hba\.conf entry|tenant or user not found|permission denied to set role", "28000"),
    (r"too many (clients|connections)|connection slots|max.?client", "53300"),
    (r"(is starting up|is shutting down|is not yet accepting connections|in recovery mode)", "57P03"),
)


def is_policy_violation(code: str, message: str) -> bool:
    """Whether a 42501 speaks of a row-level policy, which judges rows, and not of a missing grant."""
    return code == "42501" and "row-level security" in message


def is_past_policies(code: str, message: str) -> bool:
    """Whether a row was refused by what PostgreSQL looks at only after the row-level policies: the constraints."""
    return code in ("21000", "23503", "23505", "23514", "23P01") or (
        code == "23502" and "null value in column" in message
    )


def denied(message: str) -> tuple[str, str] | None:
    """What a 42501 denies: `("table", "books")` (or a view), a sequence, a schema; None where it does not say."""
    found = re.fullmatch(_DENIED, message)
    if found is None:
        return None
    kind = found["kind"]
    return kind if kind in ("schema", "sequence") else "table", found["name"]


def classify(status: int, body: bytes, retry_after: str | None = None) -> ServerError:
    """Turn an unsuccessful answer into the error that says what to do about it. Never raises.

    `retry_after` is the header's text; only its form in seconds is used (a date is ignored).
    """
    parsed = parse_body(body)
    code = parsed.get("code") or f"http_{status}"
    message = parsed.get("message") or parsed.get("error") or _one_line(body) or "the answer has no message"
    error = _classified(code, message, parsed.get("details"), parsed.get("hint"), status)
    if isinstance(error, TransientError):
        error.ambiguous = error.splittable = status in _AMBIGUOUS_STATUS and code == f"http_{status}"
        error.retry_after = _seconds(retry_after)
    return error


def classify_sql(code: str, message: str, details: str | None = None, hint: str | None = None) -> ServerError:
    """`classify` for what a database itself says: an SQLSTATE and its words."""
    error = _classified(code, message, details, hint)
    if isinstance(error, FatalError) and error.reason == "supabase_unauthorized":
        error.remedy = "Check user, password and database in SUPABASE_DB_URL against the project's connection strings."
    return error


def classify_connection(message: str) -> ServerError:
    """`classify` for a database connection that could not be made: there is no SQLSTATE, only what libpq says."""
    code = next((code for pattern, code in _NO_CONNECTION if re.search(pattern, message, re.IGNORECASE)), "08001")
    return classify_sql(code, message)


def _classified(code: str, message: str, details: str | None, hint: str | None, status: int = 0) -> ServerError:
    kind = BadRowsError if is_policy_violation(code, message) else _kind(code, status)
    error = kind(message, code=code, status=status, details=details, hint=hint)
    if isinstance(error, TransientError):
        error.internal = re.fullmatch(_TWICE_AT_MOST, code) is not None
        error.tries = 2 if error.internal else None
        error.overload = status in _OVERLOAD_STATUS or code in _OVERLOAD_CODE
    elif isinstance(error, MissingReferenceError):
        found = re.search(_NOT_PRESENT, error.details or "")
        error.parent = found["table"] if found else ""
    elif isinstance(error, SchemaDriftError):
        error.column = _column_of(error)
        if not error.column:
            return fatal(
                error,
                "supabase_schema",
                "It cannot be left out: look at the table's columns, and at its triggers and defaults.",
            )
    elif isinstance(error, FatalError):
        for pattern, reason, remedy in _FATAL:
            if re.fullmatch(pattern, code):
                error.reason, error.remedy = reason, remedy
                break
        else:
            error.remedy = _UNKNOWN
    return error


def _kind(code: str, status: int) -> type[ServerError]:
    if re.fullmatch(_TRANSIENT_CODE, code):
        return TransientError
    if code in {"57014", "http_413"}:
        return TooLargeError
    if code == "42P10":
        return UpsertRefusedError
    if re.fullmatch(_DRIFT_CODE, code):
        return SchemaDriftError
    if code == "23503":
        return MissingReferenceError
    if re.fullmatch(_BAD_ROWS_CODE, code):
        return BadRowsError
    if code == f"http_{status}" and status in _TRANSIENT_STATUS:
        return TransientError
    return FatalError


def parse_body(body: bytes) -> dict[str, str]:
    """Return code, message, details and hint of an error body as far as they are there, and nothing from HTML."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    # A gateway in front of PostgREST puts numbers into `code`: those are statuses, not codes.
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in found.items()
        if name in {"code", "message", "error", "details", "hint"}
        and value
        and not (name == "code" and (not isinstance(value, str) or (value.isdigit() and len(value) == 3)))
    }


def _one_line(body: bytes) -> str:
    text = re.sub(r"<(style|script).*?</\1>|<[^>]*>", " ", body[:4000].decode("utf-8", "replace"), flags=re.DOTALL)
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE].rstrip()}…"


def _seconds(retry_after: str | None) -> float | None:
    try:
        return max(0.0, float(retry_after)) if retry_after else None
    except ValueError:
        return None


_LONGEST_LINE = 160  # of a page in HTML
_DENIED = r"permission denied for (?P<kind>schema|sequence|(?:[a-z]+ )?(?:table|view)) (?P<name>.+)"
_NOT_PRESENT = r'(?s)is not present in table "(?P<table>.*)"\.$'

# 42703 from INSERT: column "x" of relation "t" does not exist; from ON CONFLICT: column "x" does not exist.
_COLUMN = (
    r"(?s)Could not find the '(?P<cache>.*)' column of '"
    r'|column "(?P<plain>.*?)"(?: of relation ".*")? does not exist'
    r"|column (?P<bare>\S+) does not exist"
    r'|column "(?P<generated>.*)"$'
)


def _column_of(error: ServerError) -> str:
    found = re.search(_COLUMN, error.message)
    return next((name for name in found.groups() if name), "") if found else ""
