-- after the shape of shops among public pipelines: the item has the names of its category and brand, and a list of reviews
drop table if exists sh_reviews, sh_products, sh_categories, sh_brands;
create table sh_categories (id bigint generated always as identity primary key, name text not null unique, path text);
create table sh_brands (id bigint generated always as identity primary key, name text not null unique);
insert into sh_brands (name) values ('Acme'), ('Lumo, "the lamp"');
create table sh_products (sku text primary key, title text not null, price numeric not null,
  category_id bigint not null references sh_categories (id), brand_id bigint references sh_brands (id), run_id uuid);
create table sh_reviews (sku text not null references sh_products (sku), n int not null, author text not null, stars int not null check (stars between 1 and 5),
  run_id uuid, primary key (sku, n));
grant select, insert, update, delete on sh_categories, sh_brands, sh_products, sh_reviews to service_role;
