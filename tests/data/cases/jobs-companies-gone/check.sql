select 'all ads are there', (select count(*) from jb_jobs) = 106 union all
select 'a company for each name and city', (select count(*) from jb_companies) = 15 union all
select 'ads that were not seen are marked', (select count(*) from jb_jobs where not "isActive" and gone_at > now() - interval '1 hour' and substr(url, 23)::int < 10) = 10 union all
select 'the others are not', (select count(*) from jb_jobs where "isActive" and gone_at is null) = 96 union all
select 'the function was called for each crawl', (select count(*) from jb_crawls where reason = 'finished') = 2
  and (select array_agg(stored order by stored) from jb_crawls) = array[95, 100];
