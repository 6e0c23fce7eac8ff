"""What can go wrong. `answers.py` has the table that classifies a server's answer.

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
    └── FatalError          no request will work until somebody fixes something
        └── UnknownError    unless the same request without rows passes: then some rows are not acceptable
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from scrapy_supabase.messages import sentence


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

    `code` is a short name for grouping, `field` the field at fault (or None); `row` holds the values by column, where
    the item came so far.
    """

    def __init__(
        self, code: str, message: str, field: str | None = None, *, row: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.field = field
        self.row = row


class ServerError(SupabaseError):
    """A server's answer that is not a success, or no answer (`status` 0).

    `code` is the SQLSTATE or PGRST code, else `http_503` and the like, else the name of the network failure.
    `details` and `hint` are for people only: PostgREST 16 can be set to leave them out (`client-error-verbosity`).
    `stale_schema`: the server may know an older version of the table: worth one wait before it is believed.
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
        """What the server said, in whole sentences: code, message, details, hint."""
        parts = [f"{self.code}: {self.message}"]
        if self.details:
            parts.append(self.details)
        if self.hint:
            parts.append(f"Hint: {self.hint}")
        return " ".join(map(sentence, parts))


class TransientError(ServerError):
    """May work later.

    `unanswered`: the connection failed. `ambiguous`: the rows may have been stored. `splittable`: fewer rows may work.
    `retry_after`: seconds the server asked for. `tries`: the number of tries allowed, where that is lower than the
    setting. `is_there`: the server did work on the request, so this is no outage. `about_rows`: the same request
    without its rows passed. `overload`: the server has too much to do. `remedy`: what to do if it does not go away.
    """

    unanswered: bool = False
    ambiguous: bool = False
    splittable: bool = False
    retry_after: float | None = None
    tries: int | None = None
    is_there: bool = False
    about_rows: bool = False
    overload: bool = False
    remedy: str = ""


class TrialStoredError(ServerError):
    """Rows that were sent only to be judged are in the table: a trigger of its own left one of them."""


class TooLargeError(ServerError):
    """Too many rows or bytes for one request or one statement."""


class UpsertRefusedError(ServerError):
    """The database takes no upsert here: no unique index for the conflict columns (42P10), or 42501."""


class SchemaDriftError(ServerError):
    """The table lacks `column`, or the database makes it (`is_made`: a generated or identity column)."""

    column: str = ""
    is_made: bool = False


class BadRowsError(ServerError):
    """At least one row of the request violates a rule of the table."""


class MissingReferenceError(BadRowsError):
    """A row refers to one that is not stored (23503); `parent` is the table where it should be, if that was said."""

    parent: str = ""


class FatalError(ServerError):
    """Nothing will work until somebody fixes something.

    `reason` is the crawl's finish reason, `remedy` a sentence that says what to do.
    """

    reason: str = "supabase_error"
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.answer} {self.remedy}".rstrip()


class UnknownError(FatalError):
    """Not known to be about everything: the same request without rows decides.

    If that passes, some rows are not acceptable, as with a `BadRowsError`; if it is refused, too, this is fatal. A
    request that had no rows was refused for good: there it is a `FatalError` like any other.
    """


def fatal(error: ServerError, reason: str, remedy: str) -> FatalError:
    """Make `error` a `FatalError` with a finish reason and a remedy."""
    made = FatalError(error.message, code=error.code, status=error.status, details=error.details, hint=error.hint)
    made.reason, made.remedy = reason, remedy
    return made


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


_DENIED = r"permission denied for (?P<kind>schema|sequence|(?:[a-z]+ )?(?:table|view)) (?P<name>.+)"
