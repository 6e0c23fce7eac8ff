"""What must not be seen of a row and of the server's words about it, and what is too long to be: cut."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

HIDDEN = "(hidden)"
_MOST_OF_A_VALUE = 200  # characters
_MOST_OF_A_ROW = 2000
_MOST_WORDS = 1000
_MOST_READ = 5000  # of a text: patterns are looked for in so much of it

_NAMES = (
    r"pass_?w(?:or)?d|passwort|passphrase|passcode|pwd|secret(?!ar)|token|api_?key|access_?key|private_?key"
    r"|encryption_?key|authori[sz]ation|credential|cookie|session_?id|card_?number"
)
# Alone only: these are parts of too many other words (`spinning`, `author`, `footprint`).
_WORDS = r"pin|auth|bearer|jwt|otp|sid|csrf|xsrf|ssn|iban|cvv|cvc"
_SECRET_NAME = re.compile(rf"{_NAMES}|(?:^|_)(?:{_WORDS})(?:$|_)", re.IGNORECASE)
_WORD_ENDS = re.compile(r"(?<=[a-z])(?=[A-Z])|\W+")
_SECRET_TEXTS = (
    (re.compile(r"eyJ[\w-]{5,}\.[\w-]{5,}(?:\.[\w-]*)?"), HIDDEN),  # a JWT
    (re.compile(r"sb_(?:secret|publishable)_[\w-]+"), HIDDEN),
    (re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE), rf"\1 {HIDDEN}"),
    # The password in an address; it may hold an @ that should have been encoded.
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s:/?#@]*:)[^\s/?#]+(?=@)", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*", re.DOTALL), HIDDEN),
    # `token=…`, `"password": "…"`: in addresses, connection strings, and JSON that is text
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
    """Whether a field of this name is likely to hold what nobody should read."""
    return _SECRET_NAME.search(_WORD_ENDS.sub("_", name)) is not None


def scrubbed(text: str) -> str:
    """The text without keys, tokens and passwords that can be recognised in it."""
    for pattern, instead in _SECRET_TEXTS:
        text = pattern.sub(instead, text)
    return text


def shown_row(data: bytes) -> dict[str, str]:
    """Field → its value as JSON text; long ones cut, secret ones hidden.

    What is no object becomes a field without a name.
    """
    try:
        row = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        row = data.decode("utf-8", "replace")
    fields: Mapping[str, Any] = row if isinstance(row, dict) else {"": row}
    shown: dict[str, str] = {}
    room = _MOST_OF_A_ROW
    for at, (name, value) in enumerate(fields.items()):
        shown_name = shortened(scrubbed(name[:_MOST_READ]), _MOST_OF_A_VALUE)
        text = HIDDEN if is_secret(name) else _shown_value(value)
        room -= len(shown_name) + len(text)
        if room < 0:
            shown["…"] = f"{len(fields) - at} more fields"
            break
        shown[shown_name] = text
    return shown


def shown_words(words: str | None, data: bytes) -> str | None:
    """What the server said of the row `data`, without the values of secret fields that it quotes."""
    if not words:
        return None
    # What the table's own defaults put into that row may be secret, too; and what was sent is shown anyway.
    words = _FAILING_ROW.sub(_CUT_ROW, words[:_MOST_READ])
    if words == f"{_CUT_ROW}.":
        return None
    words = _KEY.sub(lambda found: f"Key ({found['names']})={HIDDEN}" if is_secret(found["names"]) else found[0], words)
    for value in sorted(_secrets_of(data), key=len, reverse=True):
        words = words.replace(f'"{value}"', f'"{HIDDEN}"').replace(f"({value})", HIDDEN)
        if len(value) > 3:  # shorter ones are parts of other words
            words = words.replace(value, HIDDEN)
    return shortened(scrubbed(words), _MOST_WORDS)


def without_quotes(words: str) -> str:
    """What the server said of a row that is too large to be looked at, without the values that it quotes."""
    return shortened(scrubbed(_QUOTED.sub(HIDDEN, words[:_MOST_READ])), _MOST_WORDS)


def shortened(text: str, most: int, more: int = 0) -> str:
    """At most so many characters, and how many are missing; `more` were left out before."""
    missing = max(len(text) - most, 0) + max(more, 0)
    return f"{text[:most]}… ({missing} more characters)" if missing else text


def _shown_value(value: Any) -> str:
    text = msgspec.json.encode(_without_secrets(value)).decode()
    return text if isinstance(value, str) else shortened(text, _MOST_OF_A_VALUE)


def _without_secrets(value: Any) -> Any:
    if isinstance(value, str):
        return shortened(scrubbed(value[:_MOST_READ]), _MOST_OF_A_VALUE, len(value) - _MOST_READ)
    if isinstance(value, dict):
        return {name: HIDDEN if is_secret(name) else _without_secrets(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_secrets(each) for each in value[:_MOST_OF_A_VALUE]]
    return value


def _secrets_of(data: bytes) -> set[str]:
    """The texts and numbers in the fields that are secret."""
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
