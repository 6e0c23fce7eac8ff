select 'u1 and u2 are stored', (select count(*) from pub_listings where url in ('u1', 'u2')) = 2 union all
select 'no price is NULL', (select price is null and beds = 2 from pub_listings where url = 'u2') union all
select 'the price with a comma is rejected', exists (select from rejects where line->'row'->>'url' = 'u3' and line->>'message' like '%"1,250.00"%') union all
select 'blank texts beside it are NULL', (select line->'row'->'beds' = 'null' and line->'row'->'listed' = 'null' from rejects where line->'row'->>'url' = 'u3') union all
select 'the column is named', (select line::text like '%price%' from rejects where line->'row'->>'url' = 'u3') union all
select 'u4 is rejected', exists (select from rejects where line->'row'->>'url' = 'u4');
