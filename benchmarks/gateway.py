"""Rows per second through the local gateway, compared with the same SQL sent directly by psycopg.

Four clients send chunks of 500 rows of 350 bytes. Each repetition runs both, in alternating order.
"""

from __future__ import annotations

import http.client
import statistics
import threading
import time
from collections.abc import Callable
from functools import partial
from urllib.parse import quote, urlsplit

import psycopg

from benchmarks.common import interleaved, machine, markdown, parse_options, ratios, shown, work_folder, write
from scrapy_supabase.backends.bulk_sql import BulkInsert
from scrapy_supabase.local import LocalSupabase
from scrapy_supabase.local.gateway.database import JsonBody, _JsonBodyDumper

COLUMNS = {"id": "bigint", "url": "text", "title": "text", "price": "numeric", "stock": "integer", "about": "text"}
TABLE = f"""
create table if not exists bench ({", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())}, primary key (id));
grant all on bench to service_role;
"""


def chunks(number: int, rows: int) -> list[bytes]:
    """Return encoded bodies of `rows` rows each, with ascending keys."""
    row = '{{"id":{0},"url":"https://example.com/p/{0}","title":"Product {0}","price":9.99,"stock":3,"about":"{1}"}}'
    about = "x" * 230
    return [
        ("[" + ",".join(row.format(at * rows + n, about) for n in range(rows)) + "]").encode() for at in range(number)
    ]


def over_rest(stack: LocalSupabase, bodies: list[bytes]) -> None:
    """Post the bodies over one connection."""
    connection = http.client.HTTPConnection(urlsplit(stack.url).netloc)
    headers = {
        "apikey": stack.service_role_key,
        "Content-Type": "application/json",
        "Prefer": "return=minimal,resolution=merge-duplicates",
    }
    names = quote(",".join(f'"{name}"' for name in COLUMNS))
    for body in bodies:
        connection.request("POST", f"/rest/v1/bench?columns={names}", body, headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status not in (200, 201):
            raise RuntimeError(f"status {answer.status}")
    connection.close()


def directly(stack: LocalSupabase, bodies: list[bytes]) -> None:
    """Send the same statement over one database connection."""
    insert = BulkInsert("public", "bench", COLUMNS, on_conflict=("id",), count_inserted=True)
    sql = f"WITH s AS ({insert.sql()} RETURNING 1) SELECT count(*), current_setting('pgrst.inserted', true) FROM s"
    with psycopg.connect(stack.db_url, autocommit=True, cursor_factory=psycopg.RawCursor) as connection:
        connection.adapters.register_dumper(JsonBody, _JsonBodyDumper)
        for body in bodies:
            with connection.transaction():
                connection.execute(sql.encode(), [JsonBody(body)])


def rate(
    work: Callable[[LocalSupabase, list[bytes]], None],
    stack: LocalSupabase,
    bodies: list[bytes],
    clients: int,
    rows: int,
) -> float:
    """Run `work` in `clients` threads, each with its share of the bodies; return rows per second."""
    with psycopg.connect(stack.db_url, autocommit=True) as connection:
        connection.execute("truncate bench")
    threads = [threading.Thread(target=work, args=(stack, bodies[n::clients])) for n in range(clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return rows / (time.perf_counter() - started)


def main() -> None:
    """Measure and print; with `--write`, update the docs."""
    options = parse_options(__doc__, repeat=7, rows=40_000, chunk=500, uploads=4)
    bodies = chunks(options.rows // options.chunk, options.chunk)
    with work_folder() as folder, LocalSupabase(folder / "stack") as stack:
        with psycopg.connect(stack.db_url, autocommit=True) as connection:
            connection.execute(TABLE.encode())
        runs = {
            name: partial(rate, work, stack, bodies, options.uploads, len(bodies) * options.chunk)
            for name, work in (("psycopg", directly), ("gateway", over_rest))
        }
        runs["gateway"]()  # warms up its connections
        found = interleaved(runs, options.repeat)
    rows = [[name, shown(rates), shown(ratios(found, name, "psycopg"), ".2f")] for name, rates in found.items()]
    table = markdown(["over", "rows per second: median (range)", "to psycopg: median (range)"], rows)
    print(table)
    if options.write:
        text = f"{__doc__}\n{options.repeat} repetitions; {machine()}.\n\n{table}"
        plot = {"": {name: statistics.median(rates) for name, rates in found.items()}}
        write("gateway", "The local gateway", text, plot, "rows per second (median)")


if __name__ == "__main__":
    main()
