"""The error of the local Supabase."""

from __future__ import annotations

from scrapy_supabase.errors import SupabaseError


class LocalSupabaseError(SupabaseError):
    """The local Supabase cannot be started or used; the message has the remedy."""
