"""CSV: its delimiter, its header, its rows."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterator
from itertools import islice

import msgspec

from scrapy_supabase.messages import pluralize, sentence
from scrapy_supabase.rows.file_parts import BadLine, Cells, FileError

logger = logging.getLogger(__name__)

_LONGEST_CELL = 2**31 - 1  # the csv module's own limit is 128 KiB
_DELIMITERS = (",", ";", "\t", "|")


def read_csv(text: io.TextIOBase, name: str, delimiter: str, *, keep_empty: bool) -> Iterator[Cells | BadLine]:
    """Yield the rows of a CSV file. `keep_empty`: keep empty cells as empty texts, not NULL. Raises `FileError`."""
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader(text, strict=True, delimiter=delimiter)
    names: list[str] | None = None
    try:
        for cells in reader:
            if not cells:
                continue
            if names is None:
                names = _header(cells, name)
            elif len(cells) != len(names):
                problem = f"it has {pluralize(len(cells), 'cell')}, the header has {len(names)}"
                yield BadLine(msgspec.json.encode(cells), f"{name}, line {reader.line_num}", problem)
            else:
                filled = cells if keep_empty else [cell or None for cell in cells]
                values = dict(zip(names, filled, strict=True))
                values.pop("", None)
                yield Cells(values, f"{name}, line", reader.line_num)
    except UnicodeDecodeError as error:
        after = f", after line {reader.line_num}" if reader.line_num else ""
        raise FileError(
            f"{name}{after}: the text is not {error.encoding} ({error.reason}).",
            "Name its encoding, such as --encoding latin-1.",
        ) from error
    except csv.Error as error:
        raise FileError(f"{name}, line {reader.line_num}: {sentence(error)}", "Fix the line.") from error


def sniff_delimiter(sample: str) -> str:
    """Return the delimiter of a CSV file that starts with `sample`: a comma, unless another one splits it better.

    Another one does if it splits the header into more cells than a comma, and the next line into as many.
    """
    found, most = ",", 0
    for delimiter in _DELIMITERS:
        try:
            rows = list(islice(csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter), 3))
        except csv.Error:
            continue
        cells = [len(row) for row in rows if row]
        # The last row of three, or of the sample, may be cut off.
        if cells and cells[0] > max(most, 1) and (len(rows) < 3 or cells[0] == cells[1]):
            found, most = delimiter, cells[0]
    return found


def _header(cells: list[str], name: str) -> list[str]:
    """Return the columns' names; values of a column without a name are left out. Raises `FileError`."""
    for cell in cells:
        if cell != cell.strip() and cell.strip():
            raise FileError(
                f"{name}: the name {cell!r} in the header has blanks around it.",
                f"Did you mean {cell.strip()!r}? Remove the blanks, in the cells of the column, too.",
            )
    names = [cell.strip() for cell in cells]
    if (twice := next((cell for cell in names if cell and names.count(cell) > 1), None)) is not None:
        raise FileError(f"{name}: two columns in the header have the same name, {twice!r}.", "Rename one.")
    nameless = [str(number) for number, cell in enumerate(names, 1) if not cell]
    if len(nameless) == len(names):
        raise FileError(f"{name}: the header has no names.", "The first line of a CSV file names its columns.")
    if nameless:
        logger.warning(
            "%s: column %s has no name in the header and is left out. pandas writes its index like that; index=False "
            "omits it.",
            name,
            ", ".join(nameless),
        )
    return names
