"""The setting that lets crawls create tables, and the connection by which they do so."""

from __future__ import annotations

from dataclasses import dataclass, field

from scrapy_supabase.settings.reader import Reader
from scrapy_supabase.settings.server import LOCAL, ServerConfig, read_db_url


@dataclass(frozen=True, slots=True)
class CreateConfig:
    """Whether tables and columns are created, and the connection string for that; None: there is none."""

    enabled: bool = False
    db_url: str | None = field(default=None, repr=False)


def read_create(reader: Reader, server: ServerConfig) -> CreateConfig:
    """Read the setting. The connection string may be set for this alone, while rows go over the REST API."""
    if not reader.flag("SUPABASE_CREATE_TABLES", False):
        return CreateConfig()
    if server.db_url or LOCAL in (server.url, server.db_url):
        return CreateConfig(True, server.db_url or LOCAL)
    return CreateConfig(True, read_db_url(reader))
