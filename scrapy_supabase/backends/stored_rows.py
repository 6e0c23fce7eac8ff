"""Requests about stored rows that meet conditions: count them, update them, delete them. Over REST, and as SQL."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from urllib.parse import quote as percent_encoded
from urllib.parse import urlencode

from scrapy_supabase.backends.bulk_sql import quote
from scrapy_supabase.backends.error_body import parse_body
from scrapy_supabase.backends.filters import Filter, query_names, to_query, to_sql
from scrapy_supabase.backends.http import HttpPool
from scrapy_supabase.backends.http_answer import Answer
from scrapy_supabase.errors import ServerError, TransientError


class RestRows:
    """Stored rows over the REST API. `error` makes the error for an answer and a table."""

    def __init__(
        self, http: HttpPool, prefix: str, headers: Mapping[str, str], error: Callable[[Answer, str], ServerError]
    ) -> None:
        self._http = http
        self._prefix = prefix
        self._headers = headers
        self._error = error

    def count(self, table: str, where: Sequence[Filter]) -> int:
        """See `base.Backend`."""
        return self._number(table, self._ask("GET", table, [to_query(where), "limit=0"]))

    def update(self, table: str, where: Sequence[Filter], columns: Sequence[str], values: bytes) -> int:
        """See `base.Backend`."""
        query = [f"columns={query_names(columns)}", to_query(where)]
        return self._number(table, self._ask("PATCH", table, query, values))

    def delete(self, table: str, where: Sequence[Filter]) -> int:
        """See `base.Backend`."""
        return self._number(table, self._ask("DELETE", table, [to_query(where)]))

    def lacks_function(self, function: str, arguments: Sequence[str]) -> bool:
        """See `base.Backend`. OPTIONS finds the function without calling it."""
        query = urlencode(dict.fromkeys(arguments, ""))
        target = f"{self._prefix}rpc/{percent_encoded(function, safe='')}?{query}"
        answer = self._http.request(self._http.head("OPTIONS", target, self._headers), None)
        error = self._error(answer, "")
        if isinstance(error, TransientError) and answer.status >= 400:
            raise error
        return parse_body(answer.body).get("code") == "PGRST202"

    def _ask(self, method: str, table: str, query: Sequence[str], body: bytes | None = None) -> Answer:
        target = f"{self._prefix}{percent_encoded(table, safe='')}?{'&'.join(filter(None, query))}"
        headers = {**self._headers, "Prefer": "count=exact"}
        if method != "GET":
            headers |= {"Content-Type": "application/json", "Content-Profile": self._headers["Accept-Profile"]}
            headers["Prefer"] = "return=minimal,count=exact"
        return self._http.request(self._http.head(method, target, headers), body)

    def _number(self, table: str, answer: Answer) -> int:
        """Return the number of rows, from the header `Content-Range: 0-4/5`. Raises `ServerError`."""
        total = answer.headers.get("Content-Range", "").rpartition("/")[2]
        if answer.status not in (200, 204, 206) or not total.isdecimal():
            raise self._error(answer, table)
        return int(total)


def count_sql(table: str, where: Sequence[Filter], parameters: list[bytes]) -> str:
    """Return the statement that counts rows. `table` is its qualified name; values are added to `parameters`."""
    return f"SELECT count(*) FROM {table} WHERE {to_sql(where, parameters)}"


def update_sql(table: str, types: Mapping[str, str], where: Sequence[Filter], parameters: list[bytes]) -> str:
    """Return the statement that sets columns (`types`: name → type) and returns the number of rows.

    The first of `parameters` is the JSON object with their values; the values of the conditions are added.
    """
    names = ", ".join(map(quote, types))
    typed = ", ".join(f"{quote(name)} {kind}" for name, kind in types.items())
    values = f"SELECT {names} FROM json_to_record($1::json) AS pgrst_body({typed})"
    return _counted(f"UPDATE {table} SET ({names}) = ({values}) WHERE {to_sql(where, parameters)}")


def delete_sql(table: str, where: Sequence[Filter], parameters: list[bytes]) -> str:
    """Return the statement that deletes rows and returns their number."""
    return _counted(f"DELETE FROM {table} WHERE {to_sql(where, parameters)}")


def _counted(statement: str) -> str:
    return f"WITH changed AS ({statement} RETURNING 1) SELECT count(*) FROM changed"
