-- daily_summary counts every module of a snapshot. Before, it counted only modules with symbols, so that it had fewer
-- modules than the crawl had uploaded.

create or replace view public.daily_summary with (security_invoker = true) as
  select snapshot_date, snapshot_version as snapshots,
         (select count(*) from public.modules_latest m where m.snapshot_date = s.snapshot_date) as modules,
         count(*) as symbols,
         count(*) filter (where kind = 'class') as classes,
         count(*) filter (where kind = 'function') as functions,
         count(*) filter (where kind = 'data') as data
  from public.symbols_latest s
  group by snapshot_date, snapshot_version;
