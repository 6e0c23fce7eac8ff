-- The ledger of crawls (SUPABASE_RUNS_TABLE = "scrapy_runs"): one row per crawl, written when the crawl starts,
-- updated once a minute, and completed when it ends. A row without finished_at belongs to a crawl that is running or,
-- if last_seen is older than some minutes, was killed.

create table if not exists public.scrapy_runs (
  run_id uuid primary key,
  spider text not null,
  started_at timestamptz not null,
  finished_at timestamptz,
  finish_reason text,
  received_count bigint not null default 0,
  uploaded_count bigint not null default 0,
  failed_count bigint not null default 0,
  spooled_count bigint not null default 0,
  stats jsonb not null default '{}' -- all of Scrapy's stats at the end
);

-- Updated once a minute while the crawl runs.
alter table public.scrapy_runs add column if not exists last_seen timestamptz;

create index if not exists scrapy_runs_by_start on public.scrapy_runs (started_at desc);

grant select, insert, update on public.scrapy_runs to service_role;
alter table public.scrapy_runs enable row level security; -- no policy: only service_role may read it
