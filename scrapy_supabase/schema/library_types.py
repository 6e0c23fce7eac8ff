"""Types of other libraries, and rarer types of Python: how their values are stored, and which cannot be stored.

Types are recognized by module and name, since importing pandas, numpy or pydantic would slow down every crawl, and few
use them. A subclass is treated as its nearest base class that is listed here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NoReturn

import msgspec

_FINER_THAN_PYTHON = ("[ns]", "[ps]", "[fs]", "[as]")  # units of numpy's times; Python's and PostgreSQL's is [us]


class NoValueError(TypeError):
    """An object that no column can store. `remedy` is a sentence that says what to do."""

    def __init__(self, type_name: str, remedy: str) -> None:
        super().__init__(f"an object of type {type_name} cannot be stored")
        self.type_name = type_name
        self.remedy = remedy


class LibraryType(msgspec.Struct, frozen=True):
    """How values of a type are stored. `plain` converts them to Python's types; `sql_type` is the column's, or ""."""

    plain: Callable[[Any], Any]
    sql_type: str = ""


@lru_cache(maxsize=1024)
def library_type(kind: type[Any]) -> LibraryType | None:
    """Return the `LibraryType` of type `kind`; None for types that are not listed below."""
    for base in kind.__mro__:
        known = _TYPES.get((base.__module__.partition(".")[0], base.__qualname__))
        if known is not None:
            return known
    return None


def _missing(_: Any) -> None:
    return None


def _number(value: Any) -> Any:
    """Return a numpy scalar as a Python value. Raises `TypeError` if Python has no equal value."""
    plain = value.item()
    if value.dtype.kind in "mM" and type(plain) is int:  # a unit or a value that Python's types do not have
        if not value.dtype.str.endswith(_FINER_THAN_PYTHON):
            raise TypeError(f"Python's date and time types have no value equal to {value!r}.")
        plain = value.astype(f"{value.dtype.kind}8[us]").item()
    if type(plain) is type(value):  # longdouble
        raise TypeError(f"{type(value).__name__} has more digits than a double precision number.")
    return plain


def _array(value: Any) -> Any:
    """Return a numpy array as a list. Times are converted one by one, as `tolist` returns nanoseconds as numbers."""
    if value.dtype.kind not in "mM":
        return value.tolist()
    return list(value) if value.ndim else value[()]


def _refuse(remedy: str) -> LibraryType:
    def plain(value: Any) -> NoReturn:
        raise NoValueError(type(value).__name__, remedy)

    return LibraryType(plain)


_URL = LibraryType(str, "text")
_SPLIT_URL = LibraryType(lambda value: value.geturl(), "text")
_MISSING = LibraryType(_missing)
_SELECTOR = _refuse("Add .get() or .getall() to the selector.")

_TYPES: dict[tuple[str, str], LibraryType] = {
    ("pandas", "NaTType"): LibraryType(_missing, "timestamp with time zone"),
    ("pandas", "NAType"): _MISSING,
    ("numpy", "ndarray"): LibraryType(_array, "jsonb"),
    ("numpy", "datetime64"): LibraryType(_number, "timestamp with time zone"),
    ("numpy", "timedelta64"): LibraryType(_number, "interval"),
    ("numpy", "bool"): LibraryType(_number, "boolean"),
    ("numpy", "bool_"): LibraryType(_number, "boolean"),  # numpy 1
    ("numpy", "uint64"): LibraryType(_number, "numeric"),
    ("numpy", "integer"): LibraryType(_number, "bigint"),
    ("numpy", "floating"): LibraryType(_number, "double precision"),
    ("numpy", "generic"): LibraryType(_number),
    ("pydantic", "_BaseUrl"): _URL,
    ("pydantic", "_BaseMultiHostUrl"): _URL,
    ("pydantic_core", "Url"): _URL,  # before pydantic 2.10
    ("pydantic_core", "MultiHostUrl"): _URL,
    ("yarl", "URL"): _URL,
    ("httpx", "URL"): _URL,
    ("urllib", "ParseResult"): _SPLIT_URL,
    ("urllib", "SplitResult"): _SPLIT_URL,
    ("pathlib", "PurePath"): LibraryType(str, "text"),
    ("ipaddress", "IPv4Network"): LibraryType(str, "cidr"),
    ("ipaddress", "IPv6Network"): LibraryType(str, "cidr"),
    ("ipaddress", "IPv4Address"): LibraryType(str, "inet"),  # and interfaces
    ("ipaddress", "IPv6Address"): LibraryType(str, "inet"),
    ("parsel", "Selector"): _SELECTOR,
    ("parsel", "SelectorList"): _SELECTOR,
    ("scrapy", "Response"): _refuse("Store a part of the response, such as response.url or response.text."),
    ("builtins", "generator"): _refuse("Wrap it in list()."),
    ("builtins", "async_generator"): _refuse("Collect its values in a list."),
    ("builtins", "coroutine"): _refuse("Await it."),
}
