"""What `load` and `replay` show: a bar while they run, a summary at the end."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scrapy_supabase.spool_file import REJECTED
from scrapy_supabase.upload import UploadResult

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
    print(f"{result.uploaded} rows uploaded, {result.failed} rejected, {result.left} left, in {result.seconds:.1f} s.")
    if result.cleaned:
        print(f"{result.cleaned} rows lost characters that PostgreSQL cannot store (NUL, lone surrogates).")
    if result.error is not None:
        print(f"It ended early ({result.error.reason}): {result.error}", file=sys.stderr)
    if result.left:
        print(f"{result.left} rows are in {folder}. Again: scrapy supabase replay", file=sys.stderr)
    if result.failed:
        reasons = ", ".join(f"{number} x {code} ({table})" for (table, code), number in result.reasons.most_common())
        print(f"Rejected: {reasons}. They are in {folder / REJECTED}, with the reasons.", file=sys.stderr)
