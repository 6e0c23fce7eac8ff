"""scrapy supabase local: run a Supabase on this machine until Ctrl-C.

Prints NAME=value lines that a shell can source, then `ready`:
SUPABASE_URL, SUPABASE_KEY (service_role), SUPABASE_ANON_KEY,
SUPABASE_DB_URL, SUPABASE_JWT_SECRET.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from scrapy_supabase.commands.sql import run_query
from scrapy_supabase.settings.folders import local_folder


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--data-dir", metavar="DIR", help="folder for its data (default: .scrapy/supabase-local)")
    parser.add_argument(
        "--port", type=_port, default=54321, help="port of the REST API (default: 54321; 0: any free port)"
    )
    parser.add_argument("--migrations", metavar="DIR", help="folder of numbered .sql files to apply first")
    parser.add_argument(
        "--schemas",
        metavar="NAMES",
        default="public",
        help="schemas that the REST API exposes, separated by commas; the first one is used by default "
        "(default: public)",
    )
    parser.add_argument("--sql", metavar="QUERY", help="run a query on it, print the rows and exit")


def run(settings: Any, opts: argparse.Namespace) -> int:  # noqa: ARG001
    """Run it until a signal comes, or run the query of `--sql`; return the exit code."""
    from scrapy_supabase.local import LocalSupabase

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    folder = Path(opts.data_dir) if opts.data_dir else local_folder()
    migrations = opts.migrations or ()
    if opts.sql is not None:
        with LocalSupabase(folder, migrations=migrations, join=True) as stack:
            return run_query(stack.db_url, opts.sql)
    # Set before the start, so that a signal during the start is not lost.
    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    schemas = [name.strip() for name in opts.schemas.split(",")]
    with LocalSupabase(folder, migrations=migrations, port=opts.port, schemas=schemas) as stack:
        for name, value in {
            "SUPABASE_URL": stack.url,
            "SUPABASE_KEY": stack.service_role_key,
            "SUPABASE_ANON_KEY": stack.anon_key,
            "SUPABASE_DB_URL": stack.db_url,
            "SUPABASE_JWT_SECRET": stack.jwt_secret,
        }.items():
            print(f"{name}={shlex.quote(value)}")
        print("# ready", flush=True)  # a shell can source all lines
        print("ready=1", flush=True)  # for programs that wait for a line that begins with `ready`, as it once did
        done.wait()
    return 0


def _port(text: str) -> int:
    number = int(text) if text.isdigit() else -1
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: it must be a number from 0 (any free port) to 65535")
    return number
