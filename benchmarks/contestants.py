"""The contestants, each written as its documentation recommends. Run as a script, it runs one of them.

Standard input has the job, a JSON object: `contestant`, `count` (rows), `chunk` (rows per request), `uploads`
(concurrent), the server's `url`, `key` and `db_url`; with `bad` = n, one row in n is bad. Prints seconds and peak
memory in MB.
"""

from __future__ import annotations

import http.client
import json
import logging
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec
import psycopg

from benchmarks.common import item

Job = dict[str, Any]
COLUMNS = {"id": "bigint", "url": "text", "title": "text", "price": "numeric", "stock": "integer", "about": "text"}
NAMES = ", ".join(COLUMNS)
SET = ", ".join(f"{name} = excluded.{name}" for name in COLUMNS)


def items(job: Job) -> Iterator[dict[str, Any]]:
    """Generate the rows."""
    bad = job.get("bad")
    for number in range(job["count"]):
        made = item(number)
        if bad and number % bad == bad // 2:
            made["stock"] = "many"
        yield made


def chunks(job: Job) -> list[list[dict[str, Any]]]:
    """Return the rows in chunks; called before the clock starts."""
    every, size = list(items(job)), job["chunk"]
    return [every[start : start + size] for start in range(0, len(every), size)]


def bodies(job: Job) -> list[bytes]:
    """Return each chunk as JSON, of the rows in `file` if the job names one; called before the clock starts."""
    if path := job.get("file"):
        lines, size = Path(path).read_bytes().splitlines(), job["chunk"]
        return [b"[%b]" % b",".join(lines[start : start + size]) for start in range(0, len(lines), size)]
    return [msgspec.json.encode(chunk) for chunk in chunks(job)]


