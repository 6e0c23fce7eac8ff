"""What a database tells of the tables of a schema: one query, one JSON document."""

from __future__ import annotations

import msgspec


class CatalogTable(msgspec.Struct):
    """What the catalog tells of a table."""

    types: dict[str, str]  # what JSON is cast to: numeric(10,2)
    formats: dict[str, str]  # as the REST API tells it: numeric
    primary_key: list[str]
    required: list[str]


CATALOG_SQL = b"""
SELECT coalesce(json_object_agg(c.relname, json_build_object(
  'types', coalesce((SELECT json_object_agg(a.attname, format_type(a.atttypid, a.atttypmod) ORDER BY a.attnum)
    FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '{}'),
  'formats', coalesce((SELECT json_object_agg(a.attname, format_type(a.atttypid, NULL) ORDER BY a.attnum)
    FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '{}'),
  'primary_key', coalesce((SELECT json_agg(a.attname ORDER BY k.place) FROM pg_constraint p
    CROSS JOIN unnest(p.conkey) WITH ORDINALITY k(attnum, place)
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
    WHERE p.conrelid = c.oid AND p.contype = 'p'), '[]'),
  'required', coalesce((SELECT json_agg(a.attname) FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND (a.attnotnull OR t.typnotnull)
      AND NOT a.atthasdef AND a.attidentity = ''), '[]')
)), '{}')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'v', 'm', 'f', 'p') AND n.nspname = $1 AND NOT c.relispartition
"""
