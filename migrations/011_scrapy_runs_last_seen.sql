-- The time of the last update of a row in the ledger, which shows whether a crawl without finished_at still runs.

alter table public.scrapy_runs add column if not exists last_seen timestamptz;
