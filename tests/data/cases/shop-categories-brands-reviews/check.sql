select 'the second crawl stored all products', (select count(*) from sh_products) = 200 union all
select 'each category is there once', (select count(*) from sh_categories) = 5 and (select count(*) from sh_categories where path = '/' || name) = 5 union all
select 'each product has its category', (select count(*) from sh_products p join sh_categories c on c.id = p.category_id
  where c.name = (array['Lamps', 'Chairs & tables', 'Übergrößen', 'The "best"', 'a,b(c)'])[substr(sku, 2)::int % 5 + 1]) = 200 union all
select 'each product has its brand', (select count(*) from sh_products p join sh_brands b on b.id = p.brand_id) = 199 union all
select 'no brand was made', (select count(*) from sh_brands) = 2 union all
select 'the second crawl changed the prices', (select min(price) from sh_products) = 20 union all
select 'reviews that are gone are deleted', (select count(*) from sh_reviews) = 400 and (select max(n) from sh_reviews) = 2 union all
select 'the product of an unknown brand was rejected', (select count(*) from rejects where line->>'code' = 'no_parent') = 1 union all
select 'its reviews, too', (select count(*) from rejects where line->>'code' = 'parent_rejected') = 3 union all
select 'one bad review costs one review', (select count(*) from rejects where line->>'code' = '23514') = 1;
