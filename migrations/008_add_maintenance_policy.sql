-- A crawl writes these tables in bulk: a run adds or updates a large part of the rows at once. The default thresholds (a
-- fifth of the table) would leave the planner with old statistics, and index-only scans without a visibility map.

alter table public.modules set (
  autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 500,
  autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_vacuum_insert_threshold = 500,
  autovacuum_analyze_scale_factor = 0.02, autovacuum_analyze_threshold = 250
);
alter table public.symbols set (
  autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000,
  autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_vacuum_insert_threshold = 1000,
  autovacuum_analyze_scale_factor = 0.02, autovacuum_analyze_threshold = 500
);
alter table public.quotes set (
  autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.05,
  autovacuum_analyze_scale_factor = 0.02
);

-- Update the statistics at once, at the end of a large load: `select analyze_scraped_tables()`, or the RPC of that name.
create or replace function public.analyze_scraped_tables() returns void
language plpgsql security definer set search_path = '' as $$
begin
  analyze public.modules;
  analyze public.symbols;
  analyze public.quotes;
end $$;
revoke execute on function public.analyze_scraped_tables() from public;
revoke execute on function public.analyze_scraped_tables() from anon, authenticated;
grant execute on function public.analyze_scraped_tables() to service_role;

-- VACUUM cannot run inside a function or a transaction. pg_cron (Supabase: Database > Extensions) runs each job as a
-- separate statement in a separate session, so it can run VACUUM: one table per job, every night. If the extension is not
-- enabled, this does nothing: enable it and run this file again. A job of the same name is replaced.
do $$
begin
  if to_regprocedure('cron.schedule(text, text, text)') is not null then
    perform cron.schedule('vacuum-modules', '17 3 * * *', 'VACUUM (ANALYZE) public.modules');
    perform cron.schedule('vacuum-symbols', '22 3 * * *', 'VACUUM (ANALYZE) public.symbols');
    perform cron.schedule('vacuum-quotes', '27 3 * * *', 'VACUUM (ANALYZE) public.quotes');
  end if;
end $$;
