"""The ids of parents: natural keys in rows are looked up, parents that may be made are made, and ids are cached."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from scrapy_supabase.backends.bounded_cache import BoundedCache
from scrapy_supabase.delivery.attempts import Sender
from scrapy_supabase.delivery.parent_errors import no_parent, several_parents
from scrapy_supabase.delivery.parent_search import ParentSearch, Wanted
from scrapy_supabase.delivery.upload_state import ParentIds, Place, Slice, UploadState
from scrapy_supabase.errors import MissingReferenceError, ServerError
from scrapy_supabase.models import Reference, Row
from scrapy_supabase.rows.natural_keys import NaturalKey, natural_key_in
from scrapy_supabase.rows.values import text_of_json
from scrapy_supabase.schema.schema import Schema

MOST_IDS = 50_000  # of about 300 bytes

_decode_row = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class _Need(msgspec.Struct, frozen=True):
    """What one row has in place of the id of its parent."""

    place: Place
    key: NaturalKey

    def texts(self, reference: Reference) -> tuple[str | None, ...]:
        """Return the texts of the natural key's values; None for NULL."""
        values = _decode_row(self.key.match)
        return tuple(text_of_json(values[column]) if column in values else None for column in reference.match)


class ParentResolver:
    """Replaces natural keys in rows by ids. Thread-safe; shared by all upload threads.

    `most` is the number of ids to keep. When there are more, all are forgotten, and looked up again when needed.
    """

    def __init__(self, sender: Sender, schema: Schema, most: int = MOST_IDS) -> None:
        self._search = ParentSearch(sender, schema)
        self._schema = schema
        self._cache = BoundedCache[Place, bytes](most)

    def new_ids(self, table: str) -> ParentIds | None:
        """Return the ids for an upload of rows of a table: those of the cache; None if the table has no references."""
        return ParentIds(self._cache) if self._schema.writing(table).references else None

    def with_ids(self, rows: tuple[Row, ...], ids: ParentIds | None) -> tuple[Row, ...]:
        """Return the rows with ids. Other values are not encoded anew. Raises `NotCachedError` if an id is missing."""
        if ids is None:
            return rows
        columns = [(one.column, _name(one)) for one in self._schema.writing(rows[0].table).references]
        return tuple([_with_ids(row, columns, ids) for row in rows])

    def prepare(self, state: UploadState[Any], part: Slice) -> Slice | None:
        """Find the ids that a slice needs; return it without the rows that have no parent, or None if all have none.

        Those rows are rejected, or deferred if the run also stores parents. Blocks. Raises `ServerError`.
        """
        if state.ids is None:
            return part
        chunk, last = state.chunk, state.chunk.last_try
        lacking = self._resolve(state, state.ids, part.rows)
        if not lacking:
            return part
        rest = tuple(row for at, row in enumerate(part.rows) if at not in lacking)
        tables = {reference.table for reference, _ in lacking.values()}
        may_come = not last and not tables.isdisjoint(self._schema.stored)
        if may_come and chunk.is_ordered:
            state.defer(part.rows)
            return None
        rows = tuple(part.rows[at] for at in lacking)
        if rest and chunk.table in tables and not chunk.is_ordered:
            state.slices.append(Slice(rows))  # their parents may be among the rows that are stored now
        elif may_come:
            state.defer(rows)
        else:
            for at, (_, error) in lacking.items():
                state.refuse(part.rows[at], error)
        return msgspec.structs.replace(part, rows=rest) if rest else None

    def forget(self, state: UploadState[Any], error: MissingReferenceError) -> bool:
        """Forget the ids of an upload that the database refused. Return whether to try again: once, if any is old.

        A parent may have been deleted since its id was cached.
        """
        references = self._schema.writing(state.chunk.table).references
        tables = {one.table for one in references}
        if not state.ids or state.ids.renewed or (error.parent and error.parent not in tables):
            return False
        for place in state.ids:
            self._cache.pop(place, None)
        state.ids.clear()
        state.ids.renewed = True
        return True

    def _resolve(
        self, state: UploadState[Any], ids: ParentIds, rows: Sequence[Row]
    ) -> dict[int, tuple[Reference, ServerError]]:
        """Add the ids that `rows` need to `ids`. Return the rows, by position, that have no parent, and why."""
        lacking: dict[int, tuple[Reference, ServerError]] = {}
        decoded = [_decode_row(row.data) for row in rows]
        for reference in self._schema.writing(rows[0].table).references:
            name = _name(reference)
            needs = {at: need for at, values in enumerate(decoded) if (need := _need(values, reference.column, name))}
            found = self._search.find_or_make(state, _wanted(reference, needs.values(), ids))
            for key, one in found.ids.items():
                ids[name, key] = self._cache[name, key] = one
            for at, need in needs.items():
                if need.place not in ids:
                    texts = need.texts(reference)
                    if need.place[1] in found.ambiguous:
                        error = several_parents(reference, texts)
                    else:
                        error = no_parent(reference, texts, self._schema.role)
                    lacking.setdefault(at, (reference, error))
        return lacking


def _name(reference: Reference) -> str:
    return "\0".join((reference.table, reference.id, *reference.match))


def _with_ids(row: Row, columns: Iterable[tuple[str, str]], ids: ParentIds) -> Row:
    values = _decode_row(row.data)
    has_changed = False
    for column, name in columns:  # as `_need`, at two thirds of its cost
        value = values.get(column)
        if value is not None and (key := natural_key_in(value)) is not None:
            values[column] = msgspec.Raw(ids[name, bytes(key.match)])
            has_changed = True
    return msgspec.structs.replace(row, data=_encode(values)) if has_changed else row


def _need(values: Mapping[str, msgspec.Raw], column: str, name: str) -> _Need | None:
    """Return the natural key in a column of a row; None if the column has an id, or no value."""
    value = values.get(column)
    key = natural_key_in(value) if value is not None else None
    return _Need((name, bytes(key.match)), key) if key is not None else None


def _wanted(reference: Reference, needs: Iterable[_Need], ids: ParentIds) -> Wanted:
    """Return the parents whose ids are not known. A natural key with a NULL in it has none."""
    wanted = Wanted(reference, {}, {})
    for need in needs:
        key = need.place[1]
        if key in wanted.keys or ids.knows(need.place):
            continue
        texts = need.texts(reference)
        if (known := tuple(text for text in texts if text is not None)) and len(known) == len(texts):
            wanted.keys[key], wanted.columns[key] = known, need.key.columns
    return wanted
