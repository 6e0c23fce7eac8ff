"""What a database tells of the tables of a schema: one query, one JSON document."""

from __future__ import annotations

import msgspec

from scrapy_supabase.backends.base import View
from scrapy_supabase.view_columns import VIEW_COLUMNS


class CatalogTable(msgspec.Struct):
    """What the catalog tells of a table or view. A view over a table has that table's primary key, if it shows it."""

    types: dict[str, str]  # what JSON is cast to: numeric(10,2)
    formats: dict[str, str]  # as the REST API tells it: numeric
    primary_key: list[str]
    required: list[str]
    partial_indexes: dict[str, tuple[str, ...]]
    view: View | None
    made: dict[str, str]  # "generated" or "identity" (ALWAYS)
    deferrable: dict[str, tuple[str, ...]]  # unique constraint → columns


CATALOG_SQL = (
    f"WITH RECURSIVE {VIEW_COLUMNS}"
    """
SELECT coalesce(json_object_agg(c.relname, json_build_object(
  'types', coalesce((SELECT json_object_agg(a.attname, format_type(a.atttypid, a.atttypmod) ORDER BY a.attnum)
    FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '{}'),
  'formats', coalesce((SELECT json_object_agg(a.attname, format_type(a.atttypid, NULL) ORDER BY a.attnum)
    FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '{}'),
  'primary_key', CASE WHEN c.relkind IN ('v', 'm') THEN coalesce((
    SELECT json_agg(a.attname ORDER BY p.oid, k.place) FROM pg_constraint p
    CROSS JOIN unnest(p.conkey) WITH ORDINALITY k(attnum, place)
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = (SELECT min(s.view_column) FROM view_columns s
      WHERE s.view_id = c.oid AND s.table_id = p.conrelid AND s.table_column = k.attnum)
    WHERE p.contype = 'p' AND p.conkey <@ (SELECT array_agg(s.table_column::int2) FROM view_columns s
      WHERE s.view_id = c.oid AND s.table_id = p.conrelid)), '[]')
  ELSE coalesce((SELECT json_agg(a.attname ORDER BY k.place) FROM pg_constraint p
    CROSS JOIN unnest(p.conkey) WITH ORDINALITY k(attnum, place)
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
    WHERE p.conrelid = c.oid AND p.contype = 'p'), '[]') END,
  'required', coalesce((SELECT json_agg(a.attname) FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND (a.attnotnull OR t.typnotnull)
      AND NOT a.atthasdef AND a.attidentity = ''), '[]'),
  'partial_indexes', coalesce((SELECT json_object_agg(i.indexrelid::regclass::text, (
      SELECT json_agg(a.attname ORDER BY a.attnum) FROM pg_attribute a
      WHERE a.attrelid = c.oid AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1]::int2[])))
    FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indpred IS NOT NULL AND i.indexprs IS NULL), '{}'),
  'view', CASE WHEN c.relkind IN ('v', 'm') THEN json_build_object(
    'has_trigger', EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgtype & 68 = 68),
    'shows', CASE WHEN pg_relation_is_updatable(c.oid, false) & 8 = 8 THEN coalesce((
      SELECT json_object_agg(v.attname, json_build_array(tn.nspname, t.relname, a.attname)) FROM view_columns s
      JOIN pg_attribute v ON v.attrelid = c.oid AND v.attnum = s.view_column
      JOIN pg_class t ON t.oid = s.table_id AND t.relkind IN ('r', 'p') JOIN pg_namespace tn ON tn.oid = t.relnamespace
      JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = s.table_column
      WHERE s.view_id = c.oid), '{}') ELSE '{}' END) END,
  'made', coalesce((SELECT json_object_agg(a.attname, CASE a.attgenerated WHEN '' THEN 'identity' ELSE 'generated' END)
    FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
      AND (a.attgenerated <> '' OR a.attidentity = 'a')), '{}'),
  'deferrable', coalesce((SELECT json_object_agg(p.conname, (SELECT json_agg(a.attname ORDER BY k.place)
      FROM unnest(p.conkey) WITH ORDINALITY k(attnum, place)
      JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum))
    FROM pg_constraint p WHERE p.conrelid = c.oid AND p.contype IN ('p', 'u') AND p.condeferrable), '{}')
)), '{}')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'v', 'm', 'f', 'p') AND n.nspname = $1 AND NOT c.relispartition
"""
).encode()
