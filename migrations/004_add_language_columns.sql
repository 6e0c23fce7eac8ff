-- The programming language of a module, and the human language of texts (a BCP 47 tag, such as en or pt-BR).

alter table public.modules add column if not exists programming_language text;
alter table public.modules add column if not exists language text not null default 'en';
alter table public.quotes add column if not exists language text not null default 'en';

alter table public.modules drop constraint if exists modules_programming_language_check;
alter table public.modules add constraint modules_programming_language_check
  check (programming_language in ('python', 'c')) not valid;
