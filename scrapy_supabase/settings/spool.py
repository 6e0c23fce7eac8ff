"""The settings of the spool: its folder and its maximum size."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
from scrapy.settings import BaseSettings

from scrapy_supabase.settings.folders import project_data
from scrapy_supabase.settings.reader import Reader


class SpoolConfig(msgspec.Struct, frozen=True):
    """The spool's folder (None: no spool), whether its files are synced to disk, and its maximum size in bytes."""

    folder: Path | None = None
    fsync: bool = False
    max_bytes: int = 1024**3


def read_spool(reader: Reader) -> SpoolConfig:
    """Read the settings of the spool."""
    defaults = SpoolConfig()
    return SpoolConfig(
        folder=_folder(reader),
        fsync=reader.flag("SUPABASE_SPOOL_FSYNC", defaults.fsync),
        max_bytes=reader.number(
            "SUPABASE_SPOOL_MAX_BYTES", defaults.max_bytes, int, 1024, "a whole number of bytes, 1024 or more"
        ),
    )


def spool_folder(settings: BaseSettings, environ: Mapping[str, str] | None = None) -> Path | None:
    """Return the folder of the setting or the environment; None: no spool. Raises `ConfigurationError`."""
    reader = Reader(settings, os.environ if environ is None else environ)
    folder = _folder(reader)
    reader.check()
    return folder


def _folder(reader: Reader) -> Path | None:
    if not reader.is_set("SUPABASE_SPOOL_DIR"):
        return project_data("supabase")
    value = reader.raw("SUPABASE_SPOOL_DIR")
    if value is None:
        return None
    if not isinstance(value, (str, Path)) or not str(value):
        return reader.wrong("SUPABASE_SPOOL_DIR", value, "a folder, or None for no spool", None)
    return Path(value).absolute()  # the process may change its working directory during the crawl