def timed(work: Callable[[], object]) -> float:
    """Call `work` and return its wall time in seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_threads(work: Callable[[list[Any]], None], parts: list[Any], number: int) -> float:
    """Run `work` in `number` threads, each with its share of `parts`; return the seconds they take."""
    threads = [threading.Thread(target=work, args=(parts[n::number],)) for n in range(number)]

    def run() -> None:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return timed(run)


def client(job: Job) -> Any:
    """Return a client of supabase-py."""
    from supabase import create_client

    return create_client(job["url"], job["key"])


# Hand-written pipelines


def row_by_row(job: Job) -> float:
    """One blocking insert per item."""
    table, rows = client(job), list(items(job))

    def run() -> None:
        for row in rows:
            table.table("bench").insert(row).execute()

    return timed(run)


def before(job: Job) -> float:
    """Inserts of 50 rows, the columns read before each, no retry, one thread."""
    supabase, parts = client(job), chunks({**job, "chunk": 50})

    def run() -> None:
        for part in parts:
            known = supabase.table("bench").select("*").limit(1).execute().data
            columns = set(known[0]) if known else set(part[0])
            rows = [{name: value for name, value in row.items() if name in columns} for row in part]
            try:
                supabase.table("bench").insert(rows).execute()
            except Exception as error:  # noqa: BLE001 (as such pipelines do)
                logging.getLogger(__name__).error("chunk failed: %s", error)  # noqa: TRY400

    return timed(run)


def after(job: Job) -> float:
    """Upserts of 100 rows, the columns read once, one thread."""
    supabase, parts = client(job), chunks({**job, "chunk": 100})

    def run() -> None:
        known = supabase.table("bench").select("*").limit(1).execute().data
        columns = set(known[0]) if known else set(parts[0][0])
        for part in parts:
            rows = [{name: value for name, value in row.items() if name in columns} for row in part]
            try:
                supabase.table("bench").upsert(rows).execute()
            except Exception as error:  # noqa: BLE001
                logging.getLogger(__name__).error("chunk failed: %s", error)  # noqa: TRY400

    return timed(run)


def supabase_py(job: Job) -> float:
    """`upsert(chunk).execute()`, one thread."""
    supabase, parts = client(job), chunks(job)

    def run() -> None:
        for part in parts:
            supabase.table("bench").upsert(part).execute()

    return timed(run)


# This package


def ours_rest(job: Job) -> float:
    """The engine from dicts to responses, over REST."""
    return _engine(job, job["url"], None)


def ours_database(job: Job) -> float:
    """The engine from dicts to responses, over database connections."""
    return _engine(job, job["url"], job["db_url"])


def ours_rest_encoded(job: Job) -> float:
    """The engine from encoded rows, over REST: comparable with the wire limit."""
    return _engine(job, job["url"], None, encoded=True)


def ours_database_encoded(job: Job) -> float:
    """The engine from encoded rows, over database connections."""
    return _engine(job, job["url"], job["db_url"], encoded=True)


def load_file(job: Job) -> float:
    """What `load` does with a file of JSON Lines, without the start of its process and the check of the table."""
    from tqdm import tqdm

    from scrapy_supabase.assembly import new_schema, new_spool
    from scrapy_supabase.commands.load import FileUpload
    from scrapy_supabase.monitoring.run import Run
    from scrapy_supabase.rows.files import RowFile
    from scrapy_supabase.script import Upload

    config = _config(job, job["url"], None)
    run, schema = Run("bench"), new_schema(config)
    spool = new_spool(config, schema, run, appends=True)
    with Upload(config, run, schema, spool) as upload, tqdm(disable=True) as bar:
        upload.begin()
        started = time.perf_counter()
        with closing(RowFile(job["file"])) as file:
            FileUpload(upload, schema, "bench", bar).add(file)
        upload.finish()
        seconds = time.perf_counter() - started
    if not upload.result:
        raise RuntimeError(str(upload.result))
    return seconds


def _config(job: Job, url: str, db_url: str | None) -> Any:
    from scrapy_supabase.schema.table_spec import TableSpec
    from scrapy_supabase.settings.config import Config
    from scrapy_supabase.settings.server import ServerConfig
    from scrapy_supabase.settings.spool import SpoolConfig
    from scrapy_supabase.settings.tables import TablesConfig
    from scrapy_supabase.settings.upload import UploadConfig

    return Config(
        server=ServerConfig(url, job["key"], db_url),
        tables=TablesConfig({None: TableSpec("bench")}),
        upload=UploadConfig(
            chunk_rows=job["chunk"],
            most_chunk_rows=job["chunk"],
            flush_interval=0.0,
            concurrency=job["uploads"],
        ),
        spool=SpoolConfig(Path(job["spool"]) if job.get("spool") else None),
    )


def _engine(job: Job, url: str, db_url: str | None, *, encoded: bool = False) -> float:
    from scrapy_supabase.assembly import new_schema, new_spool
    from scrapy_supabase.monitoring.run import Run
    from scrapy_supabase.rows.builder import RowBuilder
    from scrapy_supabase.script import Upload

    config = _config(job, url, db_url)
    run, schema = Run("bench"), new_schema(config)
    spool = new_spool(config, schema, run)
    with Upload(config, run, schema, spool) as upload:
        upload.begin()
        if encoded:
            builder = RowBuilder(config.tables.routes, schema, {}, lambda _: None)
            rows = [builder.build(row) for row in items(job)]
            started = time.perf_counter()
            for row in rows:
                upload.add(row)
        else:
            source = items(job) if job.get("generated") else list(items(job))
            started = time.perf_counter()
            upload.build_and_add(source)
        upload.finish()
        seconds = time.perf_counter() - started
    result = upload.result
    if result.error or result.left or (result.failed and not job.get("bad")):
        raise RuntimeError(str(result))
    return seconds


# Limits


def wire_limit(job: Job) -> float:
    """http.client posting prepared bodies."""
    netloc = urlsplit(job["url"]).netloc
    headers = {
        "apikey": job["key"],
        "Authorization": f"Bearer {job['key']}",
        "Content-Type": "application/json",
        "Prefer": "return=minimal,resolution=merge-duplicates",
    }
    target = f"/rest/v1/bench?columns={quote(','.join(COLUMNS))}"

    def work(mine: list[bytes]) -> None:
        connection = http.client.HTTPConnection(netloc)
        for body in mine:
            connection.request("POST", target, body, headers)
            answer = connection.getresponse()
            answer.read()
            if answer.status not in (200, 201):
                raise RuntimeError(f"status {answer.status}")
        connection.close()

    return in_threads(work, bodies(job), job["uploads"])


def bare_statement(job: Job) -> float:
    """The database backend's statement in a plain psycopg loop."""
    typed = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
    sql = (
        f"insert into bench ({NAMES}) select {NAMES} from json_to_recordset(%s::json) as r({typed}) "
        f"on conflict (id) do update set {SET}"
    ).encode()

    def work(mine: list[str]) -> None:
        with psycopg.connect(job["db_url"], autocommit=True) as connection:
            for body in mine:
                connection.execute(sql, [body])

    return in_threads(work, [body.decode() for body in bodies(job)], job["uploads"])


