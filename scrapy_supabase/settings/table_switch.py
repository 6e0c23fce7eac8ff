"""The option `by`: the field, path or function by which items choose their table."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from scrapy.utils.misc import load_object

from scrapy_supabase.messages import sentence
from scrapy_supabase.settings.reader import Reader


def find_chooser(reader: Reader, name: str, by: Any) -> tuple[str, Callable[[Any], Any] | None]:
    """Return the field or path, or the function's name and the function. Problems go to the reader.

    A text with a dot is the import path of a function if its first part can be imported and is no module of Python's
    own library: `site.name` is a path into the item.
    """
    allowed = "the name of a field, a path such as meta.kind, or a function or its import path"
    if callable(by):
        return getattr(by, "__qualname__", repr(by)), by
    if not isinstance(by, str) or not by:
        return reader.wrong(name, by, allowed, ""), None
    package = by.partition(".")[0]
    if package == by or package in sys.stdlib_module_names:
        return by, None
    try:
        found = load_object(by)
    except ModuleNotFoundError as error:
        if error.name == package:
            return by, None
        problem: Exception | None = error
    except Exception as error:  # noqa: BLE001 (a module's own code may raise anything)
        problem = error
    else:
        if callable(found):
            return by, found
        return reader.wrong(name, by, allowed, ""), None
    reader.problems.append(f"{name}: {by} cannot be imported: {sentence(problem)} Use the import path of a function.")
    return by, None
