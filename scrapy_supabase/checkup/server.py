"""Checks of the server: key, answer, clock and distance."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from scrapy_supabase.backends.base import Backend, ServerFacts, Write
from scrapy_supabase.checkup.finding import Finding, error, ok, warning
from scrapy_supabase.errors import FatalError, ServerError, TransientError
from scrapy_supabase.messages import pluralize
from scrapy_supabase.schema.table_spec import TableSpec
from scrapy_supabase.settings.config import Config
from scrapy_supabase.settings.server import claims_of
from scrapy_supabase.settings.upload import MOST_ROWS, UploadConfig

_SKEW = 30.0  # seconds that clocks may differ; PostgREST allows 30 for a token's times
_NO_YEAR = 253402300800  # 10000-01-01
_SOON = 7 * 24 * 3600.0
_PROBES = 5
_ENOUGH = 10_000  # rows per second, more than a crawl yields (docs/benchmarks/peers.md)
_SIZES = (100, 200, 500, MOST_ROWS)

_PUBLIC = (
    "It can store only rows that grants and row-level policies allow. On your own machines, use the secret key "
    "(sb_secret_…, or service_role)."
)
_LEGACY = (
    "Supabase plans to end legacy keys around the end of 2026. Create a secret key (sb_secret_…) in the dashboard: "
    "Project Settings > API keys."
)
_NEW_KEY = "Set SUPABASE_KEY to a valid key from the project's API settings."


def check_key(config: Config, now: float) -> Iterator[Finding]:
    """Check kind, role and expiry of the key. `now` is the time in seconds since the epoch."""
    if config.server.db_url:
        yield ok("key", f"not needed: SUPABASE_DB_URL connects as {config.server.role}")
        return
    key = config.server.key
    claims = claims_of(key)
    if claims is not None:
        yield from _check_token(claims, now, is_hosted=config.server.host.endswith(".supabase.co"))
    elif key.startswith("sb_secret_"):
        yield ok("key", "a secret key (sb_secret_…), role service_role")
    elif key.startswith("sb_publishable_"):
        yield warning("key", "a publishable key (sb_publishable_…), role anon", _PUBLIC)
    else:
        yield warning("key", "unknown kind of key: neither a JWT nor sb_secret_… or sb_publishable_…", _NEW_KEY)


def _check_token(claims: dict[str, Any], now: float, is_hosted: bool) -> Iterator[Finding]:
    role, expires = str(claims.get("role", "")), claims.get("exp")
    described = f"{'a legacy key (JWT)' if is_hosted else 'a JWT'}, {f'role {role}' if role else 'no role'}"
    if isinstance(expires, (int, float)) and 0 <= expires < _NO_YEAR:
        until = datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%d %H:%M UTC")
        if expires <= now:
            yield error("key", f"{described}, expired on {until}", _NEW_KEY)
            return
        if expires - now < _SOON:
            yield warning("key", f"the key expires on {until}", _NEW_KEY)
        described += f", valid until {until}"
    if role == "service_role" and is_hosted:
        yield warning("key", described, _LEGACY)
    elif role == "service_role":
        yield ok("key", described)
    elif role == "anon":
        yield warning("key", described, _PUBLIC)
    else:
        yield warning(
            "key",
            described,
            f"It can store only rows that grants and row-level policies of role {role or 'anon'} allow.",
        )


def check_server(config: Config, facts: ServerFacts, now: float) -> Iterator[Finding]:
    """Report the server's name, and compare its clock with this machine's, which shows `now`."""
    described = f"{facts.name.strip()} ({config.server.address})".strip()
    yield ok("server", f"{config.server.host} answers: {described}")
    if facts.clock is None:
        return
    skew = now - facts.clock.timestamp()
    if abs(skew) > _SKEW:
        yield warning(
            "server",
            f"this machine's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the server's",
            "Synchronize this machine's clock (NTP): stamps such as 'now' use it, keys expire by the server's clock.",
        )
    else:
        yield ok("server", "the clocks agree")


def no_server(config: Config, failed: ServerError) -> Finding:
    """Return the finding for an error that concerns no table."""
    if isinstance(failed, TransientError):
        name = "SUPABASE_DB_URL" if config.server.db_url else "SUPABASE_URL"
        remedy = f"Check {name}, this machine's network, and in the dashboard that the project is not paused."
        if failed.busy:
            remedy = "Run the check again later. A crawl waits for a busy server (SUPABASE_OPEN_TIMEOUT)."
            return error("server", f"{config.server.host} is busy ({config.server.address}): {failed}", remedy)
        text = f"no usable answer from {config.server.host} ({config.server.address}): {failed}"
        return error("server", text, failed.remedy or remedy)
    remedy, subject = "", "server"
    if isinstance(failed, FatalError):
        remedy, subject = failed.remedy, "key" if failed.reason == "supabase_unauthorized" else "server"
    return error(subject, failed.answer, remedy)


def check_distance(config: Config, backend: Backend, spec: TableSpec) -> Iterator[Finding]:
    """Measure a request that writes nothing, and check that the chunk size suits its round trip."""
    probe = Write(spec.name, (), b"[]", spec.mode, spec.on_conflict)
    times = []
    for _ in range(_PROBES):
        started = time.perf_counter()
        backend.write(probe)
        times.append(time.perf_counter() - started)
    seconds = statistics.median(times)
    upload, uploads = config.upload, config.upload.concurrency
    size = next((size for size in _SIZES if uploads * size / seconds >= _ENOUGH), MOST_ROWS)
    text = f"a round trip takes {1000 * seconds:.1f} ms (median of {_PROBES})"
    rate = uploads * upload.chunk_rows / seconds
    if upload.most_chunk_rows >= size:
        yield ok("server", f"{text}; BATCH_CHUNK_SIZE = {_size_of(upload)} is fine")
    else:
        yield warning(
            "server",
            f"{text}; {pluralize(uploads, 'concurrent upload')} of {pluralize(upload.chunk_rows, 'row')} each can "
            f"store at most {pluralize(round(rate), 'row')} per second",
            f"If the crawl yields more, set BATCH_CHUNK_SIZE to {size} or to 'auto'.",
        )


def _size_of(upload: UploadConfig) -> str:
    return "'auto'" if upload.grows else str(upload.chunk_rows)
