"""A Supabase on this machine: a real PostgreSQL and the REST API in front of it."""

from scrapy_supabase.local.errors import LocalSupabaseError
from scrapy_supabase.local.stack import LocalSupabase

__all__ = ["LocalSupabase", "LocalSupabaseError"]
