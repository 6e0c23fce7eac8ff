"""Modules of POSIX that a local Supabase needs. On Windows they are None, and `LocalSupabase` raises an error."""

from __future__ import annotations

import os
from typing import Any

fcntl: Any
pwd: Any
try:
    import fcntl
    import pwd
except ImportError:
    fcntl = pwd = None

__all__ = ["fcntl", "is_root", "pwd"]


def is_root() -> bool:
    """Return whether this process runs as root, as PostgreSQL refuses to."""
    return hasattr(os, "geteuid") and os.geteuid() == 0
