"""Types of other libraries (and the rarer ones of Python's own): what their values stand for, and which are no values.

Types are recognized by module and name, because importing pandas, numpy or pydantic to look for their types would cost
every crawl what few need. A subclass is treated as its nearest base that is listed here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn

_FINER_THAN_PYTHON = ("[ns]", "[ps]", "[fs]", "[as]")  # units of numpy's times; Python's and PostgreSQL's is [us]


class NoValueError(TypeError):
    """An object that no column can store. `holds` names its type, `remedy` says what to do."""

    def __init__(self, holds: str, remedy: str) -> None:
        super().__init__(f"an object of type {holds} cannot be stored")
        self.holds = holds
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class LibraryType:
    """What `plain` makes of a value is made of Python's own types; a column of `sql_type` takes it ("": not known)."""

    plain: Callable[[Any], Any]
    sql_type: str = ""


@lru_cache(maxsize=1024)
def library_type(kind: type[Any]) -> LibraryType | None:
    """Return how values of type `kind` are stored; None for types that are not listed below."""
    for base in kind.__mro__:
        found = _TYPES.get((base.__module__.partition(".")[0], base.__qualname__))
        if found is not None:
            return found
    return None


def _missing(_: Any) -> None:
    return None


def _number(value: Any) -> Any:
    """Return a numpy scalar as Python's own. Raises `TypeError` where Python has no such number."""
    plain = value.item()
    if value.dtype.kind in "mM" and type(plain) is int:  # too fine or too far for Python
        if not value.dtype.str.endswith(_FINER_THAN_PYTHON):
            raise TypeError(f"Python's times cannot say {value!r}.")
        plain = value.astype(f"{value.dtype.kind}8[us]").item()
    if type(plain) is type(value):  # longdouble
        raise TypeError(f"{type(value).__name__} has more digits than a double precision number.")
    return plain


def _array(value: Any) -> Any:
    """Return a numpy array as a list; times one by one, because `tolist` makes bare numbers of nanoseconds."""
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
    ("scrapy", "Response"): _refuse("Store what you need of the response, such as response.url or response.text."),
    ("builtins", "generator"): _refuse("Wrap it in list()."),
    ("builtins", "async_generator"): _refuse("Collect its values in a list."),
    ("builtins", "coroutine"): _refuse("Await it."),
}