def copied_lines(job: Job) -> list[bytes]:
    """Return each chunk in COPY's text format; called before the clock starts."""
    return ["".join("\t".join(map(str, row.values())) + "\n" for row in chunk).encode() for chunk in chunks(job)]


def copy(job: Job) -> float:
    """COPY, one transaction per chunk, without conflict handling."""

    def work(mine: list[bytes]) -> None:
        with psycopg.connect(job["db_url"], autocommit=True) as connection:
            for lines in mine:
                with connection.cursor().copy(f"copy bench ({NAMES}) from stdin".encode()) as stream:
                    stream.write(lines)

    return in_threads(work, copied_lines(job), job["uploads"])


def copy_of_json(job: Job) -> float:
    """COPY of encoded rows, as the spool has them: each must be decoded and rewritten."""

    def work(mine: list[bytes]) -> None:
        decode = msgspec.json.Decoder(list[dict[str, Any]]).decode
        with psycopg.connect(job["db_url"], autocommit=True) as connection:
            for body in mine:
                rows = decode(body)
                lines = "".join("\t".join([str(row[name]) for name in COLUMNS]) + "\n" for row in rows)
                with connection.cursor().copy(f"copy bench ({NAMES}) from stdin".encode()) as stream:
                    stream.write(lines)

    return in_threads(work, bodies(job), job["uploads"])


def copy_then_upsert(job: Job) -> float:
    """COPY into a temporary table followed by an upsert, one transaction per chunk."""
    upsert = f"insert into bench ({NAMES}) select {NAMES} from arrived on conflict (id) do update set {SET}"

    def work(mine: list[bytes]) -> None:
        with psycopg.connect(job["db_url"], autocommit=True) as connection:
            connection.execute("create temp table arrived (like bench) on commit delete rows")
            for lines in mine:
                with connection.transaction():
                    with connection.cursor().copy(f"copy arrived ({NAMES}) from stdin".encode()) as stream:
                        stream.write(lines)
                    connection.execute(upsert.encode())

    return in_threads(work, copied_lines(job), job["uploads"])


CONTESTANTS: dict[str, Callable[[Job], float]] = {
    function.__name__: function
    for function in (
        *(row_by_row, before, after, supabase_py),
        *(ours_rest, ours_rest_encoded, ours_database, ours_database_encoded),
        *(load_file, wire_limit, bare_statement, copy, copy_of_json, copy_then_upsert),
    )
}


def main() -> None:
    """Run one contestant and print seconds and peak memory."""
    logging.disable(logging.CRITICAL)
    job = json.load(sys.stdin)
    seconds = CONTESTANTS[job["contestant"]](job)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "memory": memory}))


if __name__ == "__main__":
    main()
