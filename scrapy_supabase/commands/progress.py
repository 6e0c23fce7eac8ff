"""Progress bar and summary of `load` and `replay`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scrapy_supabase.messages import Examples, kept_rows, pluralize, rejected_rows
from scrapy_supabase.monitoring.upload_result import UploadResult
from scrapy_supabase.spool.reject_file import REJECTED

if TYPE_CHECKING:
    from tqdm import tqdm


@contextmanager
def progress_bar(label: str, total: int | None, unit: str) -> Iterator[tqdm[Any]]:
    """Yield a bar, shown if standard error is a terminal; log warnings above it."""
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s: %(message)s")
    with (
        logging_redirect_tqdm(),
        tqdm(
            desc=label,
            total=total,
            unit=unit,
            unit_scale=unit == "B",
            mininterval=0.5,
            disable=not sys.stderr.isatty(),
        ) as bar,
    ):
        yield bar


def print_summary(result: UploadResult, folder: Path, examples: Examples) -> None:
    """Print the counts of rows, and where rows that were not uploaded are, with `examples` of reasons."""
    uploaded = pluralize(result.uploaded, "row")
    older = f", {result.superseded} superseded by a newer row of the same key" if result.superseded else ""
    older += f", {result.not_found} not stored (their key is not in the table)" if result.not_found else ""
    print(f"{uploaded} uploaded{older}, {result.failed} rejected, {result.left} left, in {result.seconds:.1f} s.")
    if result.cleaned:
        cleaned = pluralize(result.cleaned, "row")
        print(f"Characters that PostgreSQL cannot store (NUL, lone surrogates) were removed from {cleaned}.")
    if result.left:
        print(kept_rows(result.left, folder), file=sys.stderr)
    if result.failed:
        print(rejected_rows(result.failed, result.reasons, folder / REJECTED, examples), file=sys.stderr)
