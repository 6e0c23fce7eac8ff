"""Who asks: the key check of Supabase's gateway, then the token check of PostgREST."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from scrapy_supabase.local.gateway.errors import JSON, ApiError, Response

ANON = "anon"
_LEEWAY = 30  # seconds of clock skew, as PostgREST allows


@dataclass(frozen=True, slots=True)
class Caller:
    """The role a request runs as, and the token's claims (JSON, as SQL sees them)."""

    role: str
    claims: str
    anonymous: bool


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
    """Verifies tokens; those that were good are remembered until they expire."""

    secret: str = field(repr=False)
    _known: dict[str, tuple[Caller, float | None]] = field(default_factory=dict, repr=False)

    def caller(self, headers: Mapping[str, str], now: float) -> Caller | None:
        """Who asks; None where there is no key at all. Raises `ApiError`."""
        token = _bearer(headers.get("authorization"))
        if token is None:
            token = headers.get("apikey", "").strip() or None
        if token is None:
            return None
        known = self._known.get(token)
        if known is not None and (known[1] is None or now < known[1]):
            return known[0]
        caller, expires = self._verify(token)
        if len(self._known) > 1000:
            self._known.clear()
        self._known[token] = (caller, expires)
        return caller

    def _verify(self, token: str) -> tuple[Caller, float | None]:
        if not token:
            raise _refused("PGRST301", "Empty JWT is sent in Authorization header")
        parts = token.count(".") + 1
        if parts != 3:
            raise _refused("PGRST301", f"Expected 3 parts in JWT; got {parts}")
        import jwt  # 0.1 s: not before the first key comes

        options: Any = {"verify_aud": False, "verify_iat": False, "verify_sub": False, "verify_jti": False}
        try:
            claims = jwt.decode(token, self.secret, algorithms=["HS256"], leeway=_LEEWAY, options=options)
        except jwt.ExpiredSignatureError:
            raise _refused("PGRST303", "JWT expired") from None
        except jwt.ImmatureSignatureError:
            raise _refused("PGRST303", "JWT not yet valid") from None
        except jwt.InvalidSignatureError:
            message = "No suitable key or wrong key type"
            raise _refused("PGRST301", message, "None of the keys was able to decode the JWT") from None
        except jwt.InvalidAlgorithmError:
            raise _refused("PGRST301", "Wrong or unsupported encoding algorithm") from None
        except jwt.DecodeError:
            raise _refused("PGRST301", "JWT cryptographic operation failed") from None
        except (jwt.InvalidTokenError, ValueError, TypeError):
            raise _refused("PGRST303", "Parsing claims failed") from None
        expires = claims.get("exp")
        role = claims.get("role", ANON)
        if not isinstance(role, str) or "\0" in role:
            raise _refused("PGRST303", "Parsing claims failed")
        claims.setdefault("role", role)
        caller = Caller(role, json.dumps(claims), anonymous=role == ANON)
        return caller, float(expires) + _LEEWAY if isinstance(expires, (int, float)) else None


def _bearer(header: str | None) -> str | None:
    if header is None:
        return None
    scheme, _, token = header.strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _refused(code: str, message: str, details: str | None = None) -> ApiError:
    challenge = f'Bearer error="invalid_token", error_description="{message}"'
    return ApiError(401, code, message, details=details, www_authenticate=challenge)
