-- Daily snapshots (SUPABASE_DAILY_SNAPSHOTS): the rows of every run are kept. A run's rows carry its date (UTC) and the
-- next version of that day, which are part of the key, so that days and runs can be compared.

alter table public.modules add column if not exists snapshot_date date not null default (now() at time zone 'UTC')::date;
alter table public.modules add column if not exists snapshot_version integer not null default 1;
alter table public.symbols add column if not exists snapshot_date date not null default (now() at time zone 'UTC')::date;
alter table public.symbols add column if not exists snapshot_version integer not null default 1;

-- The new keys begin with the snapshot, so that they also serve "everything of one snapshot". Only where it is not so yet.
do $$
begin
  if not exists (
    select from pg_constraint join pg_attribute on attrelid = conrelid and attnum = any (conkey)
    where conrelid = 'public.modules'::regclass and contype = 'p' and attname = 'snapshot_version'
  ) then
    alter table public.symbols drop constraint symbols_module_fkey;
    alter table public.symbols drop constraint symbols_pkey;
    alter table public.modules drop constraint modules_pkey;
    alter table public.modules add constraint modules_pkey primary key (snapshot_date, snapshot_version, name);
    alter table public.symbols add constraint symbols_pkey primary key (snapshot_date, snapshot_version, module, name);
    alter table public.symbols add constraint symbols_module_fkey
      foreign key (snapshot_date, snapshot_version, module)
      references public.modules (snapshot_date, snapshot_version, name);
  end if;
end $$;

-- Which version of which day was given out last, for each table.
create table if not exists public.snapshot_versions (
  table_name text not null,
  snapshot_date date not null,
  last_version integer not null,
  primary key (table_name, snapshot_date)
);
alter table public.snapshot_versions enable row level security; -- no policy: only the function below touches it

-- Gives out the next version of a day: one number that is new to all of the run's tables. Two runs that ask at the same
-- time wait for each other and get different numbers.
create or replace function public.next_snapshot_version(tables text[], day date) returns integer
language plpgsql security definer set search_path = '' as $$
declare
  version integer;
begin
  insert into public.snapshot_versions as v (table_name, snapshot_date, last_version)
    select name, day, 0 from unnest(tables) name group by name order by name
    on conflict (table_name, snapshot_date) do update set last_version = v.last_version; -- locks the row
  select max(v.last_version) + 1 into version
    from public.snapshot_versions v where v.table_name = any (tables) and v.snapshot_date = day;
  update public.snapshot_versions v set last_version = version
    where v.table_name = any (tables) and v.snapshot_date = day;
  return version;
end $$;
revoke execute on function public.next_snapshot_version(text[], date) from public;
revoke execute on function public.next_snapshot_version(text[], date) from anon, authenticated;
grant execute on function public.next_snapshot_version(text[], date) to service_role;

-- The last snapshot of each day. `security_invoker`: who reads them needs the rights on the tables.
create or replace view public.modules_latest with (security_invoker = true) as
  select m.snapshot_date, m.snapshot_version, m.name, m.summary, m.url, m.symbol_count, m.programming_language,
         m.language, m.collected_at
  from public.modules m
  join (select snapshot_date, max(snapshot_version) as snapshot_version from public.modules group by snapshot_date) last
    using (snapshot_date, snapshot_version);

create or replace view public.symbols_latest with (security_invoker = true) as
  select s.snapshot_date, s.snapshot_version, s.module, s.name, s.kind, s.signature, s.summary, s.doc, s.collected_at
  from public.symbols s
  join (select snapshot_date, max(snapshot_version) as snapshot_version from public.symbols group by snapshot_date) last
    using (snapshot_date, snapshot_version);

-- A line a day: how many snapshots, and what the last one holds.
create or replace view public.daily_summary with (security_invoker = true) as
  select snapshot_date, snapshot_version as snapshots, count(distinct module) as modules, count(*) as symbols,
         count(*) filter (where kind = 'class') as classes,
         count(*) filter (where kind = 'function') as functions,
         count(*) filter (where kind = 'data') as data
  from public.symbols_latest
  group by snapshot_date, snapshot_version;

grant select on public.modules_latest, public.symbols_latest, public.daily_summary to anon, authenticated, service_role;
