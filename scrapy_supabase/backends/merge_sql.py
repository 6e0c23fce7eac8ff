"""The statement for what a plain upsert cannot do: rows of several column sets, columns that only new rows get, merges.

It first updates the stored rows, then inserts the others, and counts both. One query builds its text from the catalog
(`STATEMENT_SQL`). Over a database connection the backend sends that query and the statement. Over REST the function
`scrapy_upsert` does both: `scrapy supabase ddl --function` prints it.
"""

from __future__ import annotations

import msgspec

from scrapy_supabase.backends.base import Merged, Write
from scrapy_supabase.backends.bulk_sql import literal, quote
from scrapy_supabase.models import Mode, RowCounts, WriteOptions

FUNCTION = "scrapy_upsert"
VERSION = 2  # of the function: raise it with each change of its SQL

# `locked`: two writers lock the rows in the same order and cannot deadlock. An update alone locks them in the order of
# its plan: four writers that stored 60 keys in chunks of 20 had 1 to 14 deadlocks.
# Why the rows are updated first: PostgreSQL checks NOT NULL before ON CONFLICT, so that an upsert of a row without a
# required column fails even if that row is stored. `found` is not restricted to rows that change: a row that a trigger
# keeps must not be inserted. `missed` counts rows that share their key with another row of the request, and rows whose
# key another transaction has inserted meanwhile: the caller sends them again, in their order.
_STATEMENT = """WITH body AS MATERIALIZED (
  SELECT e.scrapy_n, e.scrapy_row, r.* FROM json_array_elements($1::json) WITH ORDINALITY AS e(scrapy_row, scrapy_n)
  CROSS JOIN LATERAL json_to_record(e.scrapy_row) AS r(%2$s)
), found AS MATERIALIZED (
  SELECT b.scrapy_n, (%3$s) AS key FROM body b JOIN %1$s AS t ON %4$s
), locked AS MATERIALIZED (
  %9$s
), updated AS (
  %5$s
), inserted AS (
  %6$s
), counted AS (
  SELECT (SELECT count(*) FROM body) AS rows, (SELECT count(DISTINCT scrapy_n) FROM found) AS found,
    (SELECT count(DISTINCT key) FROM found) AS keys, (SELECT count(*) FROM inserted) AS inserted,
    (SELECT count(DISTINCT scrapy_n) FROM updated) AS updated
)
SELECT json_build_array(inserted, least(updated, keys), greatest(keys - updated, 0), %7$s,
  greatest(found - keys, 0) + %8$s) FROM counted"""

_MERGED_JSON = """CASE WHEN t.%1$s IS NULL OR b.%1$s IS NULL THEN coalesce(b.%1$s, t.%1$s)
  WHEN jsonb_typeof(t.%1$s) = 'object' AND jsonb_typeof(b.%1$s) = 'object' THEN t.%1$s || b.%1$s
  WHEN jsonb_typeof(t.%1$s) = 'array' AND jsonb_typeof(b.%1$s) = 'array' THEN t.%1$s || coalesce((
    SELECT jsonb_agg(x.e ORDER BY x.n) FROM jsonb_array_elements(b.%1$s) WITH ORDINALITY x(e, n)
    WHERE x.e NOT IN (SELECT jsonb_array_elements(t.%1$s))), '[]')
  ELSE b.%1$s END"""

_MERGED_ARRAY = """CASE WHEN t.%1$s IS NULL OR b.%1$s IS NULL THEN coalesce(b.%1$s, t.%1$s)
  ELSE t.%1$s || ARRAY(SELECT x.e FROM unnest(b.%1$s) WITH ORDINALITY x(e, n)
    WHERE array_position(t.%1$s, x.e) IS NULL ORDER BY x.n) END"""

# `json` and some types have no equality; they are compared by their text.
_NO_EQUALITY = "'json', 'xml', 'point', 'line', 'lseg', 'box', 'path', 'polygon', 'circle'"

