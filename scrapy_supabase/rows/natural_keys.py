"""The natural key of a parent in place of its id, in a row that has not been sent: from the item, and in the JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from scrapy_supabase.errors import ItemError
from scrapy_supabase.rows.values import encode_row, is_null
from scrapy_supabase.schema.paths import MISSING, value_at
from scrapy_supabase.schema.table_spec import ParentFields

_START = b'{"match":'


class NaturalKey(msgspec.Struct, frozen=True):
    """What a row has in place of the id of its parent: the parent's natural key, and columns for a new parent."""

    match: msgspec.Raw
    columns: msgspec.Raw = msgspec.Raw(b"{}")


_decode = msgspec.json.Decoder(NaturalKey).decode


def natural_key_in(value: msgspec.Raw) -> NaturalKey | None:
    """Return the natural key in a column of a row; None if the column has another value, such as an id."""
    data = bytes(value)
    if not data.startswith(_START):
        return None
    try:
        return _decode(data)
    except msgspec.MsgspecError:
        return None


def natural_key_of(
    fields: Mapping[str, Any], parent: ParentFields, *, blank_is_null: bool = False
) -> tuple[msgspec.Raw | None, bool]:
    """Return the natural key that an item with `fields` has for its parent, encoded, and whether text was cleaned.

    The key is None if all of its values are None or missing. Raises `ItemError` for a value that identifies nothing.
    """
    match: dict[str, Any] = {}
    has_value = False
    for column, path in parent.match.items():
        value = value_at(fields, path)
        if value is MISSING or is_null(value) or (blank_is_null and isinstance(value, str) and not value.strip()):
            match[column] = None
            continue
        if isinstance(value, (dict, list, tuple, set, frozenset)):
            problem = f"field {path!r} of type {type(value).__name__} does not identify a row of another table."
            raise ItemError("no_parent", f"{problem} It must be a text or a number.", path)
        match[column] = value
        has_value = True
    if not has_value:
        return None, False
    data, cleaned = _encoded(match, parent.match)
    if not parent.columns:
        return msgspec.Raw(b"%b%b}" % (_START, data)), cleaned
    found = {column: value_at(fields, path) for column, path in parent.columns.items()}
    more = {column: value for column, value in found.items() if value is not MISSING and not is_null(value)}
    columns, also_cleaned = _encoded(more, parent.columns)
    return msgspec.Raw(b'%b%b,"columns":%b}' % (_START, data, columns)), cleaned or also_cleaned


def _encoded(values: Mapping[str, Any], fields: Mapping[str, str]) -> tuple[bytes, bool]:
    """Encode values by column. Raises an `ItemError` that names the field of the item."""
    try:
        return encode_row(values)
    except ItemError:
        encode_row({fields[column]: value for column, value in values.items()})
        raise
