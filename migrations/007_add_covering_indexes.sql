-- Covering indexes: the queries of the README are answered from an index alone (an index-only scan), without a look at
-- the tables, whose rows are wide. A test proves with EXPLAIN that each is used. Text without a limit is left out: an
-- index entry must stay below 2,704 bytes.

-- How many classes, functions and data a snapshot has.
create index if not exists symbols_by_kind on public.symbols (snapshot_date, snapshot_version, kind) include (module);

-- The history of one symbol.
create index if not exists symbols_history
  on public.symbols (module, name, snapshot_date, snapshot_version) include (kind);

-- The largest modules, and what they are written in.
create index if not exists modules_by_size
  on public.modules (snapshot_date, snapshot_version, symbol_count desc) include (name, programming_language);

-- Who was quoted lately.
create index if not exists quotes_by_hour on public.quotes (collected_at_hour) include (author);
