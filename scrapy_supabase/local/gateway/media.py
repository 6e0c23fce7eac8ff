"""Media types of responses and request bodies."""

from __future__ import annotations

from dataclasses import dataclass

from scrapy_supabase.local.gateway.errors import ApiError

JSON = "application/json"
CSV = "text/csv"
GEOJSON = "application/geo+json"
OPENAPI = "application/openapi+json"
FORM = "application/x-www-form-urlencoded"
TEXT, XML, BYTES = "text/plain", "text/xml", "application/octet-stream"
_ANY = "*/*"
_OBJECT = "application/vnd.pgrst.object+json"
_ARRAY = "application/vnd.pgrst.array+json"
_STRIPPED = ";nulls=stripped"
_PLAN = "application/vnd.pgrst.plan"  # `db-plan-enabled` is off on Supabase


@dataclass(frozen=True, slots=True)
class Form:
    """Form of a response. `singular`: one object instead of an array; `strip_nulls`: without null fields."""

    media: str = JSON
    singular: bool = False
    strip_nulls: bool = False

    @property
    def content_type(self) -> dict[str, str]:
        """Return the response's `content-type`."""
        return {"content-type": f"{self.media}; charset=utf-8"}


_FORMS = {
    _ANY: Form(),
    JSON: Form(),
    CSV: Form(CSV),
    GEOJSON: Form(GEOJSON),
    _OBJECT: Form(_OBJECT, singular=True),
    _OBJECT + _STRIPPED: Form(_OBJECT + _STRIPPED, singular=True, strip_nulls=True),
    _ARRAY + _STRIPPED: Form(_ARRAY + _STRIPPED, strip_nulls=True),
}
_ROOT_FORMS = dict.fromkeys((OPENAPI, JSON, _ANY), Form(OPENAPI))


def choose_form(accept: str, *, root: bool = False) -> Form:
    """Return the first media type of an `Accept` header that the gateway can produce. Raises `ApiError` PGRST107."""
    wanted = [decode(text) for text in _by_quality(accept)]
    forms = _ROOT_FORMS if root else _FORMS
    found = next((forms[name] for name in wanted if name in forms), None)
    if found is None:
        raise ApiError(406, "PGRST107", f"None of these media types are available: {', '.join(wanted)}")
    return found


def decode(text: str) -> str:
    """Return a media type without irrelevant parameters."""
    name, *parameters = text.split(";")
    if name in (_OBJECT, _OBJECT.removesuffix("+json")):
        return _OBJECT + (_STRIPPED if parameters == ["nulls=stripped"] else "")
    if name in (_ARRAY, _ARRAY.removesuffix("+json")):
        return _ARRAY + _STRIPPED if parameters == ["nulls=stripped"] else JSON
    if name.removesuffix("+text").removesuffix("+json") == _PLAN:
        return _plan(name, parameters)
    return name or _ANY


def _plan(name: str, parameters: list[str]) -> str:
    """Return the media type of a query plan as PostgREST prints it."""
    kept = dict(parameter.partition("=")[::2] for parameter in parameters)
    known = ("analyze", "verbose", "settings", "buffers", "wal")
    options = "|".join(option for option in known if option in kept.get("options", "").split("|"))
    wanted = decode(kept.get("for", JSON).strip('"'))
    form = "json" if name.endswith("+json") else "text"
    return f'{_PLAN}+{form}; for="{wanted}"' + (f"; options={options}" if options else "")


def _by_quality(accept: str) -> list[str]:
    """Return the types by preference: by `q`, then by how specific they are."""
    weighed: list[tuple[float, int, str]] = []
    for part in accept.replace(" ", "").split(","):
        name, _, rest = part.partition(";q=")
        try:
            quality = float(rest.partition(";")[0]) if rest else 1.0
        except ValueError:
            quality = 1.0
        weighed.append((quality, name.count(";") - name.count("*"), name))
    return [name for _, _, name in sorted(weighed, key=lambda each: each[:2], reverse=True)]
