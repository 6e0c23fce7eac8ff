-- Daily snapshots (SUPABASE_DAILY_SNAPSHOTS): what gives out the versions of a day.

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
