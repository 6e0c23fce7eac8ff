"""What `load` and `replay` show: a bar while they run, a summary at the end."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scrapy_supabase.messages import kept_rows, pluralize, rejected_rows
from scrapy_supabase.monitoring.upload_result import UploadResult
from scrapy_supabase.spool.reject_file import REJECTED

if TYPE_CHECKING:
    from tqdm import tqdm


@contextmanager
def progress_of(what: str, total: int | None, unit: str) -> Iterator[tqdm[Any]]:
    """A bar on standard error where that is a terminal; warnings go above it."""
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s: %(message)s")
    with (
        logging_redirect_tqdm(),
        tqdm(
            desc=what,
            total=total,
            unit=unit,
            unit_scale=unit == "B",
            mininterval=0.5,
            disable=not sys.stderr.isatty(),
        ) as bar,
    ):
        yield bar


def said_how_it_went(result: UploadResult, folder: Path) -> None:
    """Say what became of the rows, and where those are that were not uploaded."""
    uploaded = pluralize(result.uploaded, "row")
    older = f", {result.superseded} superseded by a newer row of the same key" if result.superseded else ""
    print(f"{uploaded} uploaded{older}, {result.failed} rejected, {result.left} left, in {result.seconds:.1f} s.")
    if result.cleaned:
        cleaned = pluralize(result.cleaned, "row")
        print(f"Characters that PostgreSQL cannot store (NUL, lone surrogates) were left out of {cleaned}.")
    if result.left:
        print(kept_rows(result.left, folder), file=sys.stderr)
    if result.failed:
        print(rejected_rows(result.failed, result.reasons, folder / REJECTED), file=sys.stderr)
