-- Daily snapshots (SUPABASE_DAILY_SNAPSHOTS) keep the rows of every run. Each row has the date of its run (UTC) and the
-- next version of that day. Both are part of the key, so that you can compare days and runs.

alter table public.modules add column if not exists snapshot_date date not null default (now() at time zone 'UTC')::date;
alter table public.modules add column if not exists snapshot_version integer not null default 1;
alter table public.symbols add column if not exists snapshot_date date not null default (now() at time zone 'UTC')::date;
alter table public.symbols add column if not exists snapshot_version integer not null default 1;

-- The new keys begin with the snapshot, so that they also serve queries for one whole snapshot. Change the keys only if
-- they are still the old ones.
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

-- The last version assigned on each day, per table.
create table if not exists public.snapshot_versions (
  table_name text not null,
  snapshot_date date not null,
  last_version integer not null,
  primary key (table_name, snapshot_date)
);
alter table public.snapshot_versions enable row level security; -- no policy: only the function below uses it

-- Assign the next version of a day: one number that is new for every table of the run. Two runs that call this at the
-- same time wait for each other and get different numbers.
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

-- The last snapshot of each day. `security_invoker`: a reader needs rights on the tables, too.
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

-- One line per day: the number of snapshots, and the counts of the last one.
create or replace view public.daily_summary with (security_invoker = true) as
  select snapshot_date, snapshot_version as snapshots, count(distinct module) as modules, count(*) as symbols,
         count(*) filter (where kind = 'class') as classes,
         count(*) filter (where kind = 'function') as functions,
         count(*) filter (where kind = 'data') as data
  from public.symbols_latest
  group by snapshot_date, snapshot_version;

grant select on public.modules_latest, public.symbols_latest, public.daily_summary to anon, authenticated, service_role;
