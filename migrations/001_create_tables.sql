-- The tables of the example project: the modules of Python's standard library, the symbols they define, and quotes.
-- You may run every migration here again: it does not change what exists already.

create table if not exists public.modules (
  name text not null,
  summary text,
  url text,
  symbol_count integer,
  constraint modules_pkey primary key (name)
);

create table if not exists public.symbols (
  module text not null,
  name text not null,
  kind text not null,
  signature text,
  summary text,
  doc text,
  constraint symbols_pkey primary key (module, name),
  constraint symbols_module_fkey foreign key (module) references public.modules (name),
  constraint symbols_kind_check check (kind in ('class', 'function', 'data'))
);

create table if not exists public.quotes (
  id bigint generated always as identity primary key,
  author text not null,
  text text not null,
  tags text[] not null default '{}'
);
