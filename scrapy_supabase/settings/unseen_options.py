"""The option `unseen` of a table: what happens to the rows that a complete crawl did not store."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec

from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.rows.where import filters_of
from scrapy_supabase.schema.table_spec import TableSpec, Unseen
from scrapy_supabase.settings.reader import Reader
from scrapy_supabase.settings.write_options import TableOptions

STAMPS = ("now", "date", "run_id", "spider")
"""The stamps that `set` may name."""

_KEYS = ("set", "delete", "where", "at_most")
_SHAPE = 'a dict with "set" or "delete", and "where" and "at_most"'


def read_unseen(options: TableOptions, spec: TableSpec) -> Unseen | None:
    """Return the option `unseen` of the table `spec`; None without it. Problems go to the reader of `options`."""
    value = options.get("unseen")
    if value is None:
        return None
    reader, path = options.reader, options.path("unseen")
    if not isinstance(value, Mapping):
        return reader.wrong(path, value, _SHAPE, None)
    if unknown := [key for key in value if key not in _KEYS]:
        reader.unknown_option(path, unknown[0], _KEYS)
        return None
    _check_table(options, spec, path)
    seen = _seen_columns(spec)
    found = Unseen(
        next(iter(seen), ""),
        by_time="now" in seen.values(),
        where=_where(options, f"{path}['where']", value.get("where", {})),
        at_most=_at_most(options, f"{path}['at_most']", value.get("at_most", 0.2)),
    )
    deletes, sets = value.get("delete", False), value.get("set")
    if not isinstance(deletes, bool):
        return reader.wrong(f"{path}['delete']", deletes, "True or False", None)
    if deletes is (sets is not None):
        reader.problems.append(f'{path} must have one of "set" and "delete": True, and not both.')
        return None
    return found if deletes else _with_changes(options, f"{path}['set']", sets, found)


def read_replace(reader: Reader, path: str, value: Any, spec: TableSpec, parent: TableSpec) -> Unseen | None:
    """Return the option `replace` of the child table `spec`; None without it. Problems go to the reader."""
    if not isinstance(value, bool):
        return reader.wrong(path, value, "True or False", None)
    if not value:
        return None
    if spec.unseen is not None:
        reader.problems.append(f"{path} and 'unseen' are both set for table {spec.name!r}. Remove one of them.")
    for one in (spec, parent):
        if not _stamped(one, "run_id"):
            reader.problems.append(
                f"{path} needs a column that tells which run stored a row: add a text column such as run_id to table "
                f'{one.name!r}, and "run_id": "run_id" to its stamps or to SUPABASE_STAMPS.'
            )
        if not one.mode.updates or one.snapshots or one.writing.if_changed:
            reader.problems.append(
                f"{path} needs table {one.name!r} to be stored with mode upsert or update, without daily snapshots and "
                "without if_changed: otherwise rows keep the run_id of an earlier run."
            )
    columns = [next(iter(_stamped(one, "run_id")), "") for one in (spec, parent)]
    return Unseen(columns[0], parent_column=columns[1]) if all(columns) else None


def _stamped(spec: TableSpec, stamp: str) -> dict[str, str]:
    """Return the columns that get a stamp in each row."""
    kept = spec.writing.insert_only
    return {column: one for column, one in spec.stamps.items() if one == stamp and column not in kept}


def _seen_columns(spec: TableSpec) -> dict[str, str]:
    """Return the columns that tell which run stored a row, with their stamp: `run_id`, else `now`."""
    return _stamped(spec, "run_id") or _stamped(spec, "now")


def _check_table(options: TableOptions, spec: TableSpec, path: str) -> None:
    """Record options of the table with which stored rows do not get the stamp of this run."""
    problems = options.reader.problems
    if not _seen_columns(spec):
        problems.append(
            f"{path} needs a column that tells which run stored a row last: add a text column such as run_id to table "
            f'{spec.name!r}, and "run_id": "run_id" to {options.path("stamps")}.'
        )
    if not spec.mode.updates:
        problems.append(
            f"{path} needs mode upsert or update, and {options.path('mode')} is {spec.mode}: rows that are stored "
            "already would keep the stamp of an earlier run. Change one of them."
        )
    for setting, used, why in (
        ("SUPABASE_DAILY_SNAPSHOTS", spec.snapshots, "the rows of each run are kept"),
        (options.path("if_changed"), spec.writing.if_changed, "an equal row keeps the stamp of an earlier run"),
    ):
        if used:
            problems.append(f"{path} and {setting} contradict each other: {why}. Remove one of them.")


def _where(options: TableOptions, name: str, value: Any) -> Mapping[str, Any]:
    try:
        filters_of(value, name)
    except ConfigurationError as error:
        options.reader.problems.append(str(error))
        return {}
    return dict(value)


def _at_most(options: TableOptions, name: str, value: Any) -> float:
    allowed = "a fraction of the rows, above 0 and up to 1 (0.2 for a fifth)"
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        return options.reader.wrong(name, value, allowed, 0.2)
    return float(value)


def _with_changes(options: TableOptions, name: str, value: Any, found: Unseen) -> Unseen | None:
    reader = options.reader
    if not isinstance(value, Mapping) or not value or not all(isinstance(column, str) and column for column in value):
        return reader.wrong(name, value, "a dict that maps columns to values", None)
    for column, one in value.items():
        if not _is_plain(one):
            reader.wrong(f"{name}[{column!r}]", one, "a text, a number, True, False or None", None)
    if found.seen_column in value:
        problem = f"{name} has column {found.seen_column!r}, which tells which run stored the row: use another column."
        reader.problems.append(problem)
    stamps = {column: one for column, one in value.items() if isinstance(one, str) and one in STAMPS}
    constants = {column: one for column, one in value.items() if column not in stamps}
    return msgspec.structs.replace(found, constants=constants, stamps=stamps)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | bool | int | float | Decimal)
