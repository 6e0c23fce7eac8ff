drop view if exists pub_shop; drop table if exists pub_shop_all;
create table pub_shop_all (url text primary key, price numeric check (price > 0));
create view pub_shop as select url, price, price * 1.2 as gross, upper(url) as "the ""URL"" of view" from pub_shop_all;
grant select, insert, update on pub_shop, pub_shop_all to service_role;
