"""The effective settings for display: without keys, passwords and addresses of proxies."""

from __future__ import annotations

from urllib.parse import urlsplit

from scrapy_supabase.schema.table_spec import EmptyText, TableSpec, Unseen
from scrapy_supabase.settings.config import Config
from scrapy_supabase.settings.server import ServerConfig


def effective_settings(config: Config) -> dict[str, str]:
    """Return setting → value, in the order of docs/reference/settings.md, without the spool's folder."""
    server, upload = config.server, config.upload
    rows = str(upload.chunk_rows)
    if upload.grows:
        rows = f"auto: {upload.chunk_rows} to {upload.most_chunk_rows} rows"
    unknown = upload.unknown_columns
    return {
        "SUPABASE_URL": _without_user(server.url) or "not set",
        "SUPABASE_KEY": _kind_of_key(server),
        "SUPABASE_DB_URL": f"hidden; role {server.role}" if server.db_url else "not set",
        "Proxy of the environment": "used; hidden" if server.proxy else "none",
        "SUPABASE_SCHEMA": server.schema,
        **{f"Table {name}": _table(spec) for name, spec in config.tables.specs.items()},
        "SUPABASE_INSERT_FALLBACK": str(upload.insert_fallback),
        "SUPABASE_UNKNOWN_COLUMNS": unknown.column or unknown.policy,
        "SUPABASE_RUNS_TABLE": config.tables.runs_table or "none",
        "SUPABASE_AFTER_CRAWL": config.tables.after_crawl or "none",
        "BATCH_CHUNK_SIZE": rows,
        "BATCH_CHUNK_BYTES": str(upload.chunk_bytes),
        "BATCH_FLUSH_INTERVAL": f"{upload.flush_interval:g} s" if upload.flush_interval else "never",
        "BATCH_RETRY_ATTEMPTS": str(upload.attempts),
        "BATCH_RETRY_DELAY": f"{upload.delay:g} s",
        "SUPABASE_CONCURRENT_UPLOADS": str(upload.concurrency),
        "SUPABASE_TIMEOUT": f"{server.timeout:g} s",
        "SUPABASE_CLOSE_TIMEOUT": f"{upload.close_timeout:g} s",
        "SUPABASE_MAX_OUTAGE": "none" if upload.max_outage is None else f"{upload.max_outage:g} s",
        "SUPABASE_SPOOL_FSYNC": str(config.spool.fsync),
        "SUPABASE_SPOOL_MAX_BYTES": str(config.spool.max_bytes),
    }


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _kind_of_key(server: ServerConfig) -> str:
    key = server.key
    if not key:
        return "none needed"
    kind = next((f"{start}…" for start in ("sb_secret_", "sb_publishable_") if key.startswith(start)), "a legacy JWT")
    return f"hidden: {kind}" if server.db_url else f"hidden: {kind}, role {server.role}"


def _table(spec: TableSpec) -> str:
    parts = [str(spec.mode), f"key: {', '.join(spec.on_conflict) or 'primary key'}"]
    if spec.columns:
        parts.append("columns: " + ", ".join(f"{field} → {column}" for field, column in spec.columns.items()))
    if spec.stamps:
        parts.append("stamps: " + ", ".join(f"{column} = {stamp}" for column, stamp in spec.stamps.items()))
    if spec.constants:
        parts.append("constants: " + ", ".join(f"{column} = {value!r}" for column, value in spec.constants.items()))
    if spec.empty_text is not EmptyText.KEEP:
        parts.append(f"empty_text: {spec.empty_text}")
    if spec.skip_none:
        parts.append("none: skip")
    parts += [f"{one.column}: {one.id} of {one.table} by {', '.join(one.match)}" for one in spec.writing.references]
    if spec.json_column:
        parts.append(f"json_column: {spec.json_column}")
    if spec.routed_by:
        parts.append(f"by: {spec.routed_by}")
    if (parent := spec.writing.parent) is not None:
        links = [f"{one} = {other}" for one, other in zip(parent.columns, parent.referenced, strict=True)]
        parts.append(f"children of {parent.table}: {', '.join(links)}")
    if spec.position:
        parts.append(f"position: {spec.position}")
    if spec.snapshots:
        parts.append("daily snapshots")
    if spec.unseen is not None:
        parts.append("replace" if spec.unseen.parent_column else f"unseen: {_unseen(spec.unseen)}")
    return "; ".join(parts)


def _unseen(unseen: Unseen) -> str:
    changes = ", ".join(f"{column} = {value}" for column, value in {**unseen.constants, **unseen.stamps}.items())
    where = ", ".join(f"{column} = {value!r}" for column, value in unseen.where.items())
    return f"{changes or 'deleted'}{f' where {where}' if where else ''}, at most {unseen.at_most:.0%}"
