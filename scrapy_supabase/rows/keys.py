"""Keys of rows: which rows have, or may have, the same key in the database.

A key is a text if the database surely compares it as that text. Otherwise it is an `UncertainKey`, and rows whose keys
may be equal keep their order of arrival.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scrapy_supabase.models import ANY, Key, Mode, Reference, UncertainKey
from scrapy_supabase.rows.values import text_of
from scrapy_supabase.schema.key_types import TEXT, key_type

if TYPE_CHECKING:
    from scrapy_supabase.schema.schema import Schema

_joined: Callable[[Iterable[str]], str] = "\0".join


class KeyForm:
    """Computes the keys of a table's rows from their values, for one conflict target.

    `types` maps columns to PostgreSQL types; without it, keys are compared as texts.
    `plain_ints`: the key has one column, and the key of an int is its text.
    `is_text`: the database compares all columns as texts.
    """

    def __init__(self, columns: Sequence[str], types: Mapping[str, str] | None = None) -> None:
        self.columns = tuple(columns)
        self._types = [TEXT if types is None else key_type(types.get(column, "")) for column in columns]
        self._only = self.columns[0] if len(self.columns) == 1 else None
        self.is_text = all(one is TEXT for one in self._types)
        self.plain_ints = self._only is not None and self._types[0].plain_ints

    def of(self, values: Mapping[str, Any]) -> Key | None:
        """Return the key of a row; None if it has no key, or if a key value is NULL, which equals nothing."""
        if self._only is not None:
            value = values[self._only]
            if type(value) is int and self.plain_ints:
                return str(value)
            text = text_of(value)
            if text is None or self.is_text:
                return text
            kind = self._types[0]
            canonical = kind.canonical(text) if kind.is_exact else None
            return canonical if canonical is not None else self._compared([text])
        if not self.columns:
            return None
        texts: list[str] = []
        for column in self.columns:
            text = text_of(values[column])
            if text is None:
                return None
            texts.append(text)
        return _joined(texts) if self.is_text else self._compared(texts)

    def line_types(self, values: Mapping[str, Any]) -> tuple[type, ...] | None:
        """Return the types to decode key values of JSON with, if those of similar rows are like `values`, else None."""
        kinds = tuple([type(values[column]) for column in self.columns])
        ok = all(kind is str or (kind is int and one.plain_ints) for kind, one in zip(kinds, self._types, strict=True))
        return kinds if ok else None

    def of_texts(self, texts: Sequence[str | None]) -> Key | None:
        """Return the key of a row whose key values have these texts; None if one is NULL."""
        known = [text for text in texts if text is not None]
        if not texts or len(known) != len(texts):
            return None
        return self._compared(known)

    def _compared(self, texts: list[str]) -> Key:
        groups: list[str] = []
        same: list[str] = []
        is_known = True
        for kind, text in zip(self._types, texts, strict=True):
            canonical = kind.canonical(text)
            is_known = is_known and (canonical is not None or not kind.is_exact)
            groups.append(canonical if kind.is_exact and canonical is not None else ANY)
            same.append(ANY + text if canonical is None else canonical)
        if ANY not in groups:
            return _joined(same)
        return UncertainKey(_joined(groups) if is_known else ANY, tuple(same))


NO_KEY = KeyForm(())


def key_form(
    schema: Schema, table: str, columns: tuple[str, ...], mode: Mode, references: Iterable[Reference] = ()
) -> KeyForm:
    """Return the `KeyForm` for these columns. With plain inserts, rows have no versions: keys are texts.

    Ids of parents are not known yet, and two natural keys may be of the same parent: as a type they have none.
    """
    if mode is Mode.INSERT:
        return KeyForm(columns)
    types = schema.key_types(table)
    if unknown := {one.column for one in references}.intersection(columns):
        types = {column: kind for column, kind in types.items() if column not in unknown}
    return KeyForm(columns, types)
