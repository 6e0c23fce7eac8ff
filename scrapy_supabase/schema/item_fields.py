"""Item classes → their fields, each with its PostgreSQL type and whether it always has a value.

Types come from annotations (dataclass, attrs, pydantic). Field metadata, which every kind of item class can have,
overrides the annotation: `type` (a Python type), `sql_type` (a PostgreSQL type, such as `numeric(10,2)`), `required`,
`primary_key`. Pydantic has metadata in `json_schema_extra`.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import msgspec

from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.messages import sentence
from scrapy_supabase.schema.column_types import stamp_type
from scrapy_supabase.schema.library_types import library_type
from scrapy_supabase.schema.paths import columns_by_field
from scrapy_supabase.schema.table_spec import TableSpec

METADATA = ("type", "sql_type", "required", "primary_key")

_SCALARS: tuple[tuple[type, str], ...] = (  # the first match counts: bool is an int, datetime is a date
    (bool, "boolean"),
    (int, "bigint"),
    (float, "double precision"),
    (Decimal, "numeric"),
    (str, "text"),
    (bytes, "bytea"),
    (bytearray, "bytea"),
    (memoryview, "bytea"),
    (datetime, "timestamp with time zone"),
    (date, "date"),
    (time, "time without time zone"),
    (timedelta, "interval"),
    (UUID, "uuid"),
)
_NUMBERS = {"bigint", "double precision", "numeric"}


@dataclass(frozen=True, slots=True)
class ItemField:
    """A field of an item. `sql_type` is empty if unknown; `choices` are all its values if it is an enumeration."""

    name: str
    sql_type: str = ""
    required: bool = False
    primary_key: bool = False
    choices: tuple[str, ...] = ()


def fields_of(item_class: type) -> tuple[ItemField, ...] | None:
    """Return the fields that `item_class` declares; None if it cannot declare fields (a dict).

    Raises `ConfigurationError` if its annotations or metadata cannot be read.
    """
    from itemadapter import ItemAdapter

    names = ItemAdapter.get_field_names_from_class(item_class) if ItemAdapter.is_item_class(item_class) else None
    if names is None:
        return None
    if invalid := [name for name in names if not isinstance(name, str)]:
        raise ConfigurationError(f"{item_class.__qualname__} has a field named {invalid[0]!r}: names must be text.")
    hints = _hints_of(item_class)
    with_default = _with_default(item_class)
    return tuple(
        _field(item_class, name, hints.get(name), _metadata_of(item_class, name), name not in with_default)
        for name in names
    )


def element_class(item_class: type, field: str) -> type | None:
    """Return the item class of the elements of a field, if its annotation or metadata names one, such as `list[Item]`.

    Raises `ConfigurationError` if the annotations cannot be read.
    """
    from itemadapter import ItemAdapter

    metadata: Mapping[str, Any] = {}
    with suppress(KeyError, TypeError):  # no such field, or no item class
        metadata = _metadata_of(item_class, field)
    waiting = [metadata.get("type", _hints_of(item_class).get(field))]
    while waiting:
        hint = waiting.pop()
        if isinstance(hint, type) and typing.get_origin(hint) is None:
            if ItemAdapter.is_item_class(hint) and hint is not dict:
                return hint
        elif typing.get_origin(hint) is typing.Annotated:
            waiting.append(typing.get_args(hint)[0])
        else:
            waiting.extend(typing.get_args(hint))
    return None


def child_fields(
    spec: TableSpec, item_class: type | None, fields: Sequence[ItemField]
) -> Iterator[tuple[TableSpec, tuple[ItemField, ...] | None, str]]:
    """Yield each child table of items with `fields`, the fields of its rows (None if unknown), and a note about it.

    The fields include the columns of the parent, with their types. Raises `ConfigurationError` like `fields_of`.
    """
    sent = columns_sent(spec, fields)
    for field, child in spec.children.items():
        child_class = element_class(item_class, field) if item_class else None
        declared = fields_of(child_class) if child_class else None
        if declared is None or child_class is None:
            note = (
                f"Table {child.name}, the children {field!r} of {spec.name}: their columns are not known. Annotate the "
                f"field with an item class, or run: scrapy supabase ddl --from FILE --table {child.name}"
            )
            yield child, None, note
            continue
        parent = child.writing.parent
        links = zip(parent.columns, parent.referenced, strict=True) if parent else ()
        inherited = [
            replace(sent[name], name=column, primary_key=False)
            for column, name in links
            if name in sent and column not in child.columns
        ]
        own = tuple(one for one in declared if one.name not in child.inherited or one.name in child.columns)
        found = (*inherited, *own)
        yield child, found, f"For the children {field!r} of {spec.name}."
        yield from child_fields(child, child_class, found)


def columns_sent(spec: TableSpec, fields: Iterable[ItemField]) -> dict[str, ItemField]:
    """Return column → the field, else the constant or stamp, that is sent to it, for items with these fields."""
    declared = {one.name: one for one in fields}
    mapped = columns_by_field(spec, declared)
    sent = {column: replace(declared.get(name, ItemField(name)), name=column) for name, column in mapped.items()}
    for column in spec.inherited:
        sent.setdefault(column, ItemField(column, "integer" if column == spec.position else "", required=True))
    if spec.json_column:
        sent[spec.json_column] = ItemField(spec.json_column, "jsonb", required=True)
    for column in spec.references:  # the type of the id is that of the parent's column, which is not known here
        sent.setdefault(column, ItemField(column))
    for column, value in spec.constants.items():
        sent.setdefault(column, ItemField(column, type_for(value), required=value is not None))
    for column, stamp in spec.stamps.items():
        sent.setdefault(column, ItemField(column, stamp_type(stamp), required=stamp != "url"))
    return sent


def of_new_table(spec: TableSpec, sent: Mapping[str, ItemField]) -> dict[str, ItemField]:
    """Return those of the columns `sent` that a new table gets: ids of parents, and no fields that identify parents."""
    consumed = spec.consumed_fields - {spec.routed_by} - spec.explicit_columns
    found = {name: one for name, one in sent.items() if name not in consumed or one.primary_key}
    for column in spec.references:  # ids are usually of this type
        found[column] = replace(found[column], sql_type=found[column].sql_type or "bigint")
    return found


def type_for(value: Any) -> str:
    """Return a column type for `value` and similar values. A number gets numeric, as later ones may have a fraction."""
    if value is None:
        return "text"
    if isinstance(value, (dict, list, tuple, set, frozenset)):
        return "jsonb"
    if isinstance(value, msgspec.Raw):  # a number, as written in a file
        with suppress(msgspec.MsgspecError):
            return type_for(msgspec.json.decode(value))
    sql_type = _described(type(value)).sql_type
    return "numeric" if sql_type in _NUMBERS else sql_type or "text"


def _field(item_class: type, name: str, hint: Any, metadata: Mapping[str, Any], has_no_default: bool) -> ItemField:
    explicit = metadata.get("type")
    described = _described(explicit if explicit is not None else hint)
    sql_type = metadata.get("sql_type", described.sql_type)
    if not isinstance(sql_type, str):
        raise ConfigurationError(
            f"The sql_type of {item_class.__qualname__}.{name} is {sql_type!r} ({type(sql_type).__name__}): it must be "
            'the name of a PostgreSQL type, such as "numeric(10,2)".'
        )
    required = bool(metadata.get("required", hint is not None and has_no_default and not described.nullable))
    primary_key = bool(metadata.get("primary_key", False))
    choices = () if "sql_type" in metadata else described.choices
    return ItemField(name, sql_type, required or primary_key, primary_key, choices)


@dataclass(frozen=True, slots=True)
class _Described:
    sql_type: str = ""
    nullable: bool = False
    choices: tuple[str, ...] = ()


def _described(hint: Any) -> _Described:
    """Return type, nullability and choices of a type annotation."""
    while (inner := getattr(hint, "__supertype__", None)) is not None:  # NewType
        hint = inner
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Annotated, typing.Final):
        return _described(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return _union([_described(one) for one in arguments if one is not type(None)], type(None) in arguments)
    if origin is typing.Literal:
        return _of_values(arguments)
    if origin in (list, tuple, set, frozenset) or hint in (list, tuple, set, frozenset):
        return _Described(_array(arguments))
    if hint is None or hint is Any or hint is object:
        return _Described(nullable=True)
    if not isinstance(hint, type) or origin is not None:
        return _Described("jsonb" if origin is not None else "")
    if issubclass(hint, Enum):
        return _of_values([member.value for member in hint])
    for kind, sql_type in _SCALARS:
        if issubclass(hint, kind):
            return _Described(sql_type)
    item_class: type = hint
    if (known := library_type(item_class)) is not None:
        return _Described(known.sql_type)
    from itemadapter import ItemAdapter

    return _Described("jsonb" if ItemAdapter.is_item_class(hint) else "")


def _union(parts: list[_Described], nullable: bool) -> _Described:
    found = {part.sql_type for part in parts}
    nullable = nullable or any(part.nullable for part in parts)
    if not found:
        return _Described(nullable=nullable)
    if len(found) == 1:
        choices = tuple(choice for part in parts for choice in part.choices)
        return _Described(parts[0].sql_type, nullable, choices if all(part.choices for part in parts) else ())
    if found <= _NUMBERS:
        return _Described("numeric", nullable)
    if "" in found:
        return _Described("", nullable)
    return _Described("jsonb" if any(one == "jsonb" or one.endswith("[]") for one in found) else "text", nullable)


def _of_values(values: typing.Sequence[Any]) -> _Described:
    """Return the description of an Enum or a Literal with these values."""
    nullable = None in values
    values = [value for value in values if value is not None]
    found = _union([_described(type(value)) for value in values], nullable)
    texts = all(isinstance(value, str) for value in values)
    return _Described(found.sql_type, found.nullable, tuple(values) if texts else ())


def _array(arguments: tuple[Any, ...]) -> str:
    """Return the type of a list: an array if its elements have one scalar type, else jsonb."""
    kinds = {_described(one).sql_type for one in arguments if one is not Ellipsis}
    (kind,) = kinds if len(kinds) == 1 else ("",)
    return "jsonb" if kind in ("", "jsonb", "bytea") or kind.endswith("[]") else f"{kind}[]"


def _hints_of(item_class: type) -> Mapping[str, Any]:
    try:
        return typing.get_type_hints(item_class, include_extras=True)
    except Exception as error:  # annotations are expressions and may raise anything
        raise ConfigurationError(
            f"The annotations of {item_class.__qualname__} cannot be read: {sentence(error)} Import the names that "
            "they use in the module of the class, outside of `if TYPE_CHECKING`."
        ) from error


def _metadata_of(item_class: type, name: str) -> Mapping[str, Any]:
    from itemadapter import ItemAdapter

    found: Mapping[str, Any]
    try:
        found = ItemAdapter.get_field_meta_from_class(item_class, name)
    except AttributeError:  # itemadapter 0.9 looks for it as pydantic 1 had it
        models: Mapping[str, Any] = getattr(item_class, "model_fields", {})
        found = {"json_schema_extra": getattr(models.get(name), "json_schema_extra", None)}
    extra = found.get("json_schema_extra")
    more = extra if isinstance(extra, Mapping) else {}
    return {key: (more if key in more else found)[key] for key in METADATA if key in more or key in found}


def _with_default(item_class: type) -> set[str]:
    """Return the names of the fields that have a default."""
    if (fields := getattr(item_class, "__dataclass_fields__", None)) is not None:
        from dataclasses import MISSING

        return {n for n, f in fields.items() if f.default is not MISSING or f.default_factory is not MISSING}
    if (attributes := getattr(item_class, "__attrs_attrs__", None)) is not None:
        import attrs

        return {each.name for each in attributes if each.default is not attrs.NOTHING}
    if (models := getattr(item_class, "model_fields", None)) is not None:
        return {name for name, field in models.items() if not field.is_required()}
    return set()
