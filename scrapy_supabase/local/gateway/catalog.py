"""What the database has: tables, columns, keys, functions, read at once and kept until it changes."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Column:
    """A column. `default` is its SQL expression; `type` is what JSON is cast to (`numeric(10,2)`)."""

    name: str
    type: str
    format: str
    nullable: bool
    default: str | None
    comment: str | None
    max_length: int | None
    enum: tuple[str, ...]
    generated: bool
    identity: bool


@dataclass(frozen=True, slots=True)
class Table:
    """A table or view. `foreign_keys` are (columns, table, columns of that table)."""

    schema: str
    name: str
    comment: str | None
    columns: Mapping[str, Column]
    primary_key: tuple[str, ...]
    foreign_keys: tuple[tuple[tuple[str, ...], str, tuple[str, ...]], ...]
    insertable: bool


@dataclass(frozen=True, slots=True)
class Parameter:
    """A function's parameter; its name is empty where it has none."""

    name: str
    type: str
    required: bool
    variadic: bool


@dataclass(frozen=True, slots=True)
class Function:
    """A function. `returns` is scalar, composite or void; `volatile` says that it may write."""

    schema: str
    name: str
    parameters: tuple[Parameter, ...]
    returns: str
    returns_set: bool
    volatile: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything known, by (schema, name). `settings` are those of a role (`alter role … set`).

    `deferrable` says that there is a constraint that may be checked at the end of a transaction only.
    """

    tables: Mapping[tuple[str, str], Table]
    functions: Mapping[tuple[str, str], tuple[Function, ...]]
    settings: Mapping[str, tuple[tuple[str, str], ...]]
    deferrable: bool


_TABLES = """
select n.nspname, c.relname, obj_description(c.oid, 'pg_class'),
  coalesce((select jsonb_agg(jsonb_build_array(a.attname, format_type(a.atttypid, a.atttypmod),
      format_type(a.atttypid, null), not (a.attnotnull or t.typnotnull), pg_get_expr(d.adbin, d.adrelid),
      col_description(c.oid, a.attnum),
      case when a.atttypid in ('varchar'::regtype, 'bpchar'::regtype) and a.atttypmod > 4 then a.atttypmod - 4 end,
      (select jsonb_agg(e.enumlabel order by e.enumsortorder) from pg_enum e where e.enumtypid = a.atttypid),
      a.attgenerated <> '', a.attidentity <> '') order by a.attnum)
    from pg_attribute a join pg_type t on t.oid = a.atttypid
    left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped), '[]'),
  coalesce((select jsonb_agg(a.attname order by k.place) from pg_constraint p
    cross join unnest(p.conkey) with ordinality k(attnum, place)
    join pg_attribute a on a.attrelid = c.oid and a.attnum = k.attnum
    where p.conrelid = c.oid and p.contype = 'p'), '[]'),
  coalesce((select jsonb_agg(jsonb_build_array(
      (select jsonb_agg(a.attname order by k.place) from unnest(f.conkey) with ordinality k(attnum, place)
        join pg_attribute a on a.attrelid = f.conrelid and a.attnum = k.attnum),
      r.relname,
      (select jsonb_agg(a.attname order by k.place) from unnest(f.confkey) with ordinality k(attnum, place)
        join pg_attribute a on a.attrelid = f.confrelid and a.attnum = k.attnum)) order by f.conname)
    from pg_constraint f join pg_class r on r.oid = f.confrelid where f.conrelid = c.oid and f.contype = 'f'), '[]'),
  pg_relation_is_updatable(c.oid, true) & 8 = 8
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'v', 'm', 'f', 'p') and n.nspname = any($1) and not c.relispartition
order by n.nspname, c.relname
"""

# Which column of which table a view's column is: PostgreSQL notes it in the view's rewritten query.
_VIEWS = """
select n.nspname, c.relname, v.attname, s.nspname, t.relname, a.attname
from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_rewrite r on r.ev_class = c.oid
cross join regexp_matches(r.ev_action::text,
  ':resno (\\d+) :resname (\\S+) :ressortgroupref \\d+ :resorigtbl (\\d+) :resorigcol (\\d+)', 'g') m
join pg_attribute v on v.attrelid = c.oid and v.attnum = m[1]::int and v.attname = m[2]
join pg_class t on t.oid = m[3]::oid join pg_namespace s on s.oid = t.relnamespace
join pg_attribute a on a.attrelid = t.oid and a.attnum = m[4]::int
where c.relkind in ('v', 'm') and r.rulename = '_RETURN' and n.nspname = any($1)
order by v.attnum
"""

_FUNCTIONS = """
select n.nspname, p.proname, coalesce(p.proargnames, '{}'), coalesce(p.proargmodes::text[], '{}'),
  (select coalesce(array_agg(format_type(o, null) order by i), '{}')
    from unnest(coalesce(p.proallargtypes, p.proargtypes::oid[])) with ordinality x(o, i)),
  p.pronargdefaults, p.provariadic <> 0, p.proretset, p.provolatile = 'v',
  case when p.prorettype = 'void'::regtype then 'void'
    when t.typtype = 'c' or p.prorettype = 'record'::regtype
      or t.typtype = 'd' and b.typtype = 'c' then 'composite' else 'scalar' end
