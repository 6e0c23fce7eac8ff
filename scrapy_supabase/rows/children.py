"""Item → its row and the rows of its children: the elements of fields with lists, which go to tables of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from scrapy_supabase.errors import ItemError
from scrapy_supabase.models import Rejection, Row
from scrapy_supabase.rows.builder import RowBuilder
from scrapy_supabase.rows.stamps import Stamp
from scrapy_supabase.rows.values import is_null, printable
from scrapy_supabase.schema.routes import Routes
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.schema.table_spec import TableSpec

if TYPE_CHECKING:
    from scrapy_supabase.rows.mapping import Mapper

T = TypeVar("T")

_MOST_REJECTIONS = 1000  # written to the reject file at once


def parent_rejected(table: str, code: str, message: str) -> ItemError:
    """Return why a child is rejected whose parent's row for `table` was rejected with this code and message."""
    if code == "parent_rejected":  # the message names the row that is at fault
        return ItemError(code, message)
    return ItemError("parent_rejected", f"the row of table {table} that it belongs to was rejected ({code}): {message}")


def add_family(
    rows: Iterable[Row | Rejection], add: Callable[[Row], T], reject: Callable[[tuple[Rejection, ...]], object]
) -> T | None:
    """Add the rows of an item and its children, and reject what cannot become a row. Return the last result of `add`.

    All rows are added even if `add` asks for a wait: rows with equal keys must keep their order.
    """
    result: T | None = None
    rejections: list[Rejection] = []
    for one in rows:
        if isinstance(one, Row):
            result = add(one)
            continue
        rejections.append(one)
        if len(rejections) == _MOST_REJECTIONS:
            reject(tuple(rejections))
            rejections.clear()
    if rejections:
        reject(tuple(rejections))
    return result


def item_steps(
    builder: RowBuilder, add: Callable[[Row], T], reject: Callable[[tuple[Rejection, ...]], object]
) -> tuple[Callable[[Any], Any], Callable[[Any], T | None]]:
    """Return the two steps of an item: what builds its row, or its rows if it may have children, and what adds them."""
    if isinstance(builder, FamilyBuilder):
        return builder.rows_of, partial(add_family, add=add, reject=reject)
    return builder.build, add


class FamilyBuilder(RowBuilder):
    """Converts items with children to rows. Its arguments are those of `RowBuilder`."""

    def __init__(
        self, routes: Routes, schema: Schema, stamps: Mapping[str, Stamp], on_cleaned: Callable[[str], None]
    ) -> None:
        # The URL of an item's page may be asked for only once, and is also that of its children.
        self._url = _UrlOfItem(stamps["url"]) if "url" in stamps else None
        super().__init__(routes, schema, {**stamps, "url": self._url} if self._url else stamps, on_cleaned)

    def rows_of(self, item: Any) -> Iterator[Row | Rejection]:
        """Yield the row of `item`, then those of its children, or the rejections of what cannot become a row.

        The children of a rejected item or child are rejected, too. The item is not changed.
        """
        if self._url is not None:
            self._url.start(item)
        try:
            recipe = self._recipes.get(type(item)) or self._recipe_for(item)
        except ItemError as error:
            yield self.rejection(item, error)
            return
        fields = item if recipe.fields is None else recipe.fields(item)
        values: Mapping[str, Any] = {}
        lost: ItemError | None = None
        try:
            values = fields if recipe.mapper is None else recipe.mapper.columns_of(fields, item)
            yield self._row_of(recipe, values)
        except ItemError as error:
            lost, values = error, values or error.row or fields  # children keep their parent's values, for a replay
            yield self.rejection(item, error)
        if recipe.spec.children:
            yield from self._children(recipe.spec, fields, values, lost)

    def _children(
        self, spec: TableSpec, fields: Mapping[str, Any], values: Mapping[str, Any], lost: ItemError | None
    ) -> Iterator[Row | Rejection]:
        """Yield the rows of the children of a row with these `values`. If it was rejected, `lost` is the reason."""
        reason = parent_rejected(spec.name, lost.code, str(lost)) if lost is not None else None
        for field, child_spec in spec.children.items():
            found, parent = fields.get(field), child_spec.writing.parent
            if parent is None or found is None or is_null(found):
                if child_spec.replaces and reason is None:
                    self._schema.families.unlisted[child_spec.name] += 1
                continue
            inherited = {
                column: values.get(name) for column, name in zip(parent.columns, parent.referenced, strict=True)
            }
            why = reason
            if why is None and (missing := next((n for n in parent.referenced if is_null(values.get(n))), None)):
                why = ItemError("bad_child", f"the row of table {spec.name} has no value in column {missing!r}")
            is_list = isinstance(found, (list, tuple))
            for position, child in enumerate(found if is_list else (found,), 1):
                if child_spec.position:
                    inherited[child_spec.position] = position
                if isinstance(child, dict) or _is_item(child):
                    yield from self._child(child_spec, child, inherited, why)
                else:
                    yield _bad_child(child_spec, field, child, inherited, is_list=is_list)

    def _child(
        self, spec: TableSpec, child: Any, inherited: Mapping[str, Any], lost: ItemError | None
    ) -> Iterator[Row | Rejection]:
        recipe = self._recipe_of(type(child), spec)
        fields = child if recipe.fields is None else recipe.fields(child)
        mapper = cast("Mapper", recipe.mapper)  # a spec with `parent` has one
        values: Mapping[str, Any] = {}
        try:
            values = mapper.columns_of(fields, child, inherited)
            if lost is None:
                yield self._row_of(recipe, values)
        except ItemError as error:
            lost, values = lost or error, values or error.row or {**inherited, **fields}
        if lost is not None:
            data, printed = printable(values)
            yield Rejection(spec.name, data, lost.code, str(lost), printed=printed)
        if spec.children:
            yield from self._children(spec, fields, values, lost)


class _UrlOfItem:
    """The stamp `url` of an item and its children."""

    def __init__(self, stamp: Stamp) -> None:
        self._stamp = stamp
        self._item: Any = None
        self._found: tuple[Any, ...] = ()

    def start(self, item: Any) -> None:
        """Begin with another item."""
        self._item = item
        self._found = ()

    def __call__(self, _: Any, table: str) -> Any:
        """Return the URL of the item's page."""
        if not self._found:
            self._found = (self._stamp(self._item, table),)
        return self._found[0]


def _is_item(value: Any) -> bool:
    from itemadapter import is_item  # imports pydantic, which takes 0.1 s; a crawl of dicts does not need it

    return bool(is_item(value))


def _bad_child(spec: TableSpec, field: str, value: Any, inherited: Mapping[str, Any], *, is_list: bool) -> Rejection:
    kind = type(value).__qualname__
    text = f"field {field!r} is of type {kind}: it must be a list of dicts or items, or one of them"
    if is_list:
        text = f"an element of field {field!r} is of type {kind}: it must be a dict or an item"
    data, printed = printable({**inherited, field: value})
    return Rejection(spec.name, data, "bad_child", text, printed=tuple(dict.fromkeys([*printed, field])))
