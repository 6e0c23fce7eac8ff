"""The options of one table: its dict in `SUPABASE_TABLES`, completed by the project-wide settings → `TableSpec`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from scrapy_supabase.errors import ItemError
from scrapy_supabase.models import SNAPSHOT_STAMPS, Mode
from scrapy_supabase.rows.stamps import hashed_fields
from scrapy_supabase.rows.values import encode_row
from scrapy_supabase.schema.table_spec import EmptyText, TableSpec, Unseen
from scrapy_supabase.settings.reader import Reader
from scrapy_supabase.settings.references import read_references
from scrapy_supabase.settings.unseen_options import read_unseen
from scrapy_supabase.settings.write_options import WRITE_KEYS, WRITE_SETTINGS, read_writing

T = TypeVar("T")

STAMPS = ("run_id", "row_id", "now", "hour", "date", *SNAPSHOT_STAMPS, "spider", "url")
SPIDER = "{spider}"
"""The placeholder for the spider's name, in names of tables and in constants."""

COMMON = {
    "mode": "SUPABASE_MODE",
    "on_conflict": "SUPABASE_ON_CONFLICT",
    "stamps": "SUPABASE_STAMPS",
    "row_id_column": "SUPABASE_ROW_ID_COLUMN",
    "constants": "SUPABASE_CONSTANTS",
    "empty_text": "SUPABASE_EMPTY_TEXT",
    "none": "SUPABASE_NONE",
    **WRITE_SETTINGS,
}
"""Option of a table → the project-wide setting with its default."""

TABLE_KEYS = (
    *("table", "on_conflict", "columns", "mode", "stamps", "snapshots", "row_id_column"),
    *("constants", "empty_text", "none", "json_column", "references", "unseen"),
    *WRITE_KEYS,
    "children",
)


def common_options(reader: Reader) -> dict[str, Any]:
    """Return the options that the project-wide settings define."""
    found = {key: reader.raw(setting) for key, setting in COMMON.items()}
    found["snapshots"] = reader.flag("SUPABASE_DAILY_SNAPSHOTS", False)
    found["if_changed"] = reader.flag("SUPABASE_IF_CHANGED", False)
    return {key: value for key, value in found.items() if value is not None}