from pg_proc p join pg_namespace n on n.oid = p.pronamespace join pg_type t on t.oid = p.prorettype
left join pg_type b on b.oid = t.typbasetype
where p.prokind = 'f' and n.nspname = any($1) and p.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)
order by n.nspname, p.proname, p.oid
"""

_SETTINGS = """
select r.rolname, s.setting from pg_db_role_setting d join pg_roles r on r.oid = d.setrole
cross join unnest(d.setconfig) s(setting) where d.setdatabase = 0
"""


class Catalog:
    """The newest snapshot of the exposed `schemas`. `connect` gives a raw-cursor connection to read it with."""

    def __init__(self, schemas: tuple[str, ...], connect: Any) -> None:
        self.schemas = schemas
        self._connect = connect
        self._lock = threading.Lock()
        self._snapshot: Snapshot | None = None

    @property
    def snapshot(self) -> Snapshot:
        """What is known; read now if nothing is."""
        return self._snapshot or self.reload()

    def reload(self) -> Snapshot:
        """Read it again."""
        with self._lock, self._connect() as connection:
            self._snapshot = _read(connection, list(self.schemas))
            return self._snapshot

    def changed(self) -> bool:
        """Read it again; whether anything is different now."""
        before = self._snapshot
        return self.reload() != before


def _read(connection: Any, schemas: list[str]) -> Snapshot:
    tables = {}
    for schema, name, comment, columns, key, foreign, insertable in connection.execute(_TABLES, [schemas]):
        known = {c[0]: _column(*c) for c in columns}
        foreign_keys = tuple((tuple(own), table, tuple(theirs)) for own, table, theirs in foreign)
        tables[schema, name] = Table(schema, name, comment, known, tuple(key), foreign_keys, insertable)
    sources: dict[tuple[str, str], dict[tuple[str, str], dict[str, str]]] = {}
    for schema, name, column, of_schema, of_table, of_column in connection.execute(_VIEWS, [schemas]):
        of = sources.setdefault((schema, name), {}).setdefault((of_schema, of_table), {})
        of.setdefault(of_column, column)
    for view, of_tables in sources.items():
        tables[view] = _with_keys(tables[view], of_tables, tables)
    functions: dict[tuple[str, str], tuple[Function, ...]] = {}
    for row in connection.execute(_FUNCTIONS, [schemas]):
        function = _function(*row)
        functions[row[0], row[1]] = (*functions.get((row[0], row[1]), ()), function)
    settings: dict[str, tuple[tuple[str, str], ...]] = {}
    for role, setting in connection.execute(_SETTINGS):
        name, _, value = setting.partition("=")
        settings[role] = (*settings.get(role, ()), (name, value))
    deferrable = connection.execute("select exists (select from pg_trigger where tgdeferrable)").fetchone()[0]
    return Snapshot(tables, functions, settings, deferrable)


def _with_keys(
    view: Table, sources: Mapping[tuple[str, str], Mapping[str, str]], tables: Mapping[tuple[str, str], Table]
) -> Table:
    """A view has the keys of its tables, as far as it shows their columns."""
    key: list[str] = []
    foreign: list[tuple[tuple[str, ...], str, tuple[str, ...]]] = []
    for place, shown in sources.items():
        source = tables.get(place)
        if source is None:
            continue
        if source.primary_key and all(column in shown for column in source.primary_key):
            key.extend(shown[column] for column in source.primary_key)
        foreign.extend(
            (tuple(shown[column] for column in own), other, theirs)
            for own, other, theirs in source.foreign_keys
            if all(column in shown for column in own)
        )
    return replace(view, primary_key=tuple(key), foreign_keys=tuple(foreign))


def _column(
    name: str,
    kind: str,
    bare_kind: str,
    nullable: bool,
    default: str | None,
    comment: str | None,
    max_length: int | None,
    enum: list[str] | None,
    generated: bool,
    identity: bool,
) -> Column:
    labels = tuple(enum or ())
    return Column(name, kind, bare_kind, nullable, default, comment, max_length, labels, generated, identity)


def _function(
    schema: str,
    name: str,
    names: list[str],
    modes: list[str],
    types: list[str],
    defaults: int,
    variadic: bool,
    returns_set: bool,
    volatile: bool,
    returns: str,
) -> Function:
    taken = [i for i in range(len(types)) if not modes or modes[i] in ("i", "b", "v")]
    required = len(taken) - defaults
    parameters = tuple(
        Parameter(
            names[i] if i < len(names) else "",
            types[i],
            place < required and not (variadic and place == len(taken) - 1),
            variadic and place == len(taken) - 1,
        )
        for place, i in enumerate(taken)
    )
    # OUT parameters make a scalar function return a row.
    outs = sum(mode in ("o", "b", "t") for mode in modes)
    kind = "composite" if outs > 1 else returns
    return Function(schema, name, parameters, kind, returns_set, volatile)
