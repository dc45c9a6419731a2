"""Addresses as users write them."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from msgspec import Struct

from loki_rl.errors import UserError


class AddressError(UserError):
    """An address is malformed, or must not be listened on; the message is one sentence for the user."""


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


def native_server(text: str) -> tuple[str, int]:
    """Host and port of tcp://HOST:PORT. Raises AddressError."""
    found = read_address(text)
    if found.scheme != "tcp" or not found.host or found.port is None or found.rest:
        raise AddressError(f"'{text}' is no address for native clients; write tcp://127.0.0.1:PORT")
    return found.host, found.port


def bracketed(host: str) -> str:
    """As an address has it."""
    return f"[{host}]" if ":" in host else host


def is_loopback(host: str) -> bool:
    """Whether only this host reaches it. Of names, localhost alone is known to be so."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def check_private(host: str) -> None:
    """Raise AddressError for a host that others may reach."""
    if not is_loopback(host):
        raise AddressError(
            f"'{host}' can be reached from other hosts, and a plane has neither keys nor TLS: listen on 127.0.0.1, "
            "or give --public (public=True) where something in front of it guards it"
        )
