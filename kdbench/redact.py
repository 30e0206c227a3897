"""What must not leave kdbench as it is: secrets in text, and characters that a terminal would obey.

Text leaves through errors, logs, records, `study.json`, MLflow and the terminal. A secret is known by its place (the
password of an address, the signature of a signed URL, the header of a request), by its form (an access key of AWS), or
by its value (the password of an address that was used, a variable of the environment such as PGPASSWORD).
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, unquote

HIDDEN = "***"
SHORTEST = 6  # a secret of fewer characters is hidden in its place only: elsewhere it would hide ordinary words

# Up to the last '@' of the word, because people paste passwords with '/', ':' and '@' in them unescaped.
_PASSWORD = re.compile(r"""([a-z][a-z0-9+.-]*://)([^\s:/?#@'"<>]*):([^\s'"<>]*)@""", re.IGNORECASE)
# An address that a message has cut off before its '@'.
_CUT = re.compile(
    r"""([a-z][a-z0-9+.-]*://[^\s:/?#@'"<>]*):(?!\d+[/.])[^\s'"<>@]*?(?=\.\.\.)""", re.IGNORECASE
)  # in messages
_LONE_TOKEN = re.compile(r"""(https?://)([^\s:/?#@'"<>]+)@""", re.IGNORECASE)
# The same without a scheme, as people write it by mistake: whole, or quoted and cut off.
_BARE = re.compile(r"""(?<![\w/.:-])([\w.-]+):([^\s/'"@]{6,})@(?=[\w\[])""")
_BARE_CUT = re.compile(r"""(?<=['"])([\w.-]+):[^\s/'"@]{6,}(?=\.\.\.['"])""")
_QUERY = re.compile(
    r"""([?&;](?:[\w.-]*(?:password|passwd|pwd|secret|token|credential|signature|access_?key(?:_?id)?)|key|sig|pass)=)"""
    r"""([^&;\s'"<>#]+)""",
    re.IGNORECASE,
)
_ASSIGNED = re.compile(
    r"""(\b[\w.-]*(?:password|passwd|passphrase|secret|secret_?key|access_?key|api_?key|account_?key|token)"""
    r"""(?:\s*=(?!=)\s*|["']\s*:\s*))("[^"\n]*"|'[^'\n]*'|[^\s,;&'")}\]]+)""",
    re.IGNORECASE,
)
_HEADER = re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{8,}")
_FORM = re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{20,}|\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*")
_SECRET_NAME = re.compile(
    r"(PASSWORD|PASSWD|PASSPHRASE|PGPASS|SECRET|SECRET_?KEY|ACCESS_?KEY|ACCESS_?KEY_ID|API_?KEY|ACCOUNT_?KEY|TOKEN"
    r"|CREDENTIALS?|CONNECTION_STRING)$",
    re.IGNORECASE,
)
_used: set[str] = set()  # passwords of addresses that this process was given


def redact_addresses(text: str) -> str:
    """The text without passwords and tokens of the addresses in it: for what is read back, such as `study.yaml`.

    `postgresql://me:secret@host/db` becomes `postgresql://me:***@host/db`, whatever the scheme.
    """
    if "://" in text:
        text = _PASSWORD.sub(rf"\1\2:{HIDDEN}@", text)
        text = _LONE_TOKEN.sub(lambda found: found[0] if found[2] == HIDDEN else f"{found[1]}{HIDDEN}@", text)
        text = _CUT.sub(rf"\1:{HIDDEN}", text)
        text = _QUERY.sub(rf"\1{HIDDEN}", text)
    return _FORM.sub(HIDDEN, text)


def redact(text: str) -> str:
    """The text without secrets: for people and logs. Doing it twice changes nothing."""
    text = redact_addresses(text)
    text = _BARE.sub(rf"\1:{HIDDEN}@", text)
    text = _BARE_CUT.sub(rf"\1:{HIDDEN}", text)
    text = _HEADER.sub(rf"\1 {HIDDEN}", text)
    text = _ASSIGNED.sub(lambda found: f"{found[1]}{HIDDEN}", text)
    for secret in sorted(_known(), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def redacted(value: Any, how: Callable[[str], str] = redact) -> Any:
    """A copy of plain values (mappings, lists, text, numbers) with `how` applied to all text but the keys.

    With `redact`, text under a key such as `password` is hidden whatever it is.
    """
    if isinstance(value, str):
        return how(value)
    if isinstance(value, Mapping):
        return {
            key: HIDDEN
            if how is redact and isinstance(item, str) and item and _SECRET_NAME.search(str(key))
            else redacted(item, how)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [redacted(item, how) for item in value]
    return value


def remember(address: str) -> None:
    """Hide the password of this address from now on wherever `redact` meets it, also outside of the address."""
    for found in _PASSWORD.finditer(address):
        _used.update(form for form in (found[3], unquote(found[3]), quote(unquote(found[3]), safe="")) if form)


def hides_password(address: str) -> bool:
    """Whether a password of the address has been taken out of it."""
    return any(found[3] == HIDDEN for found in _PASSWORD.finditer(address))


def without_hidden(address: str) -> str:
    """The address without the mark that stands for its password: `postgresql://me@host/db`."""
    return address.replace(f":{HIDDEN}@", "@").replace(f"://{HIDDEN}@", "://")


def _known() -> set[str]:
    """Secrets by value that are long enough to be looked for anywhere."""
    named = {value for name, value in os.environ.items() if _SECRET_NAME.search(name)}
    return {secret for secret in named | _used if len(secret) >= SHORTEST and secret != HIDDEN}


def printable(text: str, keep: str = "\n") -> str:
    """The text with characters that a terminal would obey shown as escapes, `\\x1b` for one. keep: left as they are."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def shown(text: str) -> str:
    """Text of others, such as the message of an error, as it may be printed: without secrets, nothing to obey."""
    return printable(redact(text))


def redact_logs() -> None:
    """From now on, let no record of `logging` in this process carry a secret, whoever writes it."""
    make = logging.getLogRecordFactory()
    if getattr(make, "redacts", False):
        return

    def factory(*args: Any, **facts: Any) -> logging.LogRecord:
        record = make(*args, **facts)
        try:
            text = record.getMessage()
        except (TypeError, ValueError):  # arguments that do not fit the format: logging reports it
            return record
        if (clean := redact(text)) != text:
            record.msg, record.args = clean, None
        return record

    factory.redacts = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(factory)
