"""The stamp `hash(field, …)`: SHA-256 of the canonical JSON of values, equal for equal values in every run.

The format is documented in docs/reference/settings.md. Keys made of it are stored, so it must never change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from scrapy_supabase.rows.values import encode_row

_encode_sorted = msgspec.json.Encoder(order="sorted").encode


def hash_of(values: Sequence[Any]) -> str | None:
    """Return the hash of values; None if all are NULL. Raises `ItemError` for a value that cannot be encoded."""
    # Decoded once more: numbers of files, which are sent as they are written there, then look like any other.
    plain = msgspec.json.decode(encode_row({"": [_ordered(value) for value in values]})[0])[""]
    if all(value is None for value in plain):
        return None
    return hashlib.sha256(_encode_sorted(plain)).hexdigest()


def _ordered(value: Any) -> Any:
    """Return a value with its sets as sorted lists: the order of a set differs from run to run."""
    if isinstance(value, (set, frozenset)):
        return sorted((_ordered(one) for one in value), key=lambda one: encode_row({"": one})[0])
    if isinstance(value, (list, tuple)):
        return [_ordered(one) for one in value]
    if isinstance(value, Mapping):
        return {name: _ordered(one) for name, one in value.items()}
    return value
