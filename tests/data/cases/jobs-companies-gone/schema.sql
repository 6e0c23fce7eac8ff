-- after the shape of job boards among public pipelines
drop table if exists jb_jobs, jb_companies, jb_crawls;
drop function if exists jb_after_crawl;
create table jb_companies ("companyId" bigint generated always as identity primary key, name text not null, city text not null, unique (name, city));
create table jb_jobs (url text primary key, title text not null, "companyId" bigint not null references jb_companies ("companyId"), source text not null,
  "isActive" boolean not null default true, gone_at timestamptz, run_id uuid);
insert into jb_companies (name, city) values ('Elsewhere', 'Graz');
insert into jb_jobs (url, title, "companyId", source) values ('https://other.example/1', 'Other', 1, 'other');
create table jb_crawls (run_id text primary key, reason text, stored int);
create or replace function jb_after_crawl(run_id text, reason text, counts json) returns void language sql as $$
  insert into jb_crawls values (run_id, reason, (counts->'tables'->'jb_jobs'->>'uploaded')::int) $$;
grant select, insert, update on jb_jobs, jb_companies, jb_crawls to service_role;
grant execute on function jb_after_crawl to service_role;
