"""Keyset pagination: the conditions for the rows after the last one that was read, in the order of some columns.

An OFFSET would read all earlier rows again for each page, and skip rows if others are deleted meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from scrapy_supabase.backends.base import Order
from scrapy_supabase.backends.filters import Condition, Filter, Group, equal

Position = Sequence[str | None]
"""The values of the order's columns in the last row that was read."""


class Section(msgspec.Struct, frozen=True):
    """The rows whose first column of the order is NULL, or is not; `nulls` is None if it never is.

    The sections of an order are read one after the other: a condition such as `a > 1 OR a IS NULL` uses no index.
    """

    order: tuple[Order, ...]
    never_null: frozenset[str]
    nulls: bool | None

    def after(self, position: Position | None) -> tuple[Filter, ...] | None:
        """Return the conditions for the rows after `position` (None: for all rows); None if there are none."""
        first = self.order[0].column
        if self.nulls is None:
            conditions: tuple[Filter, ...] = ()
        else:
            conditions = (Condition(first, "null" if self.nulls else "not_null"),)
        if position is None:
            return conditions
        if self.nulls:
            following = _following(self.order[1:], position[1:], self.never_null)
            return None if following is None else (*conditions, following)
        following = _following(self.order, position, self.never_null | {first})
        if following is None or position[0] is None:
            return None
        # Implied by the other condition, but only this one lets PostgreSQL begin at the right place of an index.
        bound = Condition(first, "lte" if self.order[0].descending else "gte", (position[0],))
        return bound, following


def sections(order: Sequence[Order], never_null: Collection[str]) -> list[Section]:
    """Return the sections of an order, in their order. `never_null`: columns known to have no NULL."""
    first = order[0]
    if first.column in never_null:
        kinds: list[bool | None] = [None]
    else:
        kinds = [True, False] if first.descending else [False, True]
    return [Section(tuple(order), frozenset(never_null), kind) for kind in kinds]


def _following(order: Sequence[Order], position: Position, never_null: Collection[str]) -> Filter | None:
    """Return the condition for the rows after `position`; None if there are none."""
    rest: Filter | None = None
    for term, value in reversed(list(zip(order, position, strict=True))):
        column, options = term.column, list[Filter]()
        if value is not None:
            options.append(Condition(column, "lt" if term.descending else "gt", (value,)))
            if not term.descending and column not in never_null:
                options.append(Condition(column, "null"))
        elif term.descending:
            options.append(Condition(column, "not_null"))
        if rest is not None:
            options.append(Group("and", (equal(column, value), rest)))
        rest = None if not options else options[0] if len(options) == 1 else Group("or", tuple(options))
    return rest
