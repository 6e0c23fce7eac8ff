"""The options of a table for the write of its rows: `insert_only`, `merge`, `if_changed` and `missing`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from scrapy_supabase.models import SNAPSHOT_STAMPS, Mode, WriteOptions
from scrapy_supabase.settings.reader import Reader

WRITE_KEYS = ("insert_only", "merge", "if_changed", "missing")
WRITE_SETTINGS = {"if_changed": "SUPABASE_IF_CHANGED", "missing": "SUPABASE_MISSING"}
# Stamps that differ between two crawls of the same page: `if_changed` does not compare them.
_OF_THE_RUN = ("run_id", "row_id", "now", "hour", "date", *SNAPSHOT_STAMPS)


class TableOptions(Protocol):
    """The options of one table (`table_options.Options`)."""

    @property
    def reader(self) -> Reader:
        """The reader, which collects problems."""

    @property
    def own(self) -> Mapping[str, Any]:
        """The table's own options."""

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of an option."""

    def path(self, key: str) -> str:
        """Return the name of the setting that has the value of an option."""


def read_writing(
    options: TableOptions, mode: Mode, on_conflict: tuple[str, ...], stamps: Mapping[str, str]
) -> WriteOptions:
    """Return the options for the write of a table's rows. Problems go to the reader of `options`."""
    reader, path = options.reader, options.path
    insert_only = reader.column_names(path("insert_only"), options.get("insert_only", ()))
    merge = reader.column_names(path("merge"), options.get("merge", ()))
    if_changed = options.get("if_changed", False)
    if not mode.updates and "mode" in options.own and "if_changed" not in options.own:
        if_changed = False  # the project-wide setting is about the other tables
    if not isinstance(if_changed, bool):
        if_changed = reader.wrong(path("if_changed"), if_changed, "True or False", False)
    missing = options.get("missing", "keep")
    if missing not in ("keep", "null"):
        missing = reader.wrong(path("missing"), missing, "one of keep, null", "keep")
    if missing == "null" and options.get("none") == "skip":
        reader.problems.append(
            f"{path('missing')} is 'null' and {path('none')} is 'skip', which contradict each other: a field that is "
            "None would be left out, and then stored as NULL. Remove one of them."
        )
    for key, used in (("insert_only", insert_only), ("merge", merge), ("if_changed", if_changed)):
        if used and (not mode.updates or (key == "insert_only" and mode is Mode.UPDATE)):
            allowed = "upsert" if key == "insert_only" else "upsert or update"
            reader.problems.append(
                f"{path(key)} needs mode {allowed}, and {path('mode')} is {mode}. Change one of them."
            )
    for key, columns, others, where in (
        ("insert_only", insert_only, on_conflict, path("on_conflict")),
        ("merge", merge, on_conflict, path("on_conflict")),
        ("merge", merge, insert_only, path("insert_only")),
    ):
        if both := sorted(set(columns) & set(others)):
            reader.problems.append(f"{path(key)} and {where} both have column {both[0]!r}: remove it from one of them.")
    ignored = tuple(column for column, stamp in stamps.items() if stamp in _OF_THE_RUN) if if_changed else ()
    return WriteOptions(insert_only, merge, if_changed, ignored, missing == "null")
