-- after the shape of price trackers among public pipelines; from the second statement on as printed by
-- scrapy supabase ddl --history price,stock --key sku pt_products
drop table if exists pt_products, pt_products_history;
create table pt_products (sku text primary key, title text, price numeric, stock bigint, first_seen timestamptz, seen_at timestamptz);
grant select, insert, update on pt_products to service_role;
-- Adds a row to pt_products_history when price or stock of pt_products changes.
create table if not exists public.pt_products_history (
  change_id bigint generated always as identity primary key,
  sku text not null,
  price numeric,
  stock bigint,
  changed_at timestamptz not null default now()
);
alter table public.pt_products_history
  add column if not exists price numeric,
  add column if not exists stock bigint;
create index if not exists pt_products_history_by_key on public.pt_products_history
  (sku, changed_at);
grant select on public.pt_products_history to service_role;
alter table public.pt_products_history enable row level security;

create or replace function public.pt_products_history() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  insert into public.pt_products_history (sku, price, stock, changed_at)
  values (new.sku, new.price, new.stock, coalesce(new.seen_at, now()));
  return null;
end $$;
create or replace trigger scrapy_history_insert after insert on public.pt_products
for each row execute function public.pt_products_history();
create or replace trigger scrapy_history_update after update on public.pt_products
for each row when (old.price is distinct from new.price
  or old.stock is distinct from new.stock)
execute function public.pt_products_history();

