-- The roles and helpers that every Supabase project has, as far as the REST API and its policies need them.
create role anon nologin noinherit;
create role authenticated nologin noinherit;
create role service_role nologin noinherit bypassrls;
create role authenticator login noinherit;
grant anon, authenticated, service_role to authenticator;
-- The limits of hosted Supabase, in seconds a statement.
alter role anon set statement_timeout = '3s';
alter role authenticated set statement_timeout = '8s';
alter role authenticator set statement_timeout = '8s';
alter role authenticator set lock_timeout = '8s';
-- No grants on tables: since 2026-10-30 a new table on hosted Supabase has none either.
grant usage on schema public to anon, authenticated, service_role;

create schema auth;
grant usage on schema auth to anon, authenticated, service_role;
create function auth.jwt() returns jsonb language sql stable as
  $$ select coalesce(nullif(current_setting('request.jwt.claims', true), ''), '{}')::jsonb $$;
create function auth.uid() returns uuid language sql stable as $$ select (auth.jwt() ->> 'sub')::uuid $$;
create function auth.role() returns text language sql stable as $$ select auth.jwt() ->> 'role' $$;

-- A changed table is known to the REST API at once, as on Supabase.
create schema extensions;
create function extensions.pgrst_changed() returns event_trigger language plpgsql as
  $$ begin perform pg_notify('pgrst', 'reload schema'); end $$;
create event trigger pgrst_ddl_watch on ddl_command_end execute function extensions.pgrst_changed();
create event trigger pgrst_drop_watch on sql_drop execute function extensions.pgrst_changed();
