"""Authentication: the key check of Supabase's gateway, then the token check of PostgREST."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from scrapy_supabase.local.gateway.errors import JSON, ApiError, Response

ANON = "anon"
_NO_KEY_FITS = "No suitable key was found to decode the JWT"
_LEEWAY = 30  # seconds of clock skew, as PostgREST allows


@dataclass(frozen=True, slots=True)
class Caller:
    """Role of a request, and the claims of its token as JSON, as SQL reads them."""

    role: str
    claims: str
    anonymous: bool


ANYBODY = Caller(ANON, json.dumps({"role": ANON}), anonymous=True)
NO_KEY = Response(
    401,
    json.dumps(
        {
            "message": "No API key found in request",
            "hint": "No `apikey` request header or url param was found.",
        }
    ).encode(),
    {"content-type": JSON, "www-authenticate": "Key"},
)


@dataclass(slots=True)
class Keys:
    """Verifier of tokens, with a cache of valid tokens until they expire."""

    secret: str = field(repr=False)
    _known: dict[str, tuple[Caller, float | None]] = field(default_factory=dict, repr=False)

    def caller(self, headers: Mapping[str, str], now: float) -> Caller | None:
        """Return the caller, or None without a key. Raises `ApiError`."""
        token = _bearer(headers.get("authorization"))
        if token is None:
            token = headers.get("apikey", "").strip() or None
        if token is None:
            return None
        known = self._known.get(token)
        if known is not None and (known[1] is None or now < known[1]):
            return known[0]
        caller, expires = self._verify(token, now)
        if len(self._known) > 1000:
            self._known.clear()
        self._known[token] = (caller, expires)
        return caller

    def _verify(self, token: str, now: float) -> tuple[Caller, float | None]:
        claims = self._claims(token)
        expires = _checked_times(claims, now)
        role = claims.get("role", ANON)
        if not isinstance(role, str):
            role = json.dumps(role)
        if "\0" in role:
            raise _refused("PGRST303", "Parsing claims failed")
        caller = Caller(role, json.dumps({**claims, "role": role}), anonymous=role == ANON)
        return caller, expires

    def _claims(self, token: str) -> dict[str, Any]:
        """Return the claims of a token that is signed with the stack's secret."""
        if not token:
            raise _refused("PGRST301", "Empty JWT is sent in Authorization header")
        parts = token.count(".") + 1
        if parts != 3:
            raise _refused("PGRST301", f"Expected 3 parts in JWT; got {parts}")
        import jwt  # takes 0.1 s, so only when the first key comes

        unsuitable = "No suitable key or wrong key type"
        try:
            header = jwt.get_unverified_header(token)
            payload = jwt.api_jws.PyJWS().decode(token, self.secret, algorithms=["HS256"])
        except jwt.InvalidSignatureError:
            raise _refused("PGRST301", unsuitable, "None of the keys was able to decode the JWT") from None
        except jwt.InvalidAlgorithmError:
            if header.get("alg") == "none":
                details = "JWT is unsecured but expected 'alg' was not 'none'"
                raise _refused("PGRST301", "Wrong or unsupported encoding algorithm", details) from None
            raise _refused("PGRST301", unsuitable, _NO_KEY_FITS) from None
        except (jwt.InvalidTokenError, ValueError, TypeError):
            raise _refused("PGRST301", "JWT couldn't be decoded") from None
        if header.get("kid") is not None:  # the only key has no name
            raise _refused("PGRST301", unsuitable, _NO_KEY_FITS)
        try:
            claims = json.loads(payload)
        except (ValueError, RecursionError):
            claims = None
        if not isinstance(claims, dict):
            raise _refused("PGRST303", "Parsing claims failed")
        return claims


def _checked_times(claims: dict[str, Any], now: float) -> float | None:
    """Return the expiry of a token. Raises `ApiError` if the token is not valid now."""
    expires, begins, issued = (_seconds(claims, name) for name in ("exp", "nbf", "iat"))
    if expires is not None and expires < now - _LEEWAY:
        raise _refused("PGRST303", "JWT expired")
    if begins is not None and begins > now + _LEEWAY:
        raise _refused("PGRST303", "JWT not yet valid")
    if issued is not None and issued > now + _LEEWAY:
        raise _refused("PGRST303", "JWT issued at future")
    audience = claims.get("aud")
    several = isinstance(audience, list) and all(isinstance(each, str) for each in audience)
    if audience is not None and not isinstance(audience, str) and not several:
        raise _refused("PGRST303", "The JWT 'aud' claim must be a string or an array of strings")
    return None if expires is None else expires + _LEEWAY


def _seconds(claims: dict[str, Any], name: str) -> float | None:
    """Return a claim that is a time. PostgREST reads a fraction as 0."""
    at = claims.get(name)
    if at is None:
        return None
    if isinstance(at, bool) or not isinstance(at, (int, float)):
        raise _refused("PGRST303", f"The JWT '{name}' claim must be a number")
    return float(at) if abs(at) < 2**63 and at == int(at) else 0.0


def _bearer(header: str | None) -> str | None:
    if header is None:
        return None
    scheme, _, token = header.strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _refused(code: str, message: str, details: str | None = None) -> ApiError:
    challenge = f'Bearer error="invalid_token", error_description="{message}"'
    return ApiError(401, code, message, details=details, www_authenticate=challenge)
