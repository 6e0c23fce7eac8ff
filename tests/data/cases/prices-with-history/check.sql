select 'all products are there', (select count(*) from pt_products) = 150 union all
select 'one row of the first crawl for each', (select count(distinct sku) from pt_products_history) = 150 union all
select 'a row for each change, and no other', (select count(*) from pt_products_history) = 150 + 15 + 15 + 1 union all
select 'the price of a product over time', (select array_agg(price order by changed_at) from pt_products_history where sku = 'p10') = array[10.90, 10.95, 10.90] union all
select 'the change of a stock', (select array_agg(stock order by changed_at) from pt_products_history where sku = 'p5') = array[3, 0]::bigint[] union all
select 'first_seen is that of the first crawl', (select count(*) from pt_products where first_seen < seen_at) = 150;