class Options(msgspec.Struct, frozen=True):
    """The options of one table. `name` is that of its entry in `SUPABASE_TABLES`; empty for `SUPABASE_TABLE`."""

    reader: Reader
    name: str
    own: Mapping[str, Any]
    common: Mapping[str, Any]

    def spec(self, spider: str | None) -> TableSpec:
        """Return the spec of the table, with the spider's name in place of `{spider}`. Problems go to the reader."""
        reader = self.reader
        table = self.get("table")
        if not isinstance(table, str) or not table:
            table = reader.wrong(self.path("table"), table, "a table name: a text that is not empty", "")
        mode = self._choice("mode", Mode, Mode.UPSERT)
        columns = reader.text_map(self.path("columns"), self.get("columns", {}))
        for column in sorted({c for c in columns.values() if list(columns.values()).count(c) > 1}):
            reader.problems.append(
                f"{self.path('columns')} maps two fields to column {column!r}: give each its own column."
            )
        stamps = self._stamps()
        on_conflict = reader.column_names(self.path("on_conflict"), self.get("on_conflict", ()))
        snapshots = bool(self.get("snapshots", False))
        row_id = self.get("row_id_column")
        if row_id is not None:
            if not isinstance(row_id, str) or not row_id:
                reader.wrong(self.path("row_id_column"), row_id, "the name of a uuid column, or None", None)
            elif on_conflict or snapshots:
                other = self.path("on_conflict") if on_conflict else "SUPABASE_DAILY_SNAPSHOTS"
                reader.problems.append(
                    f"{self.path('row_id_column')} and {other} are both set for table {table!r}, and a table has one "
                    "key. Remove one of them."
                )
            else:
                mode, on_conflict, stamps = Mode.IGNORE, (row_id,), {**stamps, row_id: "row_id"}
        constants, json_column = self._constants(spider), self._json_column()
        filled = {
            **dict.fromkeys(stamps, "stamps"),
            **dict.fromkeys(constants, "constants"),
            json_column: "json_column",
        }
        named = {column: self.path(key) for column, key in filled.items() if column}
        references, fields = read_references(reader, self.path("references"), self.get("references", {}), named)
        spec = table_spec(
            table if spider is None else table.replace(SPIDER, spider),
            mode,
            on_conflict,
            columns,
            stamps,
            snapshots=snapshots,
            constants=constants,
            empty_text=self._choice("empty_text", EmptyText, EmptyText.KEEP),
            skip_none=self._skips_none(),
            json_column=json_column,
            references=fields,
            writing=msgspec.structs.replace(read_writing(self, mode, on_conflict, stamps), references=references),
        )
        self._check_columns(spec)
        return msgspec.structs.replace(spec, unseen=self._unseen(spec, spider))

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of an option: the table's own, else that of the project-wide setting."""
        # A table has one key: its own key setting replaces both common ones.
        exclusive = {"row_id_column": "on_conflict", "on_conflict": "row_id_column"}
        if key in self.own:
            return self.own[key]
        return default if exclusive.get(key) in self.own else self.common.get(key, default)

    def path(self, key: str) -> str:
        """Return the name of the setting that has the value of an option, for messages."""
        if key in self.own and self.name:
            return f"{self.name}[{key!r}]"
        return "SUPABASE_TABLE" if key == "table" else COMMON.get(key, key)

    def _choice(self, key: str, kind: type[Mode] | type[EmptyText], default: Any) -> Any:
        value = self.get(key, default)
        try:
            return kind(value)
        except ValueError:
            return self.reader.wrong(self.path(key), value, f"one of {', '.join(kind)}", default)

    def _skips_none(self) -> bool:
        value = self.get("none", "store")
        if value not in ("store", "skip"):
            self.reader.wrong(self.path("none"), value, "one of store, skip", None)
        return bool(value == "skip")

    def _stamps(self) -> dict[str, str]:
        stamps = self.reader.text_map(self.path("stamps"), self.get("stamps", {}))
        for column, stamp in stamps.items():
            name = f"{self.path('stamps')}[{column!r}]"
            fields = hashed_fields(stamp)
            if fields is None and stamp not in STAMPS:
                self.reader.wrong(name, stamp, f"one of {', '.join(STAMPS)}, hash(field, …)", None)
            elif fields is not None and not all(fields):
                self.reader.wrong(name, stamp, "hash(field, …) with the names of one or more fields", None)
        return stamps

    def _constants(self, spider: str | None) -> dict[str, Any]:
        name, found = self.path("constants"), self.get("constants", {})
        if not isinstance(found, Mapping) or not all(isinstance(column, str) and column for column in found):
            return self.reader.wrong(name, found, "a dict that maps columns to values", {})
        for column, value in found.items():
            try:
                encode_row({column: value})
            except ItemError:
                allowed = "a value that can be stored: None, a text, a number, a list or a dict"
                self.reader.wrong(f"{name}[{column!r}]", value, allowed, None)
        return {column: value if spider is None else _named(value, spider) for column, value in found.items()}

    def _json_column(self) -> str:
        value = self.get("json_column")
        if value is None:
            return ""
        if not isinstance(value, str) or not value:
            return self.reader.wrong(self.path("json_column"), value, "the name of a jsonb column, or None", "")
        return value

    def _unseen(self, spec: TableSpec, spider: str | None) -> Unseen | None:
        found = read_unseen(self, spec)
        if found is None or spider is None:
            return found
        where, constants = _named(found.where, spider), _named(found.constants, spider)
        return msgspec.structs.replace(found, where=where, constants=constants)

    def _check_columns(self, spec: TableSpec) -> None:
        """Record columns that two options fill."""
        fills = {"columns": set(spec.columns.values()), "stamps": set(spec.stamps), "constants": set(spec.constants)}
        for column in sorted(fills["stamps"] & fills["constants"]):
            self._contradiction("constants", "stamps", column)
        for key, columns in fills.items():
            if spec.json_column in columns:
                self._contradiction("json_column", key, spec.json_column)
        if spec.json_column in spec.on_conflict:
            self._contradiction("json_column", "on_conflict", spec.json_column)

    def _contradiction(self, one: str, other: str, column: str) -> None:
        self.reader.problems.append(
            f"{self.path(one)} and {self.path(other)} both have column {column!r}: use different columns."
        )


def table_spec(
    name: str,
    mode: Mode,
    on_conflict: tuple[str, ...],
    columns: Mapping[str, str],
    stamps: Mapping[str, str],
    *,
    snapshots: bool,
    **more: Any,
) -> TableSpec:
    """Return the spec of a table. With `snapshots`, snapshot date and version are stamped and added to the key.

    `more` are other fields of the spec.
    """
    if snapshots:
        stamps = {**dict(zip(SNAPSHOT_STAMPS, SNAPSHOT_STAMPS, strict=True)), **stamps}
        if on_conflict:
            on_conflict = tuple(dict.fromkeys([*on_conflict, *SNAPSHOT_STAMPS]))
    return TableSpec(name, mode, on_conflict, columns, stamps, snapshots, **more)


def _named(value: Any, spider: str) -> Any:
    """Return a constant with the spider's name in place of `{spider}`, also inside lists and dicts."""
    if isinstance(value, str):
        return value.replace(SPIDER, spider)
    if isinstance(value, Mapping):
        return {name: _named(one, spider) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_named(one, spider) for one in value]
    return value
