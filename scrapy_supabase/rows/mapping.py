"""Fields of an item → columns of its table: names and paths, NULLs, the whole item, constants, stamps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import date
from decimal import Decimal
from typing import Any

import msgspec

from scrapy_supabase.backends.bounded_cache import BoundedCache
from scrapy_supabase.errors import ItemError
from scrapy_supabase.rows.hashing import hash_of
from scrapy_supabase.rows.natural_keys import natural_key_of
from scrapy_supabase.rows.stamps import Stamp, hashed_fields
from scrapy_supabase.rows.values import encode_row, is_null
from scrapy_supabase.schema.column_types import is_text
from scrapy_supabase.schema.paths import MISSING, columns_by_field, root_of, value_at
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.schema.table_spec import EmptyText, ParentFields, TableSpec

logger = logging.getLogger(__name__)

_MOST_NATURAL_KEYS = 20_000  # encoded ones to keep, of about 200 bytes


class Mapper:
    """Converts the fields of items to the columns of one table, as the options of the table say.

    `stamps` maps the name of a stamp to the function that returns its value. `on_cleaned(table)` is called if
    characters that cannot be stored were removed from the whole item in `json_column`.
    """

    def __init__(
        self, spec: TableSpec, schema: Schema, stamps: Mapping[str, Stamp], on_cleaned: Callable[[str], None]
    ) -> None:
        self._spec = spec
        self._schema = schema
        self._on_cleaned = on_cleaned
        hashes = {column: hashed_fields(stamp) for column, stamp in spec.stamps.items()}
        self._hashes = {column: names for column, names in hashes.items() if names is not None}
        self._stamps = [(column, stamps[name]) for column, name in spec.stamps.items() if column not in self._hashes]
        self._named: Callable[[Mapping[str, Any]], dict[str, Any]] = self._renamed if spec.columns else dict
        if spec.children:
            self._named = self._without_children
        if any("." in name for name in spec.columns):
            self._named = self._at_paths
        self._seen_column = spec.unseen.seen_column if spec.unseen else ""
        self._changes_nothing = spec.empty_text is EmptyText.KEEP and not spec.skip_none
        self._natural_keys = BoundedCache[tuple[str, str], msgspec.Raw](_MOST_NATURAL_KEYS)
        self._version = -1
        self._key: frozenset[str] = frozenset()
        self._not_text: frozenset[str] = frozenset()
        self._warned: set[str] = set()
        self._checked: set[str] = set()  # columns of `references`; their first item is searched for the fields

    def columns_of(
        self, fields: Mapping[str, Any], item: Any, inherited: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return column → value. `fields` are those of `item`. Raises `ItemError`.

        `inherited` are the columns of a child that come from its parent.
        """
        spec = self._spec
        mapped = self._named(fields)
        if inherited is not None:
            self._add_inherited(mapped, inherited)
        if not self._changes_nothing:
            mapped = self._with_nulls(mapped)
        if spec.json_column:
            data, cleaned = encode_row(fields)
            mapped[spec.json_column] = msgspec.Raw(data)
            if cleaned:
                self._on_cleaned(spec.name)
        if spec.references:
            self._add_natural_keys(mapped, fields)
        for column, value in spec.constants.items():  # neither constant nor stamp ever replaces a scraped value
            mapped.setdefault(column, value)
        for column, stamp in self._stamps:
            if column not in mapped:
                found = stamp(item, spec.name)
                if found is not None or not spec.skip_none:
                    mapped[column] = found
            elif column == self._seen_column:
                self._schema.unstamped.add(spec.name)
        if self._hashes:
            self._add_hashes(mapped, fields if inherited is None else {**inherited, **fields})
        return mapped

    def _renamed(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        names = self._spec.columns
        mapped = {names.get(name, name): value for name, value in fields.items()}
        if len(mapped) != len(fields):
            raise self._same_column([names.get(name, name) for name in fields])
        return mapped

    def _without_children(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        columns = columns_by_field(self._spec, fields)
        mapped = {column: fields[name] for name, column in columns.items()}
        if len(mapped) != len(columns):
            raise self._same_column(list(columns.values()))
        return mapped

    def _add_inherited(self, mapped: dict[str, Any], inherited: Mapping[str, Any]) -> None:
        for column, value in inherited.items():
            if column in mapped and mapped[column] is not value and not _is_same(mapped[column], value):
                message = f"a field of the item and the option parent or position both fill column {column!r} of table"
                raise ItemError("same_column", f"{message} {self._spec.name}, with different values", column)
            mapped[column] = value

    def _at_paths(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        columns = columns_by_field(self._spec, fields)
        found = {name: value_at(fields, name) for name in columns}
        for path, value in found.items():
            if value is MISSING and not _may_hold(fields[root_of(path)], path):
                self._warn_of_path(path, fields[root_of(path)])
        mapped = {column: found[name] for name, column in columns.items() if found[name] is not MISSING}
        sent = [column for name, column in columns.items() if found[name] is not MISSING]
        if len(mapped) != len(sent):
            raise self._same_column(sent)
        return mapped

    def _same_column(self, columns: list[str]) -> ItemError:
        twice = next(column for column in columns if columns.count(column) > 1)
        message = f"two fields of the item go to column {twice!r} of table {self._spec.name}"
        return ItemError("same_column", message, twice)

    def _with_nulls(self, mapped: Mapping[str, Any]) -> dict[str, Any]:
        """Return the columns with None for blank texts, or without columns that are None, as the options say.

        Key columns stay as they are: a row without a key would be stored anew by every crawl.
        """
        if self._version != self._schema.version:
            self._learn()
        everywhere, skip = self._spec.empty_text is EmptyText.NULL_EVERYWHERE, self._spec.skip_none
        kept: dict[str, Any] = {}
        for column, value in mapped.items():
            if column not in self._key:
                if isinstance(value, str) and (everywhere or column in self._not_text) and not value.strip():
                    value = None
                if skip and is_null(value):
                    continue
            kept[column] = value
        return kept

    def _learn(self) -> None:
        """Read the key and the types of the columns from the schema."""
        schema, table = self._schema, self._spec.name
        self._version = schema.version
        self._key = frozenset(schema.key(table))
        info = schema.info(table)
        if info is not None and self._spec.empty_text is EmptyText.NULL:
            bases = info.key_types  # the type that a domain is based on
            types = {column: bases.get(column) or kind for column, kind in info.columns.items()}
            self._not_text = frozenset(column for column, kind in types.items() if kind and not is_text(kind))

    def _add_natural_keys(self, mapped: dict[str, Any], fields: Mapping[str, Any]) -> None:
        """Add the natural keys of parents in place of their ids. An id that the item has is kept."""
        blank_is_null = self._spec.empty_text is EmptyText.NULL_EVERYWHERE
        for column, parent in self._spec.references.items():
            if mapped.get(column) is not None:
                continue
            text = fields.get(next(iter(parent.match.values()))) if parent.has_one_field else None
            if type(text) is str and (known := self._natural_keys.get((column, text))) is not None:
                mapped[column] = known
                continue
            try:
                key, cleaned = natural_key_of(fields, parent, blank_is_null=blank_is_null)
            except ItemError as error:
                error.row = mapped
                raise
            if key is not None:
                mapped[column] = key
                if cleaned:
                    self._on_cleaned(self._spec.name)
                elif type(text) is str:
                    self._natural_keys[column, text] = key
            elif any(root_of(path) in fields for path in parent.match.values()):
                if not self._spec.skip_none:
                    mapped[column] = None
            elif column not in mapped and column not in self._checked:
                self._warn_of_no_fields(column, parent)
            self._checked.add(column)

    def _add_hashes(self, mapped: dict[str, Any], fields: Mapping[str, Any]) -> None:
        for column, names in self._hashes.items():
            if column not in mapped:
                digest = self._hash(names, fields)
                if digest is None:
                    message = f"column {column!r} is the hash of fields that the item lacks: {', '.join(names)}"
                    raise ItemError("nothing_to_hash", message, column, row=mapped)
                mapped[column] = digest

    def _hash(self, names: tuple[str, ...], fields: Mapping[str, Any]) -> str | None:
        found = [value_at(fields, name) for name in names]
        try:
            return hash_of([None if value is MISSING else value for value in found])
        except ItemError:
            encode_row(fields)  # raises an `ItemError` that names the field
            raise

    def _warn_of_no_fields(self, column: str, parent: ParentFields) -> None:
        logger.warning(
            "Table %s: column %r gets no id, since an item has no field %s. If the name is misspelt, correct "
            "references[%r]['match'] in SUPABASE_TABLES. An item without a parent may lack the field.",
            self._spec.name,
            column,
            " or ".join(map(repr, parent.match.values())),
            column,
        )

    def _warn_of_path(self, path: str, value: Any) -> None:
        if path not in self._warned:
            self._warned.add(path)
            logger.warning(
                "Table %s: column %r gets no value from the path %r, since the value of field %r is of type %s. The "
                "field itself is not sent. To send it, map it, too, in SUPABASE_TABLES (columns).",
                self._spec.name,
                self._spec.columns[path],
                path,
                root_of(path),
                type(value).__name__,
            )


def item_to_dict() -> Callable[[Any], dict[str, Any]]:
    """Return a function that converts an item of another class than dict to a dict."""
    from itemadapter import ItemAdapter  # imports pydantic, which takes 0.1 s; a crawl of dicts does not need it

    return lambda item: dict(ItemAdapter(item))


def with_unknown(value: Any, unknown: Mapping[str, Any], column: str) -> dict[str, Any]:
    """Return the object to store in the column for unknown fields. `value` is what the row has there itself.

    If that is no object, it gets the name of the column in the new one.
    """
    own = {} if value is None else value if isinstance(value, dict) else {column: value}
    return {**own, **unknown}


def _is_same(value: Any, other: Any) -> bool:
    """Return whether two values are stored as the same."""
    try:
        return encode_row({"": value}) == encode_row({"": other})
    except ItemError:
        return False


def _may_hold(value: Any, path: str) -> bool:
    """Return whether the value of a path's field is missing, or of a kind into which the path leads."""
    if isinstance(value, (list, tuple)):
        return path.split(".")[1].isdecimal()
    return not isinstance(value, (str, bytes, int, float, Decimal, date, set, frozenset))
