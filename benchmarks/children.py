"""CPU of a crawl whose items have children, compared with one that yields the same rows as separate items.

Items with a reference, too, have the name of a category and get its id; the others have the id.

A parent has 10 children; all rows are dataclasses, yielded by `start()` without downloads. With foreign key, the child
table refers to its parents in the database: separate items then wait for each other, too. CPU seconds are those of the
crawl's process. The crawls take turns.
"""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

from benchmarks.common import (
    Server,
    child,
    interleaved,
    machine,
    markdown,
    parse_options,
    ratios,
    server,
    shown,
    work_folder,
    write,
)

CHILDREN = 10  # per parent
CATEGORIES = 100
KINDS = {
    "children": "items with children",
    "reference": "items with children and a reference",
    "items": "the same rows as separate items",
}
TABLES = """
drop table if exists reviews; drop table if exists books; drop table if exists categories;
create table categories (id int primary key, name text not null unique);
insert into categories select n + 1, 'c' || n from generate_series(0, 99) n;
create table books (url text primary key, title text, price numeric, about text, category_id int{});
create table reviews (book_url text{}, n int, stars int, text text, primary key (book_url, n));
grant all on books, reviews, categories to service_role; notify pgrst, 'reload schema'
"""
CHILD_TABLES = {"reviews": {"table": "reviews", "parent": {"book_url": "url"}, "position": "n"}}


def cpu_seconds(to: Server, over: str, kind: str, key: str, items: int, folder: str) -> float:
    """Return the CPU seconds of a crawl. Raises `RuntimeError` unless all rows are stored."""
    to.run(TABLES.format(" references categories" if key else "", key))
    tables: dict[str, Any] = {"benchmarks.child_crawl.Book": {"table": "books", "children": CHILD_TABLES}}
    if kind == "reference":
        reference = {"table": "categories", "match": {"name": "category"}}
        options = {"table": "books", "references": {"category_id": reference}, "children": CHILD_TABLES}
        tables = {"benchmarks.child_crawl.InCategory": options}
    elif kind == "items":
        tables = {"benchmarks.child_crawl.Book": "books", "benchmarks.child_crawl.Review": "reviews"}
    settings = {
        "ITEM_PIPELINES": {"scrapy_supabase.SupabasePipeline": 300},
        "SUPABASE_URL": to.url,
        "SUPABASE_KEY": to.key,
        "SUPABASE_TABLES": tables,
        "SUPABASE_SPOOL_DIR": folder,
        "LOG_LEVEL": "ERROR",
        **({"SUPABASE_DB_URL": to.db_url} if over == "database" else {}),
    }
    job = {"settings": settings, "count": items, "children": CHILDREN, "kind": kind, "categories": CATEGORIES}
    found = child(job, "benchmarks.child_crawl")
    in_category = "books where category_id = split_part(url, '/', 5)::int % 100 + 1"
    ((stored,),) = to.run(f"select (select count(*) from {in_category}) + (select count(*) from reviews)")
    if stored != items * (1 + CHILDREN):
        raise RuntimeError(f"{kind}: {stored} of {items * (1 + CHILDREN)} rows stored")
    return float(found["cpu"])


def main() -> None:
    """Measure and print; with `--write`, update the docs."""
    options = parse_options(__doc__, repeat=3, items=10_000)
    keys = {"without foreign key": "", "with foreign key": " references books"}
    with work_folder() as folder, server(folder) as to:
        runs = {
            f"{over}/{name}/{kind}": partial(cpu_seconds, to, over, kind, key, options.items, str(folder / "spool"))
            for over in ("rest", "database")
            for name, key in keys.items()
            for kind in KINDS
        }
        found = interleaved(runs, options.repeat)
    lines = []
    plot: dict[str, dict[str, float]] = {}
    for run, values in found.items():
        over, name, kind = run.split("/")
        beside = f"{over}/{name}/items"
        ratio = f"{statistics.median(ratios(found, run, beside)):.2f}" if run != beside else ""
        lines.append([KINDS[kind], over, name, shown(values, ".2f"), ratio])
        plot.setdefault(f"{over}, {name}", {})[KINDS[kind]] = statistics.median(values)
    text = markdown(["crawl", "backend", "database", "CPU seconds", "to separate items"], lines)
    print(text)
    if options.write:
        rows = f"{options.items:,} parents with {options.items * CHILDREN:,} children."
        write("children", "Items with children", f"{__doc__}\n\n{rows}\n\n{text}\n\n{machine()}", plot, "CPU seconds")


if __name__ == "__main__":
    main()
