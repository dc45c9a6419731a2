"""Addresses as users write them."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from msgspec import Struct

from loki_rl.errors import UserError


class AddressError(UserError):
    """An address is malformed; the message is one sentence for the user."""


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


class HttpServer(Struct, frozen=True):
    """Where a server listens, and whether it speaks TLS."""

    host: str
    port: int
    tls: bool = False

    @property
    def name(self) -> str:
        """As a Host header has it."""
        return f"{bracketed(self.host)}:{self.port}"

    def __str__(self) -> str:
        return f"http{'s' * self.tls}://{self.name}"


def http_server(text: str) -> HttpServer | None:
    """Of http://HOST:PORT or https://HOST:PORT, None for anything else."""
    found = read_address(text)
    if found.scheme not in ("http", "https") or not found.host or found.rest:
        return None
    tls = found.scheme == "https"
    return HttpServer(found.host, (443 if tls else 80) if found.port is None else found.port, tls)


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
