-- The time when a row was collected. Quotes are stored once per hour: a second crawl in the same hour updates the rows of
-- the first, and a crawl in the next hour adds new rows. The pipeline fills collected_at_hour (stamp 'hour') and upserts on
-- the key below.

alter table public.modules add column if not exists collected_at timestamptz not null default now();
alter table public.symbols add column if not exists collected_at timestamptz not null default now();
alter table public.quotes add column if not exists collected_at timestamptz not null default now();
alter table public.quotes add column if not exists collected_at_hour timestamptz not null
  default date_trunc('hour', now(), 'UTC');

create unique index if not exists quotes_once_an_hour on public.quotes (author, text, collected_at_hour);
