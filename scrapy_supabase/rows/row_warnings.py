"""Warnings about items whose rows are not what one expects: fields without a column, rows without a key."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from scrapy_supabase.models import Mode
from scrapy_supabase.rows.values import is_json_text
from scrapy_supabase.schema.remedies import GENERATED_COLUMN, unknown_columns
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.schema.table_spec import TableSpec

logger = logging.getLogger(__name__)


class RowWarnings:
    """Logs each warning once: per table and column, class of items, or key."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._warned: set[object] = set()

    def no_table(self, kind: type, path: str) -> None:
        """Warn of items of a class without a table."""
        if kind not in self._warned:
            self._warned.add(kind)
            logger.warning(
                "Items of class %s have no table: they are rejected. Add %r (or '*') to SUPABASE_TABLES, or set "
                "SUPABASE_TABLE.",
                path,
                path,
            )

    def unknown(self, table: str, unknown: Mapping[str, Any]) -> None:
        """Warn of fields without a column."""
        new = self._schema.first_mention(table, unknown)
        if new:
            from scrapy_supabase.schema.item_fields import type_for  # few crawls need it

            types = {name: type_for(unknown[name]) for name in new}
            logger.warning("%s", unknown_columns(self._schema, table, types))

    def generated(self, table: str, names: Sequence[str]) -> None:
        """Warn of fields whose columns the database generates."""
        for column in self._schema.first_mention(table, self._schema.generated_columns(table).keys() & names):
            logger.warning(GENERATED_COLUMN, table, column)

    def json_texts(self, table: str, columns: tuple[str, ...], values: Mapping[str, Any]) -> None:
        """Warn of texts that contain JSON. Rows of the fast path are not checked, but the first of each chunk is."""
        for column in columns:
            value = values[column]
            if type(value) is str and (table, column) not in self._warned and is_json_text(value):
                self._warned.add((table, column))
                logger.warning(
                    "Table %s: JSON column %r gets a text that contains JSON. It is stored as a JSON string, not as an "
                    "object or array. To store the object or array, put json.loads(text) into the item.",
                    table,
                    column,
                )

    def missing_key(self, spec: TableSpec, key: tuple[str, ...]) -> None:
        """Warn of rows that have no value for their table's key."""
        if spec.mode is Mode.INSERT or (spec.name, key) in self._warned or self._schema.generates_key(spec.name):
            return
        self._warned.add((spec.name, key))
        logger.warning(
            "Items for table %s have no value for its key (%s): every row is inserted, and a row sent twice is stored "
            "twice, or rejected if the key has no default. To prevent that, set SUPABASE_ON_CONFLICT to columns that "
            'the items have, with a unique index on them. To accept it, set SUPABASE_MODE = "insert".',
            spec.name,
            ", ".join(key),
        )
