"""Addresses as users write them. Owns what is well-formed; knows no socket."""

from __future__ import annotations

from urllib.parse import urlsplit

from msgspec import Struct


class Address(Struct, frozen=True):
    """SCHEME://HOST:PORT/REST; what is missing is empty or None."""

    scheme: str = ""
    host: str = ""
    port: int | None = None
    rest: str = ""


def read_address(text: str) -> Address:
    """The parts of an address; none of them where it is malformed."""
    try:
        parts = urlsplit(text)
        return Address(parts.scheme, parts.hostname or "", parts.port, text.partition("://")[2].partition("/")[2])
    except ValueError:  # a port that is none, brackets without an end
        return Address()


def http_server(text: str) -> tuple[str, int] | None:
    """Host and port of http://HOST:PORT, None for anything else."""
    found = read_address(text)
    if found.scheme != "http" or not found.host or found.rest:
        return None
    return found.host, 80 if found.port is None else found.port
