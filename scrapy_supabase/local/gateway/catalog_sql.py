"""Queries of the catalog. They run with an empty search path, so names outside pg_catalog are qualified.

`$1` is the list of exposed schemas. Facts are those of PostgREST 14's schema cache.
"""

from __future__ import annotations

from scrapy_supabase.backends.view_columns import VIEW_COLUMNS

# The format of a domain is that of its innermost type, if that type is built into PostgreSQL.
TABLES = """
with recursive base_types(oid, base) as (
  select oid, oid from pg_type where typbasetype = 0
  union all
  select t.oid, b.base from pg_type t join base_types b on b.oid = t.typbasetype where t.typbasetype <> 0
)
select n.nspname, c.relname, obj_description(c.oid, 'pg_class'),
  coalesce((select jsonb_agg(jsonb_build_array(a.attname, format_type(a.atttypid, a.atttypmod),
      case when bt.typnamespace <> 'pg_catalog'::regnamespace then format_type(a.atttypid, a.atttypmod)
        else format_type(bt.oid, null) end,
      not (a.attnotnull or t.typnotnull),
      case when a.attgenerated <> '' then null
        when a.attidentity = 'd' then (select format('nextval(%L)', s.objid::regclass) from pg_depend s
          where s.refobjid = a.attrelid and s.refobjsubid = a.attnum and s.deptype = 'i'
          and s.classid = 'pg_class'::regclass limit 1)
        when d.adbin is not null then pg_get_expr(d.adbin, d.adrelid)
        else pg_get_expr(t.typdefaultbin, 0) end,
      col_description(c.oid, a.attnum),
      information_schema._pg_char_max_length(information_schema._pg_truetypid(a.*, t.*),
        information_schema._pg_truetypmod(a.*, t.*)),
      (select jsonb_agg(e.enumlabel order by e.enumsortorder) from pg_enum e where e.enumtypid = bt.oid))
      order by a.attnum)
    from pg_attribute a join pg_type t on t.oid = a.atttypid join base_types b on b.oid = t.oid
    join pg_type bt on bt.oid = b.base
    left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped), '[]'),
  case when c.relkind in ('r', 'p') then 28 when c.relkind in ('v', 'f') then pg_relation_is_updatable(c.oid, true)
    else 0 end,
  exists (select from pg_attribute a join pg_cast k on a.atttypid in (k.castsource, k.casttarget)
    join pg_type t on t.oid = a.atttypid and t.typtype = 'd'
    where a.attrelid = c.oid and a.attnum > 0 and k.castcontext = 'i' and k.castmethod = 'f'
    and ('json'::regtype in (k.castsource, k.casttarget) or 'text'::regtype in (k.castsource, k.casttarget)))
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'v', 'm', 'f', 'p') and n.nspname = any($1) and not c.relispartition
order by n.nspname, c.relname
"""

# Keys of all tables, including those behind views. `p`: (columns); `f`: (columns, schema, table, its columns).
KEYS = """
select n.nspname, c.relname, k.contype::text,
  (select array_agg(a.attname::text order by u.place) from unnest(k.conkey) with ordinality u(attnum, place)
    join pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.attnum),
  fn.nspname, f.relname,
  (select array_agg(a.attname::text order by u.place) from unnest(k.confkey) with ordinality u(attnum, place)
    join pg_attribute a on a.attrelid = k.confrelid and a.attnum = u.attnum)
from pg_constraint k join pg_class c on c.oid = k.conrelid join pg_namespace n on n.oid = c.relnamespace
left join pg_class f on f.oid = k.confrelid left join pg_namespace fn on fn.oid = f.relnamespace
where k.contype in ('p', 'f') and k.conparentid = 0 and n.nspname not in ('pg_catalog', 'information_schema')
order by k.conrelid, k.conname
"""

VIEWS = f"""
with recursive {VIEW_COLUMNS}
select n.nspname, c.relname, v.attname, s.nspname, t.relname, a.attname
from view_columns m join pg_class c on c.oid = m.view_id join pg_namespace n on n.oid = c.relnamespace
join pg_attribute v on v.attrelid = c.oid and v.attnum = m.view_column
join pg_class t on t.oid = m.table_id join pg_namespace s on s.oid = t.relnamespace
join pg_attribute a on a.attrelid = t.oid and a.attnum = m.table_column
where n.nspname = any($1) and t.relkind not in ('v', 'm')
order by m.view_column
"""

# An argument of a type with a length is cast to the type without one. A media type is a domain named like one.
FUNCTIONS = """
with recursive base_types(oid, base) as (
  select oid, oid from pg_type where typbasetype = 0
  union all
  select t.oid, b.base from pg_type t join base_types b on b.oid = t.typbasetype where t.typbasetype <> 0
)
select n.nspname, p.proname,
  coalesce((select jsonb_agg(jsonb_build_array(coalesce(x.name, ''), x.type::regtype::text,
      case x.type when 'bit'::regtype then 'bit varying' when 'bit[]'::regtype then 'bit varying[]'
        when 'bpchar'::regtype then 'character varying' when 'bpchar[]'::regtype then 'character varying[]'
        else x.type::regtype::text end,
      x.place <= p.pronargs - p.pronargdefaults, coalesce(x.mode = 'v', false)) order by x.place)
    from unnest(p.proargnames, p.proargtypes::oid[], p.proargmodes) with ordinality x(name, type, mode, place)
    where x.type is not null), '[]'),
  p.proretset, p.provolatile = 'v',
  case when p.prorettype = 'void'::regtype then 'void'
    when r.typname ~ '^[A-Za-z0-9.-]+/[A-Za-z0-9.+-]+$|^[*]/[*]$' and r.typtype = 'd' then 'media'
    when t.typtype = 'c' or coalesce(p.proargmodes::text[] && '{t,b,o}', false) then 'composite' else 'scalar' end,
  tn.nspname, coalesce(tc.relname, t.typname),
  coalesce((select jsonb_object_agg(split_part(s, '=', 1), substr(s, strpos(s, '=') + 1)) from unnest(p.proconfig) s
    where split_part(s, '=', 1) in ('statement_timeout', 'plan_filter.statement_cost_limit')), '{}')
from pg_proc p join pg_namespace n on n.oid = p.pronamespace join pg_type r on r.oid = p.prorettype
join base_types b on b.oid = r.oid join pg_type t on t.oid = b.base join pg_namespace tn on tn.oid = t.typnamespace
left join pg_class tc on tc.oid = t.typrelid
where p.prokind = 'f' and n.nspname = any($1) and t.oid <> 'trigger'::regtype
order by n.nspname, p.proname, p.pronargs, p.oid
"""

# The settings of a role (`alter role … set`) that the login role may set.
SETTINGS = """
select r.rolname, split_part(s, '=', 1), substr(s, strpos(s, '=') + 1)
from pg_db_role_setting d join pg_roles r on r.oid = d.setrole cross join unnest(d.setconfig) s
join pg_settings k on k.name = split_part(s, '=', 1)
where d.setdatabase = 0 and (k.context = 'user' or has_parameter_privilege(k.name, 'set'))
"""

DEFERRABLE = "select exists (select from pg_trigger where tgdeferrable)"
TIMEZONES = "select name from pg_timezone_names"
