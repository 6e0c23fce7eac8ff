select '1 profile', (select count(*) from pub_profiles where followers = 5) = 1 union all
select '1 comment', (select count(*) from pub_comments where likes = 2) = 1 union all
select 'none rejected', not exists (select from rejects);
