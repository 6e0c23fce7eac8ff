-- Since 2026-10-30 a new table on hosted Supabase may be used by nobody, not even by the secret key (service_role),
-- until it is granted.

-- The crawl writes with the secret key. An upsert needs all three.
grant select, insert, update on public.modules, public.symbols, public.quotes to service_role;

-- Applications read with the publishable key (anon) or as a user who is logged in (authenticated).
grant select on public.modules, public.symbols, public.quotes to anon, authenticated;
