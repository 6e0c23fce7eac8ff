"""The tables of a database schema, read from the catalog by one query as one JSON document."""

from __future__ import annotations

import msgspec

from scrapy_supabase.backends.base import TableInfo, View
from scrapy_supabase.backends.view_columns import VIEW_COLUMNS

KEEP_NEWEST = "scrapy_keep_newest"
"""The name of the trigger that `scrapy supabase ddl --newest` creates."""


class CatalogTable(msgspec.Struct):
    """A table or view in the catalog. A view that shows the primary key of its table has that key."""

    types: dict[str, str]  # the type that JSON is cast to: numeric(10,2)
    formats: dict[str, str]  # the type as the REST API writes it: numeric
    key_types: dict[str, str]  # see `base.TableInfo`
    defaults: dict[str, str]  # SQL expressions
    primary_key: list[str]
    required: list[str]
    partial_indexes: dict[str, tuple[str, ...]]
    view: View | None
    made: dict[str, str]  # "generated" or "identity" (ALWAYS)
    deferrable: dict[str, tuple[str, ...]]  # unique constraint → columns
    newest: str  # the column that the trigger KEEP_NEWEST compares, or empty

    @property
    def info(self) -> TableInfo:
        """The description of the table for the schema of a run."""
        return TableInfo(
            self.formats,
            tuple(self.primary_key),
            frozenset(self.required),
            partial_indexes=self.partial_indexes,
            made=self.made,
            deferrable=self.deferrable,
            key_types=self.key_types,
            newest=self.newest,
        )


# The columns of all views are gathered at once: a subquery for each of 300 views took minutes instead of a second.
CATALOG_SQL = (
    f"WITH RECURSIVE {VIEW_COLUMNS}"
    """, key_columns AS (
  SELECT s.view_id, p.oid AS key_id, k.place, min(s.view_column) AS view_column, cardinality(p.conkey) AS size
  FROM pg_constraint p CROSS JOIN unnest(p.conkey) WITH ORDINALITY k(attnum, place)
  JOIN view_columns s ON s.table_id = p.conrelid AND s.table_column = k.attnum
  WHERE p.contype = 'p' GROUP BY s.view_id, p.oid, k.place
), view_keys AS MATERIALIZED (
  SELECT k.view_id, json_agg(a.attname ORDER BY k.key_id, k.place) AS names
  FROM (SELECT *, count(*) OVER (PARTITION BY view_id, key_id) AS shown FROM key_columns) k
  JOIN pg_attribute a ON a.attrelid = k.view_id AND a.attnum = k.view_column
  WHERE k.shown = k.size GROUP BY k.view_id
), view_shows AS MATERIALIZED (
  SELECT s.view_id, json_object_agg(v.attname, json_build_array(n.nspname, t.relname, a.attname)) AS columns
  FROM view_columns s JOIN pg_attribute v ON v.attrelid = s.view_id AND v.attnum = s.view_column
  JOIN pg_class t ON t.oid = s.table_id AND t.relkind IN ('r', 'p') JOIN pg_namespace n ON n.oid = t.relnamespace
  JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = s.table_column
  GROUP BY s.view_id
), domains AS (
  SELECT oid AS domain_id, typbasetype AS type_id FROM pg_type WHERE typtype = 'd'
  UNION ALL SELECT d.domain_id, t.typbasetype FROM domains d JOIN pg_type t ON t.oid = d.type_id WHERE t.typtype = 'd'
), bases AS MATERIALIZED (
  SELECT d.domain_id, d.type_id FROM domains d JOIN pg_type t ON t.oid = d.type_id WHERE t.typtype <> 'd'
), loose AS MATERIALIZED (
  SELECT oid FROM pg_collation WHERE NOT collisdeterministic
)
SELECT coalesce(json_object_agg(c.relname, json_build_object(
  'types', coalesce((SELECT json_object_agg(a.attname, format_type(a.atttypid, a.atttypmod) ORDER BY a.attnum)
    FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '{}'),
  'formats', coalesce((SELECT json_object_agg(a.attname, format_type(a.atttypid, NULL) ORDER BY a.attnum)
    FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '{}'),
  'key_types', coalesce((SELECT json_object_agg(a.attname, CASE
      WHEN a.attcollation IN (SELECT oid FROM loose) OR EXISTS (SELECT FROM loose l, pg_index i,
        unnest(i.indkey, i.indcollation) k(attnum, rule)
        WHERE i.indrelid = c.oid AND i.indisunique AND k.attnum = a.attnum AND k.rule = l.oid) THEN ''
      WHEN t.typtype = 'e' THEN 'enum'
      WHEN t.typname = 'citext' AND lower('I' COLLATE "default") <> 'i' THEN ''
      ELSE format_type(t.oid, NULL) END)
    FROM pg_attribute a LEFT JOIN bases b ON b.domain_id = a.atttypid
    JOIN pg_type t ON t.oid = coalesce(b.type_id, a.atttypid)
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '{}'),
  'defaults', coalesce((SELECT json_object_agg(a.attname, coalesce(pg_get_expr(d.adbin, d.adrelid),
      format('nextval(%L)', pg_get_serial_sequence(a.attrelid::regclass::text, a.attname))))
    FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
      AND (a.atthasdef OR a.attidentity <> '')), '{}'),
  'primary_key', CASE WHEN c.relkind IN ('v', 'm')
  THEN coalesce((SELECT names FROM view_keys k WHERE k.view_id = c.oid), '[]')
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
    'shows', coalesce((SELECT columns FROM view_shows s WHERE s.view_id = c.oid
      AND pg_relation_is_updatable(c.oid, false) & 8 = 8), '{}')) END,
  'made', coalesce((SELECT json_object_agg(a.attname, CASE a.attgenerated WHEN '' THEN 'identity' ELSE 'generated' END)
    FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
      AND (a.attgenerated <> '' OR a.attidentity = 'a')), '{}'),
  'deferrable', coalesce((SELECT json_object_agg(p.conname, (SELECT json_agg(a.attname ORDER BY k.place)
      FROM unnest(p.conkey) WITH ORDINALITY k(attnum, place)
      JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum))
    FROM pg_constraint p WHERE p.conrelid = c.oid AND p.contype IN ('p', 'u') AND p.condeferrable), '{}'),
  'newest', coalesce((SELECT min(a.attname) FROM pg_trigger t
    JOIN pg_depend d ON d.classid = 'pg_trigger'::regclass AND d.objid = t.oid
      AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid AND a.attnum > 0
    WHERE t.tgrelid = c.oid AND t.tgname = '"""
    f"{KEEP_NEWEST}"
    """' AND t.tgenabled IN ('O', 'A')), '')
)), '{}')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'v', 'm', 'f', 'p') AND n.nspname = $1 AND NOT c.relispartition
"""
).encode()
