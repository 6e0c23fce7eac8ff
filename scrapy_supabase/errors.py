"""The errors of this package. The table in `backends/answers.py` maps a server's answer to one of them.

SupabaseError
├── ConfigurationError      wrong settings; the crawl does not start
├── ItemError               an item that cannot become a row; the item is rejected
└── ServerError             an error answer, or no answer
    ├── TransientError      the same request may succeed later
    ├── TrialStoredError    rows of a dry run were stored
    ├── TooLargeError       a request with half of the rows may succeed
    ├── UpsertRefusedError  a plain insert may succeed
    ├── SchemaDriftError    the request may succeed without one column
    ├── BadRowsError        at least one row is rejected
    │   └── MissingReferenceError   a referenced row is not stored yet
    └── FatalError          no request succeeds until somebody fixes the cause
        └── UnknownError    an unknown error: about rows if the same request without rows succeeds, else fatal
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from scrapy_supabase.messages import sentence


class SupabaseError(Exception):
    """The base class of all errors of this package."""


class ConfigurationError(SupabaseError):
    """Wrong settings or arguments. The message says what is allowed.

    `problems` are the entries of a message that lists several.
    """

    def __init__(self, message: str, problems: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)

    def __repr__(self) -> str:
        """Return only the first line: Scrapy logs it above a traceback that ends with the whole message."""
        first, line_end, _ = str(self).partition("\n")
        return f"{type(self).__name__}({f'{first} …' if line_end else first!r})"


class ItemError(SupabaseError):
    """An item that cannot become a row.

    `code` is the reason in the reject file, `field` the invalid field (or None). `row` has the values by column if the
    item was mapped to columns before the error.
    """

    def __init__(
        self, code: str, message: str, field: str | None = None, *, row: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.field = field
        self.row = row


class ServerError(SupabaseError):
    """A server's error answer, or no answer (`status` 0).

    `code` is the SQLSTATE or PGRST code, else `http_503` and the like, else the name of the network failure.
    `details` and `hint` are for people only: PostgREST 16 can omit them (`client-error-verbosity`).
    `stale_schema`: the server's schema cache may be out of date, so that one more try after a wait may succeed.
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
        self.stale_schema = False

    def __str__(self) -> str:
        return self.answer

    @property
    def answer(self) -> str:
        """The server's answer in sentences: code, message, details, hint."""
        parts = [f"{self.code}: {self.message}"]
        if self.details:
            parts.append(self.details)
        if self.hint:
            parts.append(f"Hint: {self.hint}")
        return " ".join(map(sentence, parts))

    @property
    def is_forbidden(self) -> bool:
        """Whether the role lacks a privilege or a policy."""
        return self.code == "42501"


class TransientError(ServerError):
    """A request that may succeed later.

    `unanswered`: the connection failed. `ambiguous`: the rows may be stored. `splittable`: fewer rows may succeed.
    `retry_after`: the seconds of the server's Retry-After. `tries`: the maximum number of tries, if lower than the
    setting. `reachable`: the database processed the request, so this is no outage. `about_rows`: the same request
    without its rows succeeded. `overload`: the server is overloaded. `busy`: a server or a gateway is there and said
    that it cannot work now. `remedy`: what to do if the error persists.
    """

    unanswered: bool = False
    ambiguous: bool = False
    splittable: bool = False
    retry_after: float | None = None
    tries: int | None = None
    reachable: bool = False
    about_rows: bool = False
    overload: bool = False
    busy: bool = False
    remedy: str = ""

    @property
    def is_full(self) -> bool:
        """Whether the server had no room for one more request or connection, but may have it within minutes."""
        is_soon = (self.retry_after or 0.0) <= 300  # a longer wait is not made (`backends/retry.py`)
        return self.overload and is_soon and not self.code.endswith(("503", "529"))


class TrialStoredError(ServerError):
    """Rows of a dry run are stored: a trigger let only one of them through, and PostgREST accepts a single row."""


class TooLargeError(ServerError):
    """Too many rows or bytes for one request or one statement."""


class UpsertRefusedError(ServerError):
    """The database refuses upserts into the table: no unique index for the conflict columns (42P10), or 42501."""


class SchemaDriftError(ServerError):
    """The table lacks `column`, or the database generates it.

    `is_generated`: it is a generated column, an identity column, or one that a view computes.
    """

    column: str = ""
    is_generated: bool = False


class BadRowsError(ServerError):
    """At least one row of the request violates a rule of the table."""


class MissingReferenceError(BadRowsError):
    """A row refers to a row that is not stored (23503). `parent` is the referenced table, empty if unknown."""

    parent: str = ""


class FatalError(ServerError):
    """No request succeeds until somebody fixes the cause.

    `reason` is the crawl's finish reason, `remedy` a sentence that says what to do.
    """

    reason: str = "supabase_error"
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.answer} {self.remedy}".rstrip()


class UnknownError(FatalError):
    """An error that is fatal only if the same request without rows fails, too.

    If the request without rows succeeds, some rows are bad, as with a `BadRowsError`. For a request that had no rows,
    this is a `FatalError` like any other.
    """


E = TypeVar("E", bound=ServerError)


def retyped(kind: type[E], error: ServerError) -> E:
    """Return `error` as an error of another class."""
    return kind(error.message, code=error.code, status=error.status, details=error.details, hint=error.hint)


def fatal(error: ServerError, reason: str, remedy: str) -> FatalError:
    """Return `error` as a `FatalError` with a finish reason and a remedy."""
    made = retyped(FatalError, error)
    made.reason, made.remedy = reason, remedy
    return made


def is_policy_violation(code: str, message: str) -> bool:
    """Return whether an error is about a row-level policy, which rejects rows, and not about a missing grant."""
    return code == "42501" and "row-level security" in message


def is_past_policies(code: str, message: str) -> bool:
    """Return whether an error is about a constraint, which PostgreSQL checks only after the row-level policies."""
    return code in ("21000", "23503", "23505", "23514", "23P01") or (
        code == "23502" and "null value in column" in message
    )


def denied(message: str) -> tuple[str, str] | None:
    """Return kind and name of the object that a 42501 denies, such as `("table", "books")`; None if not named.

    The kind is table (also for a view), sequence or schema.
    """
    match = re.fullmatch(_DENIED, message)
    if match is None:
        return None
    kind = match["kind"]
    return kind if kind in ("schema", "sequence") else "table", match["name"]


_DENIED = r"permission denied for (?P<kind>schema|sequence|(?:[a-z]+ )?(?:table|view)) (?P<name>.+)"
