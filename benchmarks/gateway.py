"""The local gateway against the same SQL sent directly: four clients, 500-row chunks of 350-byte rows.

Each repetition runs both, one after the other, in alternating order; the result is the median of the ratios.
"""

from __future__ import annotations

import argparse
import http.client
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, urlsplit

import psycopg

from scrapy_supabase.backends.bulk_sql import BulkInsert
from scrapy_supabase.local import LocalSupabase
from scrapy_supabase.local.gateway.database import JsonBody, _JsonBodyDumper

CLIENTS = 4
COLUMNS = {"id": "bigint", "url": "text", "title": "text", "price": "numeric", "stock": "integer", "about": "text"}
TABLE = f"""
create table if not exists bench ({", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())}, primary key (id));
grant all on bench to service_role;
"""


def chunks(number: int, rows: int) -> list[bytes]:
    """Pre-encoded bodies with ascending keys."""
    row = '{{"id":{0},"url":"https://example.com/p/{0}","title":"Product {0}","price":9.99,"stock":3,"about":"{1}"}}'
    about = "x" * 230
    return [
        ("[" + ",".join(row.format(at * rows + n, about) for n in range(rows)) + "]").encode() for at in range(number)
    ]


def over_rest(stack: LocalSupabase, bodies: list[bytes]) -> None:
    """Post the bodies over one kept connection."""
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


def seconds(work: Callable[[LocalSupabase, list[bytes]], None], stack: LocalSupabase, bodies: list[bytes]) -> float:
    """Run `work` in `CLIENTS` threads, each with its share of the bodies."""
    with psycopg.connect(stack.db_url, autocommit=True) as connection:
        connection.execute("truncate bench")
    threads = [threading.Thread(target=work, args=(stack, bodies[n::CLIENTS])) for n in range(CLIENTS)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=80, help="chunks a run (default: 80)")
    parser.add_argument("--rows", type=int, default=500, help="rows a chunk (default: 500)")
    parser.add_argument("--repeat", type=int, default=7, help="repetitions (default: 7)")
    options = parser.parse_args()
    bodies = chunks(options.chunks, options.rows)
    total = options.chunks * options.rows
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        with LocalSupabase(Path(folder) / "stack") as stack:
            with psycopg.connect(stack.db_url, autocommit=True) as connection:
                connection.execute(TABLE.encode())
            seconds(over_rest, stack, bodies)
            ratios, rest_rates, direct_rates = [], [], []
            for repetition in range(options.repeat):
                works = [over_rest, directly] if repetition % 2 else [directly, over_rest]
                took = {work: seconds(work, stack, bodies) for work in works}
                rest_rates.append(total / took[over_rest])
                direct_rates.append(total / took[directly])
                ratios.append(rest_rates[-1] / direct_rates[-1])
    print(f"gateway {statistics.median(rest_rates):,.0f} rows/s, psycopg {statistics.median(direct_rates):,.0f} rows/s")
    print(f"ratio {statistics.median(ratios):.2f} (of {', '.join(f'{ratio:.2f}' for ratio in ratios)})")


if __name__ == "__main__":
    main()
