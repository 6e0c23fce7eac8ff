select 'both rows', (select count(*) from pub_hotpads) = 2 union all
select 'what was there stays', (select (contact_name, phone_number) = ('Known before', '555') from pub_hotpads where url like '%/1') union all
select 'new values', (select (property_name, bedrooms, square_feet, listing_date) = ('Flat 1', 2, 800, '2026-11-01') from pub_hotpads where url like '%/1') union all
select 'blank texts are NULL', (select bedrooms is null and square_feet is null and listing_date is null and contact_name = 'Ann' from pub_hotpads where url like '%/2');
