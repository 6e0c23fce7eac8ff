-- Since 2026-10-30, nobody may use a new table on hosted Supabase until access is granted, not even with the secret key
-- (service_role).

-- The crawl writes with the secret key. An upsert needs all three rights.
grant select, insert, update on public.modules, public.symbols, public.quotes to service_role;

-- Applications read with the publishable key (anon) or as a logged-in user (authenticated).
grant select on public.modules, public.symbols, public.quotes to anon, authenticated;
