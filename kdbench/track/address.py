"""Addresses of MLflow stores: how they are shown and stored, and where their passwords come from later."""

from __future__ import annotations

import ipaddress
import os
import re
from urllib.parse import unquote

from kdbench.redact import hides_password, redact_addresses, remember, without_hidden

TRACKING_URI = "MLFLOW_TRACKING_URI"
_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)([^/?#]*)@")


def is_server(uri: str) -> bool:
    """Whether the store is behind an MLflow server, which then keeps the artifacts too."""
    return uri.lower().startswith(("http://", "https://"))


def without_password(uri: str) -> str:
    """The address as it may be shown."""
    return redact_addresses(uri)


def with_password(uri: str) -> str:
    """The address as it can be used. Of one whose password is hidden, as in `study.json`, the password comes from
    MLFLOW_TRACKING_URI where that names the same store, and else from where the client looks by itself: PGPASSWORD
    and ~/.pgpass, MLFLOW_TRACKING_USERNAME with MLFLOW_TRACKING_PASSWORD, MLFLOW_TRACKING_TOKEN."""
    if hides_password(uri) or "://***@" in uri:
        given = os.environ.get(TRACKING_URI, "")
        if given and redact_addresses(given) == uri:
            uri = given
        else:
            uri = without_user(uri)[0] if is_server(uri) else without_hidden(uri)
    remember(uri)
    return uri


def without_user(address: str) -> tuple[str, str]:
    """An address without user and password, and these as `user:password`, empty where it has none."""
    user = _USER.match(address)
    return (address, "") if user is None else (user[1] + address[user.end() :], unquote(user[2]))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on `host`."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0]).is_loopback
    except ValueError:  # a name, or nothing, which means every address of the machine
        return False