# Options: columns and key (arrays of names), optional (columns that not every row has), insert_only, merge, ignored
# (columns that do not count as a change), if_changed, update_only.
_BUILD = f"""WITH target AS (
  SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS name, :options::jsonb AS o
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = :schema AND c.relname = :target
), columns AS (
  SELECT k.place, format('%I', a.attname) AS q, format('%L', a.attname) AS l,
    format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)) AS typed,
    o->'key' ? a.attname AS is_key, o->'optional' ? a.attname AS is_optional, o->'ignored' ? a.attname AS is_ignored,
    NOT (o->'key' ? a.attname OR o->'insert_only' ? a.attname) AS is_updated,
    CASE WHEN NOT o->'merge' ? a.attname THEN 'b.%1$s' WHEN y.typelem <> 0 AND y.typlen = -1
      THEN {literal(_MERGED_ARRAY)} ELSE {literal(_MERGED_JSON)} END AS value,
    coalesce(pg_get_expr(d.adbin, d.adrelid), CASE WHEN a.attidentity <> ''
      THEN format('nextval(%L)', pg_get_serial_sequence(target.name, a.attname)) END, 'NULL') AS otherwise,
    CASE WHEN ltrim(y.typname, '_') IN ({_NO_EQUALITY}) THEN '::text' ELSE '' END AS compared
  FROM target CROSS JOIN jsonb_array_elements_text(o->'columns') WITH ORDINALITY k(name, place)
  JOIN pg_attribute a ON a.attrelid = target.oid AND a.attname = k.name AND a.attnum > 0 AND NOT a.attisdropped
  JOIN pg_type y ON y.oid = a.atttypid LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
), parts AS (
  SELECT *, CASE WHEN is_optional THEN format('CASE WHEN (b.scrapy_row -> %s) IS NULL THEN t.%s ELSE %s END',
      l, q, format(value, q)) ELSE format(value, q) END AS new,
    CASE WHEN is_optional THEN format('CASE WHEN (b.scrapy_row -> %s) IS NULL THEN %s ELSE b.%s END', l, otherwise, q)
      ELSE 'b.' || q END AS first
  FROM columns
), joined AS (
  SELECT string_agg(typed, ', ' ORDER BY place) AS types, string_agg('t.' || q, ', ') FILTER (WHERE is_key) AS key,
    string_agg(format('t.%1$s = b.%1$s', q), ' AND ') FILTER (WHERE is_key) AS same,
    string_agg(format('%s = %s', q, new), ', ' ORDER BY place) FILTER (WHERE is_updated) AS changes,
    string_agg(format('(t.%1$s)%2$s IS DISTINCT FROM (%3$s)%2$s', q, compared, new), ' OR ')
      FILTER (WHERE is_updated AND NOT is_ignored) AS differ,
    string_agg(q, ', ' ORDER BY place) AS names, string_agg(first, ', ' ORDER BY place) AS firsts,
    string_agg(q, ', ') FILTER (WHERE is_key) AS conflict
  FROM parts
)
SELECT format({literal(_STATEMENT)}, name, types, key, same,
  CASE WHEN wanted IS NULL
    THEN 'SELECT NULL::bigint AS scrapy_n WHERE false'
    ELSE format('UPDATE %s AS t SET %s FROM body b WHERE %s AND (SELECT count(*) FROM locked) >= 0 '
      'RETURNING b.scrapy_n', name, changes, wanted) END,
  CASE WHEN (o->>'update_only')::boolean THEN 'SELECT 1 WHERE false'
    ELSE format('INSERT INTO %s(%s) SELECT %s FROM body b WHERE NOT EXISTS (SELECT FROM found f '
      'WHERE f.scrapy_n = b.scrapy_n) ORDER BY b.scrapy_n ON CONFLICT (%s) DO NOTHING RETURNING 1',
      name, names, firsts, conflict) END,
  CASE WHEN (o->>'update_only')::boolean THEN 'rows - found' ELSE '0' END,
  CASE WHEN (o->>'update_only')::boolean THEN '0' ELSE 'rows - found - inserted' END,
  CASE WHEN wanted IS NULL THEN 'SELECT WHERE false'
    ELSE format('SELECT FROM body b JOIN %s AS t ON %s ORDER BY b.scrapy_n FOR NO KEY UPDATE OF t', name, wanted) END)
FROM target, joined CROSS JOIN LATERAL (SELECT CASE WHEN changes IS NULL THEN NULL
  WHEN NOT (o->>'if_changed')::boolean THEN same
  WHEN differ IS NOT NULL THEN format('%s AND (%s)', same, differ) END AS wanted) w"""  # noqa: S608 (it has no values)


def _build_sql(schema: str, target: str, options: str) -> str:
    return _BUILD.replace(":schema", schema).replace(":target", target).replace(":options", options)


STATEMENT_SQL = _build_sql("$1", "$2", "$3").encode()
"""The query that returns the statement for a schema, a table and options (JSON). The statement's `$1` are the rows."""


def options_of(write: Write) -> bytes:
    """Return the options of the statement for a write, as JSON."""
    options, optional = (write.merge.options, write.merge.optional) if write.merge else (WriteOptions(), ())
    return msgspec.json.encode(
        {
            "columns": write.columns,
            "key": write.on_conflict,
            "optional": () if write.fills else optional,
            "insert_only": options.insert_only,
            "merge": options.merge,
            "ignored": options.ignored,
            "if_changed": options.if_changed,
            "update_only": write.mode is Mode.UPDATE,
        }
    )


def merged(answer: bytes) -> Merged:
    """Return the result of the statement."""
    *counts, missed = msgspec.json.decode(answer, type=tuple[int, int, int, int, int])
    return Merged(RowCounts(*counts), missed)


def function_sql(schema: str, role: str) -> str:
    """Return the SQL that creates the function `scrapy_upsert` in a schema, for that schema's tables and one role.

    `security invoker`: grants and policies apply as to any request of the role.
    """
    name, home = f"{quote(schema)}.{FUNCTION}", literal(schema).strip()
    build = _build_sql(home, f"{FUNCTION}.target", f"{FUNCTION}.options")
    return f"""-- scrapy-supabase writes through this function what a plain upsert over the REST API cannot do.
create or replace function {name}(target text, rows json, options jsonb) returns json
language plpgsql security invoker as $function$
declare
  statement text;
  missing text;
  result json;
begin
  if target = '' then
    return json_build_object('version', {VERSION});
  end if;
  select min(k.name) into missing from jsonb_array_elements_text(options->'columns') k(name)
  where not exists (select from pg_attribute a join pg_class c on c.oid = a.attrelid
    join pg_namespace n on n.oid = c.relnamespace where n.nspname = {home}
    and c.relname = {FUNCTION}.target and a.attname = k.name and a.attnum > 0 and not a.attisdropped);
  if missing is not null then
    raise undefined_column using
      message = format('column "%s" of relation "%s" does not exist', missing, target);
  end if;
  statement := (
{build}
  );
  execute statement into result using rows;
  return result;
end
$function$;
comment on function {name}(text, json, jsonb) is 'scrapy-supabase, version {VERSION}';
revoke execute on function {name}(text, json, jsonb) from public, anon, authenticated;
grant execute on function {name}(text, json, jsonb) to {quote(role)};
notify pgrst, 'reload schema';
"""  # noqa: S608 (names are quoted)
