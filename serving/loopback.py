"""Addresses of this host. Owns the check that an endpoint is one, which holds until planes have keys; knows no socket."""

from __future__ import annotations

from ipaddress import ip_address

from loki_rl.serving.addresses import read_address


class LoopbackError(ValueError):
    """An endpoint is malformed or not on this host; the message says why and what to do."""


def check_loopback(endpoint: str) -> str:
    """The endpoint itself. Raises LoopbackError."""
    found = read_address(endpoint)
    if found.scheme != "tcp" or not found.host or not found.port:
        raise LoopbackError(f"'{endpoint}' is not an address of a plane; write tcp://127.0.0.1:PORT")
    if not _here(found.host):
        raise LoopbackError(f"'{endpoint}' is not on this host; planes have no keys yet, so nodes join over 127.0.0.1 only")
    return endpoint


def _here(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
