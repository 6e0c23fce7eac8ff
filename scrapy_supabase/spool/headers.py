"""The headers of a run's chunk files."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from scrapy_supabase.models import Row
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.spool.chunk_file import new_header, now


class Headers:
    """A factory of headers. `facts` (run, spider, project) go into each."""

    def __init__(self, schema: Schema, facts: Mapping[str, str]) -> None:
        self._schema = schema
        self._facts = facts

    def starting_with(self, row: Row) -> bytes:
        """Return the header of a chunk's file whose first row is `row`."""
        spec = self._schema.specs[row.table]
        header = new_header(
            row.table,
            row.columns,
            spec.mode,
            spec.writing,
            on_conflict=spec.on_conflict,
            key=self._schema.key(row.table),
            opened=now(),
            **self._facts,
        )
        return msgspec.json.encode(header)
