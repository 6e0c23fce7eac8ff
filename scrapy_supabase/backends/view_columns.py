"""The SQL that finds the table column behind a view's column, for the database backend and the local gateway.

PostgreSQL keeps it in the view's rewritten query, a tree of nodes as text: the entries of the target list are the nodes
one level below the query itself. A view of a view is followed down to its tables.
"""

from __future__ import annotations

# Goes after WITH RECURSIVE. Defines view_columns (view_id, view_column, table_id, table_column): oids and attnums.
VIEW_COLUMNS = r"""
view_tokens AS (
  SELECT r.ev_class AS view_id, t.place, t.m[1] AS token, sum(CASE t.m[1] WHEN '{' THEN 1 WHEN '}' THEN -1 ELSE 0 END)
    OVER (PARTITION BY r.ev_class ORDER BY t.place) AS depth
  FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace
  CROSS JOIN regexp_matches(r.ev_action::text, '(\\.|[{}]|:resno \d+|:resorigtbl \d+ :resorigcol \d+)', 'g')
    WITH ORDINALITY t(m, place)
  WHERE r.rulename = '_RETURN' AND c.relkind IN ('v', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
), view_entries AS (
  SELECT view_id, token, lead(token) OVER (PARTITION BY view_id ORDER BY place) AS origin
  FROM view_tokens WHERE depth = 2 AND token LIKE ':res%'
), view_steps AS (
  SELECT view_id, split_part(token, ' ', 2)::int AS view_column, split_part(origin, ' ', 2)::oid AS table_id,
    split_part(origin, ' ', 4)::int AS table_column
  FROM view_entries WHERE token LIKE ':resno%' AND origin LIKE ':resorigtbl%' AND split_part(origin, ' ', 2) <> '0'
), view_columns AS (
  SELECT view_id, view_column, table_id, table_column FROM view_steps
  UNION
  SELECT v.view_id, v.view_column, s.table_id, s.table_column
  FROM view_columns v JOIN view_steps s ON s.view_id = v.table_id AND s.view_column = v.table_column
)
"""
