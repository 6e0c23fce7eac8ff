"""The errors about parents: what is wrong, for the row or for the settings, and the remedy."""

from __future__ import annotations

from collections.abc import Sequence

from scrapy_supabase.errors import FatalError, SchemaDriftError, ServerError, UpsertRefusedError, fatal
from scrapy_supabase.models import Reference
from scrapy_supabase.schema.remedies import BYPASS_POLICIES, columns, for_denied, lacks, qualified
from scrapy_supabase.schema.schema import Schema

_LONGEST = 80  # characters of a value in a message


def no_parent(reference: Reference, texts: Sequence[str | None], role: str) -> ServerError:
    """Return the reason to reject a row whose parent is not there, or is hidden from the role by a policy."""
    problem = f"column {reference.column!r}: table {reference.table} has no row with {_named(reference, texts)}"
    if role not in BYPASS_POLICIES:
        problem += f" that a policy lets the role {role} see"
    return ServerError(problem, code="no_parent")


def several_parents(reference: Reference, texts: Sequence[str | None]) -> ServerError:
    """Return the reason to reject a row for which there are several parents."""
    problem = f"column {reference.column!r}: table {reference.table} has several rows with {_named(reference, texts)}"
    return ServerError(problem, code="no_parent")


def fatal_for(schema: Schema, table: str, reference: Reference, error: ServerError) -> ServerError:
    """Return the error for a request about parents that is refused also without rows: a `FatalError` with its remedy.

    `table` has the reference. Errors that have nothing to do with the table of the parents are returned unchanged.
    """
    parent, option = reference.table, option_of(table, reference)
    if isinstance(error, UpsertRefusedError):
        index = f"CREATE UNIQUE INDEX ON {qualified(schema, parent)} ({columns(reference.match)});"
        problem = ServerError(f"table {parent} cannot tell whether a row is new: {error.message}", code=error.code)
        return fatal(problem, "supabase_no_unique_index", f"With 'create', {option} needs a unique index. Run: {index}")
    if isinstance(error, SchemaDriftError) and not error.is_generated:
        problem = ServerError(lacks(parent, [error.column.removeprefix(f"{parent}.")]), code=error.code)
        return fatal(problem, "supabase_schema", f"Correct {option}, or add the column.")
    if isinstance(error, SchemaDriftError):
        return fatal(error, "supabase_schema", f"Correct {option}: the database generates this column.")
    if isinstance(error, FatalError) and error.reason == "supabase_permission_denied":
        rights = "select, insert" if reference.create else "select"
        return fatal(error, error.reason, for_denied(schema, parent, error, rights))
    if isinstance(error, FatalError) and error.reason == "supabase_no_table":
        return fatal(error, error.reason, f"Correct {option}, or create the table.")
    return error


def option_of(table: str, reference: Reference) -> str:
    """Return the name of the option of a table, for messages."""
    return f"references[{reference.column!r}] of table {table} in SUPABASE_TABLES"


def _named(reference: Reference, texts: Sequence[str | None]) -> str:
    """Return the natural key: `name = 'Lamps'`."""
    return " and ".join(f"{column} = {_printed(text)}" for column, text in zip(reference.match, texts, strict=True))


def _printed(text: str | None) -> str:
    if text is None:
        return "NULL"
    return repr(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…")
