"""Addresses of this host. Owns the check that an endpoint is one, which holds until planes have keys; knows no socket."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit


class LoopbackError(ValueError):
    """An endpoint is malformed or not on this host; the message says why and what to do."""


def check_loopback(endpoint: str) -> str:
    """The endpoint itself. Raises LoopbackError."""
    parts = urlsplit(endpoint)
    try:
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if parts.scheme != "tcp" or not host or not port:
        raise LoopbackError(f"'{endpoint}' is not an address of a plane; write tcp://127.0.0.1:PORT")
    if not _here(host):
        raise LoopbackError(f"'{endpoint}' is not on this host; planes have no keys yet, so nodes join over 127.0.0.1 only")
    return endpoint


def _here(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
