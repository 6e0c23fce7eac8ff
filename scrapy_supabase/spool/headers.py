"""The headers of a run's chunk files."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from scrapy_supabase.backends.bounded_cache import BoundedCache
from scrapy_supabase.models import Row
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.spool.chunk_file import FORMAT, FORMAT_MIXED, Header, now


class Headers:
    """Makes headers, each encoded once per table, columns and key. `facts` (run, spider, project) go into every one."""

    def __init__(self, schema: Schema, facts: Mapping[str, str]) -> None:
        self._schema = schema
        self._facts = facts
        self._made = BoundedCache[tuple[str, tuple[str, ...], tuple[str, ...]], list[bytes]]()

    def starting_with(self, row: Row) -> bytes:
        """Return the header of a chunk's file whose first row is `row`."""
        table, columns, key = row.table, row.columns, self._schema.key(row.table)
        header = self._made.get((table, columns, key))
        if header is None:
            spec = self._schema.specs[table]
            form = FORMAT if columns else FORMAT_MIXED
            told = {"mode": spec.mode, "on_conflict": spec.on_conflict, "key": key}
            made = msgspec.convert(
                {"format": form, "table": table, "columns": columns, "opened": "", **told, **self._facts}, Header
            )
            header = self._made[table, columns, key] = msgspec.json.encode(made).split(b'"opened":"', 1)
        return b'"opened":"'.join((header[0], now().encode() + header[1]))
