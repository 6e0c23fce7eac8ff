-- Covering indexes: they answer the queries of the README alone (an index-only scan), without reading the tables, whose
-- rows are wide. A test checks with EXPLAIN that each index is used. Text without a length limit is not included: an index
-- entry must stay below 2,704 bytes.

-- The number of classes, functions and data in a snapshot.
create index if not exists symbols_by_kind on public.symbols (snapshot_date, snapshot_version, kind) include (module);

-- The history of one symbol.
create index if not exists symbols_history
  on public.symbols (module, name, snapshot_date, snapshot_version) include (kind);

-- The largest modules and their programming language.
create index if not exists modules_by_size
  on public.modules (snapshot_date, snapshot_version, symbol_count desc) include (name, programming_language);

-- The authors quoted recently.
create index if not exists quotes_by_hour on public.quotes (collected_at_hour) include (author);
