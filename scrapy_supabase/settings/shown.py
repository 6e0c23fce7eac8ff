"""The settings in force as a person may read them: without keys, passwords and addresses of proxies."""

from __future__ import annotations

from urllib.parse import urlsplit

from scrapy_supabase.models import TableSpec
from scrapy_supabase.settings.config import Config


def in_force(config: Config) -> dict[str, str]:
    """Setting → its value, in the order of docs/reference/settings.md. The spool's folder is the record's to say."""
    rows = str(config.chunk_rows)
    if config.most_chunk_rows > config.chunk_rows:
        rows = f"auto: {config.chunk_rows} to {config.most_chunk_rows} rows"
    unknown = config.unknown_columns
    return {
        "SUPABASE_URL": _without_user(config.url) or "not set",
        "SUPABASE_KEY": _kind_of_key(config),
        "SUPABASE_DB_URL": f"hidden; role {config.role}" if config.db_url else "not set",
        "Proxy of the environment": "used; hidden" if config.proxy else "none",
        "SUPABASE_SCHEMA": config.schema,
        **{f"Table {name}": _table(spec) for name, spec in config.tables.items()},
        "SUPABASE_INSERT_FALLBACK": str(config.insert_fallback),
        "SUPABASE_UNKNOWN_COLUMNS": unknown.column or unknown.policy,
        "SUPABASE_RUNS_TABLE": config.runs_table or "none",
        "BATCH_CHUNK_SIZE": rows,
        "BATCH_CHUNK_BYTES": str(config.chunk_bytes),
        "BATCH_FLUSH_INTERVAL": f"{config.flush_interval:g} s" if config.flush_interval else "never",
        "BATCH_RETRY_ATTEMPTS": str(config.attempts),
        "BATCH_RETRY_DELAY": f"{config.delay:g} s",
        "SUPABASE_CONCURRENT_UPLOADS": str(config.concurrent_uploads),
        "SUPABASE_TIMEOUT": f"{config.timeout:g} s",
        "SUPABASE_CLOSE_TIMEOUT": f"{config.close_timeout:g} s",
        "SUPABASE_MAX_OUTAGE": "none" if config.max_outage is None else f"{config.max_outage:g} s",
        "SUPABASE_SPOOL_FSYNC": str(config.spool_fsync),
        "SUPABASE_SPOOL_MAX_BYTES": str(config.spool_max_bytes),
    }


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _kind_of_key(config: Config) -> str:
    key = config.key
    if not key:
        return "none needed"
    kind = next((f"{start}…" for start in ("sb_secret_", "sb_publishable_") if key.startswith(start)), "a legacy JWT")
    return f"hidden: {kind}" if config.db_url else f"hidden: {kind}, role {config.role}"


def _table(spec: TableSpec) -> str:
    said = [str(spec.mode), f"key: {', '.join(spec.on_conflict) or 'primary key'}"]
    if spec.columns:
        said.append("columns: " + ", ".join(f"{field} → {column}" for field, column in spec.columns.items()))
    if spec.stamps:
        said.append("stamps: " + ", ".join(f"{column} = {stamp}" for column, stamp in spec.stamps.items()))
    if spec.snapshots:
        said.append("daily snapshots")
    return "; ".join(said)
