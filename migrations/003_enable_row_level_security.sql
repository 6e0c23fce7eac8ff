-- Row-level security: anyone may read. Only service_role may write, because it bypasses row-level security.

alter table public.modules enable row level security;
alter table public.symbols enable row level security;
alter table public.quotes enable row level security;

drop policy if exists "anyone may read" on public.modules;
create policy "anyone may read" on public.modules for select using (true);
drop policy if exists "anyone may read" on public.symbols;
create policy "anyone may read" on public.symbols for select using (true);
drop policy if exists "anyone may read" on public.quotes;
create policy "anyone may read" on public.quotes for select using (true);
