"""The headers of a run's chunk files."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from scrapy_supabase.models import Mode, Row, WriteOptions
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.spool.chunk_file import FORMAT, FORMAT_MIXED, FORMAT_OPTIONS, Header, now


class Headers:
    """A factory of headers. `facts` (run, spider, project) go into each."""

    def __init__(self, schema: Schema, facts: Mapping[str, str]) -> None:
        self._schema = schema
        self._facts = facts

    def starting_with(self, row: Row) -> bytes:
        """Return the header of a chunk's file whose first row is `row`."""
        spec = self._schema.specs[row.table]
        has_options = spec.mode is Mode.UPDATE or spec.writing != WriteOptions()
        header = Header(
            format=FORMAT_OPTIONS if has_options else FORMAT if row.columns else FORMAT_MIXED,
            table=row.table,
            columns=row.columns,
            mode=spec.mode,
            on_conflict=spec.on_conflict,
            key=self._schema.key(row.table),
            opened=now(),
            writing=spec.writing if has_options else msgspec.UNSET,
            **self._facts,
        )
        return msgspec.json.encode(header)
