-- Daily snapshots (SUPABASE_DAILY_SNAPSHOTS): the function that assigns the versions of a day.

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
