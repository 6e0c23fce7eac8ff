"""Redaction of rows and of the server's messages about them: secrets are hidden, long values shortened."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

HIDDEN = "(hidden)"
# Maximum numbers of characters
_MAX_VALUE = 200
_MAX_ROW = 2000
_MAX_MESSAGE = 1000
_MAX_SEARCHED = 5000  # of a text that is searched for patterns; the rest is cut

_NAMES = (
    r"pass_?w(?:or)?d|passwort|passphrase|passcode|pwd|secret(?!ar)|token|api_?key|access_?key|private_?key"
    r"|encryption_?key|authori[sz]ation|credential|cookie|session_?id|card_?number"
)
# Only as whole words: these are parts of too many other words (`spinning`, `author`, `footprint`).
_WORDS = r"pin|auth|bearer|jwt|otp|sid|csrf|xsrf|ssn|iban|cvv|cvc"
_SECRET_NAME = re.compile(rf"{_NAMES}|(?:^|_)(?:{_WORDS})(?:$|_)", re.IGNORECASE)
_WORD_ENDS = re.compile(r"(?<=[a-z])(?=[A-Z])|\W+")
_SECRET_TEXTS = (
    (re.compile(r"eyJ[\w-]{5,}\.[\w-]{5,}(?:\.[\w-]*)?"), HIDDEN),  # a JWT
    (re.compile(r"sb_(?:secret|publishable)_[\w-]+"), HIDDEN),
    (re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE), rf"\1 {HIDDEN}"),
    # The password in a URL. It may contain an @ that should have been encoded.
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s:/?#@]*:)[^\s/?#]+(?=@)", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*", re.DOTALL), HIDDEN),
    # `token=…`, `"password": "…"`: in URLs, connection strings, and JSON inside a text
    (
        re.compile(rf"((?:{_NAMES})[\w-]*[\"'\\]*\s*[:=]\s*)(\\?\"[^\"]*\"?|'[^']*'?|[^\s\"'&;,)}}]+)", re.IGNORECASE),
        rf"\1{HIDDEN}",
    ),
)
# PostgreSQL quotes values: `Key (token)=(…) already exists.`, `Failing row contains (1, …).`
_KEY = re.compile(r"Key \((?P<names>.*?)\)=\(.*\)", re.DOTALL)
_CUT_ROW = "Failing row contains (…)"
_QUOTED = re.compile(r"\"[^\"]*\"|\([^)]*\)")
_FAILING_ROW = re.compile(r"Failing row contains \(.*\)", re.DOTALL)


def is_secret(name: str) -> bool:
    """Return whether a field of this name probably contains a secret."""
    return _SECRET_NAME.search(_WORD_ENDS.sub("_", name)) is not None


def scrubbed(text: str) -> str:
    """Return the text without the keys, tokens and passwords that the patterns recognize."""
    for pattern, instead in _SECRET_TEXTS:
        text = pattern.sub(instead, text)
    return text


def redacted_row(data: bytes) -> dict[str, str]:
    """Return a row as field → value as JSON text, with long values shortened and secrets hidden.

    Data other than a JSON object becomes a field without a name.
    """
    try:
        row = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        row = data.decode("utf-8", "replace")
    fields: Mapping[str, Any] = row if isinstance(row, dict) else {"": row}
    redacted: dict[str, str] = {}
    room = _MAX_ROW
    for at, (name, value) in enumerate(fields.items()):
        redacted_name = shortened(scrubbed(name[:_MAX_SEARCHED]), _MAX_VALUE)
        text = HIDDEN if is_secret(name) else _redacted_value(value)
        room -= len(redacted_name) + len(text)
        if room < 0:
            redacted["…"] = f"{len(fields) - at} more fields"
            break
        redacted[redacted_name] = text
    return redacted


def redacted_message(message: str | None, data: bytes) -> str | None:
    """Return the server's message about the row `data`, without the values of secret fields that it quotes."""
    if not message:
        return None
    # The quoted row may have secret values from the table's defaults, too. The values that were sent are in the sample.
    message = _FAILING_ROW.sub(_CUT_ROW, message[:_MAX_SEARCHED])
    if message == f"{_CUT_ROW}.":
        return None
    message = _KEY.sub(_redacted_key, message)
    for value in sorted(_secrets_of(data), key=len, reverse=True):
        message = message.replace(f'"{value}"', f'"{HIDDEN}"').replace(f"({value})", HIDDEN)
        if len(value) > 3:  # shorter ones are parts of other words
            message = message.replace(value, HIDDEN)
    return shortened(scrubbed(message), _MAX_MESSAGE)


def _redacted_key(quoted: re.Match[str]) -> str:
    return f"Key ({quoted['names']})={HIDDEN}" if is_secret(quoted["names"]) else quoted[0]


def without_quotes(message: str) -> str:
    """Return the server's message about a row too large to be searched, without any value that it quotes."""
    return shortened(scrubbed(_QUOTED.sub(HIDDEN, message[:_MAX_SEARCHED])), _MAX_MESSAGE)


def shortened(text: str, most: int, more: int = 0) -> str:
    """Return at most `most` characters of a text, with the number of missing ones; `more` were cut before."""
    missing = max(len(text) - most, 0) + max(more, 0)
    return f"{text[:most]}… ({missing} more characters)" if missing else text


def _redacted_value(value: Any) -> str:
    text = msgspec.json.encode(_without_secrets(value)).decode()
    return text if isinstance(value, str) else shortened(text, _MAX_VALUE)


def _without_secrets(value: Any) -> Any:
    if isinstance(value, str):
        return shortened(scrubbed(value[:_MAX_SEARCHED]), _MAX_VALUE, len(value) - _MAX_SEARCHED)
    if isinstance(value, dict):
        return {name: HIDDEN if is_secret(name) else _without_secrets(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_secrets(each) for each in value[:_MAX_VALUE]]
    return value


def _secrets_of(data: bytes) -> set[str]:
    """Return the texts and numbers in secret fields."""
    try:
        row = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return set()
    return set(_texts_in(row, secret=False))


def _texts_in(value: Any, *, secret: bool) -> Iterator[str]:
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _texts_in(each, secret=secret or is_secret(name))
    elif isinstance(value, list):
        for each in value:
            yield from _texts_in(each, secret=secret)
    elif secret and value not in (None, "", True, False):
        yield str(value)
