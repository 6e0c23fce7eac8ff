"""The search for parents by their natural keys, and the making of those that are not there."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from scrapy_supabase.backends.base import Select, Write
from scrapy_supabase.backends.filters import in_groups, matches
from scrapy_supabase.delivery.attempts import Sender
from scrapy_supabase.delivery.parent_errors import fatal_for
from scrapy_supabase.delivery.upload_state import UploadState
from scrapy_supabase.errors import (
    BadRowsError,
    FatalError,
    SchemaDriftError,
    ServerError,
    UpsertRefusedError,
    retyped,
)
from scrapy_supabase.models import Key, Mode, Reference
from scrapy_supabase.rows.keys import KeyForm
from scrapy_supabase.rows.values import text_of_json
from scrapy_supabase.schema.schema import Schema

_MOST_ROWS = 1000  # in an answer; servers return at most 1,000 rows unless their settings differ
_OF_THE_TABLE = (SchemaDriftError, UpsertRefusedError, FatalError)

_decode_row = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_rows = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode
Texts = tuple[str, ...]


class Wanted(msgspec.Struct, frozen=True):
    """The parents to find for one reference: encoded natural key → texts of its values, columns for a new parent."""

    reference: Reference
    keys: dict[bytes, Texts]
    columns: dict[bytes, msgspec.Raw]


class Found(msgspec.Struct):
    """What a search found: ids by natural key, and keys that several parents have. Other keys have no parent."""

    ids: dict[bytes, bytes] = msgspec.field(default_factory=dict)
    ambiguous: set[bytes] = msgspec.field(default_factory=set)

    @property
    def number(self) -> int:
        """The number of keys with at least one parent."""
        return len(self.ids) + len(self.ambiguous)

    def without(self, keys: Mapping[bytes, Texts]) -> dict[bytes, Texts]:
        """Return the keys that have no parent."""
        return {key: texts for key, texts in keys.items() if key not in self.ids and key not in self.ambiguous}


class ParentSearch:
    """Finds and makes parents. Thread-safe; shared by all upload threads."""

    def __init__(self, sender: Sender, schema: Schema) -> None:
        self._sender = sender
        self._schema = schema

    def find_or_make(self, state: UploadState[Any], wanted: Wanted) -> Found:
        """Return the ids of parents. Those that are not there are made if the reference allows it."""
        if not wanted.keys:
            return Found()
        found = self._find(state, wanted.reference, wanted.keys)
        rest = found.without(wanted.keys)
        if rest and wanted.reference.create:
            found.ids |= self._make(state, msgspec.structs.replace(wanted, keys=rest)).ids
            rest = found.without(rest)
        # Another crawl may have made these meanwhile, the database may have changed the values, or the server may
        # return fewer rows than were asked for (`db-max-rows`).
        while rest and (wanted.reference.create or found.number):
            others = self._find(state, wanted.reference, rest)
            if not others.number:
                break
            found.ids |= others.ids
            found.ambiguous |= others.ambiguous
            rest = found.without(rest)
        return found

    def _find(self, state: UploadState[Any], reference: Reference, keys: Mapping[bytes, Texts]) -> Found:
        """Look up parents. A key that may equal another one only for the database is looked up alone."""
        rows = self._select(state, reference, list(keys.values()))
        found, unsure = self._matched(reference, keys, rows)
        if not unsure:
            return found
        if len(keys) == 1:  # each row that was found has this key
            (key,) = keys
            return _one_of(key, {bytes(row[reference.id]) for row in rows})
        for key in unsure:
            alone = self._find(state, reference, {key: keys[key]})
            found.ids |= alone.ids
            found.ambiguous |= alone.ambiguous
        return found

    def _matched(
        self, reference: Reference, keys: Mapping[bytes, Texts], rows: Sequence[Mapping[str, msgspec.Raw]]
    ) -> tuple[Found, list[bytes]]:
        """Return what `rows` show about `keys`, and the keys of which they do not show whether they have a parent."""
        form = KeyForm(reference.match, self._schema.key_types(reference.table))
        stored: dict[Key | None, set[bytes]] = {}
        for row in rows:
            has = form.of_texts([text_of_json(row[column]) for column in reference.match])
            stored.setdefault(has, set()).add(bytes(row[reference.id]))
        found = Found()
        compared = {key: form.of_texts(texts) for key, texts in keys.items()}
        for key, value in compared.items():
            if value in stored:
                one = _one_of(key, stored[value])
                found.ids |= one.ids
                found.ambiguous |= one.ambiguous
        absent = found.without(keys)
        if not rows or not absent:
            return found, []
        if not stored.keys() <= set(compared.values()):
            return found, list(absent)
        similar = {_similar(texts) for key, texts in keys.items() if key not in absent}
        return found, [key for key in absent if type(compared[key]) is not str or _similar(keys[key]) in similar]

    def _select(
        self, state: UploadState[Any], reference: Reference, keys: Sequence[Texts]
    ) -> list[dict[str, msgspec.Raw]]:
        rows: list[dict[str, msgspec.Raw]] = []
        for some in in_groups(reference.match, keys):
            select = Select(
                reference.table, returned_columns(reference), (matches(reference.match, some),), limit=_MOST_ROWS
            )
            try:
                answer = _decode_rows(self._sender.select(state, select))
            except _OF_THE_TABLE as error:
                raise self._judged(state, reference, error, self._refusal(state, reference)) from error
            if len(answer) >= _MOST_ROWS and len(some) > 1:
                answer = [row for key in some for row in self._select(state, reference, [key])]
            rows += answer
        return [row for row in rows if bytes(row[reference.id]) != b"null"]

    def _make(self, state: UploadState[Any], wanted: Wanted) -> Found:
        """Make parents; return the ids of those that are surely new. A parent that is there stays as it is."""
        reference = wanted.reference
        rows: list[dict[str, Any]] = []
        # In order: two crawls that make the same parents must not wait for each other.
        for key, texts in sorted(wanted.keys.items(), key=lambda pair: pair[1]):
            rows.append({**_decode_row(wanted.columns[key]), **dict(zip(reference.match, texts, strict=True))})
        columns = tuple(sorted({column for row in rows for column in row}))
        write = Write(reference.table, columns, msgspec.json.encode(rows), Mode.IGNORE, reference.match)
        try:
            answer = self._sender.insert_new(state, (), write, returned_columns(reference), once=False)
        except _OF_THE_TABLE as error:
            refusal = self._sender.refusal_without_rows(state, write)
            raise self._judged(state, reference, error, refusal) from error
        found, _ = self._matched(reference, wanted.keys, _decode_rows(answer))
        return found

    def _refusal(self, state: UploadState[Any], reference: Reference) -> ServerError | None:
        try:
            self._sender.select(state, probe_of(reference))
        except ServerError as error:
            return error
        return None

    def _judged(
        self, state: UploadState[Any], reference: Reference, error: ServerError, refusal: ServerError | None
    ) -> ServerError:
        """Return the error to raise for a refusal; `refusal` is that of the same request without rows."""
        if refusal is None or isinstance(refusal, BadRowsError):
            return retyped(BadRowsError, error)
        return fatal_for(self._schema, state.chunk.table, reference, refusal)


def returned_columns(reference: Reference) -> tuple[str, ...]:
    """Return the parent's columns that a look-up returns."""
    return tuple(dict.fromkeys((reference.id, *reference.match)))


def probe_of(reference: Reference) -> Select:
    """Return a request that finds no row and asks for the same rights as a look-up."""
    return Select(reference.table, returned_columns(reference), limit=0)


def _one_of(key: bytes, ids: set[bytes]) -> Found:
    """Return the only id of a parent, or that there are several."""
    return Found({key: next(iter(ids))}) if len(ids) == 1 else Found(ambiguous={key})


def _similar(texts: Texts) -> str:
    """Return the same text for natural keys that a collation may take for equal: letters without case and accents."""
    plain = unicodedata.normalize("NFKD", "\0".join(texts)).casefold()
    return "".join(letter for letter in plain if letter.isalnum() or letter == "\0")
