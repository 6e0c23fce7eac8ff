"""The secrets of a data folder: made once, kept in a file that only its owner may read."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path

_TEN_YEARS = 10 * 365 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys and passwords by which client, gateway and database authenticate each other."""

    jwt_secret: str = field(repr=False)
    anon_key: str = field(repr=False)
    service_role_key: str = field(repr=False)
    postgres_password: str = field(repr=False)
    authenticator_password: str = field(repr=False)


def load_keys(folder: Path) -> Keys:
    """Read the keys of `folder`, or make them. The caller must hold the folder's lock."""
    path = folder / "keys.json"
    if not path.exists():
        jwt_secret = secrets.token_urlsafe(32)
        made = {
            "jwt_secret": jwt_secret,
            "anon_key": _key("anon", jwt_secret),
            "service_role_key": _key("service_role", jwt_secret),
            "postgres_password": secrets.token_urlsafe(24),
            "authenticator_password": secrets.token_urlsafe(24),
        }
        write_private(path, json.dumps(made))
    return Keys(**json.loads(path.read_text()))


def write_private(path: Path, text: str) -> None:
    """Write all of a file that only its owner may read, or nothing."""
    making = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(making, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    making.replace(path)


def _key(role: str, secret: str) -> str:
    """Return a signed legacy API key as Supabase makes them: an HS256 JWT.

    A data folder needs two of them. Importing PyJWT for that would take 0.1 s; the gateway, which verifies the tokens
    of clients, does use it.
    """
    now = int(time.time())
    claims = {"iss": "supabase-local", "role": role, "iat": now, "exp": now + _TEN_YEARS}
    signed = ".".join(_base64url(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims))
    return f"{signed}.{_base64url(hmac.digest(secret.encode(), signed.encode(), hashlib.sha256))}"


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
