"""A Supabase on this machine: a real PostgreSQL and the REST API in front of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scrapy_supabase.local.errors import LocalSupabaseError
    from scrapy_supabase.local.stack import LocalSupabase

__all__ = ["LocalSupabase", "LocalSupabaseError"]

_HOMES = {"LocalSupabase": "stack", "LocalSupabaseError": "errors"}


def __getattr__(name: str) -> Any:
    # The gateway is a process of its own below this package and must start fast: it must not import the stack.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
