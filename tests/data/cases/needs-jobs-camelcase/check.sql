select '101 is active again', (select "IsActive" and "ExpiryDate" is null and "UpdatedAt" is not null from "pub_Jobs" where "Id" = 101) union all
select '103 is stored', (select "IsActive" and "AdvertiserId" is null and "PostedDate" = '2026-11-21' and "PayRange" = '$50' from "pub_Jobs" where "Id" = 103) union all
select 'a text column keeps an empty text', (select "PayRange" = '' from "pub_Jobs" where "Id" = 101) union all
select '102 is off', (select not "IsActive" and "ExpiryDate" > now() - interval '1 hour' and "UpdatedAt" is null from "pub_Jobs" where "Id" = 102) union all
select 'one is counted', (select value = '1' from crawl_stats where key = 'unseen_count');
