"""Key pairs of ZeroMQ's CURVE, for every endpoint that other hosts can reach."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import zmq
from msgspec import Struct
from zmq.auth.thread import ThreadAuthenticator

from loki_rl.errors import UserError
from loki_rl.serving.transport.addresses import is_loopback, read_address
from loki_rl.serving.transport.multipart import Context

# Of whom a server asks who may come; without a name libzmq would not ask.
DOMAIN = "loki"
# Longest time from a connection to the end of its handshake [ms].
_HANDSHAKE_MS = 10_000


class CurveKeyError(UserError):
    """A key is missing or is none; the message says where and what to do."""


class KeyPair(Struct, frozen=True):
    """Text of 40 characters each (Z85)."""

    public: str
    secret: str

    def __repr__(self) -> str:
        """Without the secret: what is written into logs must not hold it."""
        return f"KeyPair({self.public})"


def make_key_pair() -> KeyPair:
    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode(), secret.decode())


def needs_keys(endpoint: str) -> bool:
    """Whether other hosts can reach it."""
    found = read_address(endpoint)
    return found.scheme == "tcp" and not is_loopback(found.host)


def on_network(endpoint: str) -> bool:
    """Whether keys mean anything there: within a host, files have owners."""
    return read_address(endpoint).scheme == "tcp"


def secure_server(socket: zmq.Socket[bytes], pair: KeyPair) -> None:
    """Before it is bound. Whoever connects has to know the public key, and to be let in by an `Authenticator`."""
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt_string(zmq.CURVE_SECRETKEY, pair.secret)
    socket.setsockopt_string(zmq.ZAP_DOMAIN, DOMAIN)
    socket.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)


def bind_secured(socket: zmq.Socket[bytes], endpoint: str, pair: KeyPair) -> None:
    """Bind one endpoint of a socket so that keys are asked for there; what is bound to it otherwise has none. Raises
    ZMQError."""
    secure_server(socket, pair)
    socket.bind(endpoint)
    # What a socket is set to counts for what is bound from then on.
    socket.setsockopt(zmq.CURVE_SERVER, 0)


def secure_client(socket: zmq.Socket[bytes], pair: KeyPair, server: str) -> None:
    """Before it is connected. server: public key of the one that is meant: nobody else can answer in its place."""
    socket.setsockopt_string(zmq.CURVE_SERVERKEY, server)
    socket.setsockopt_string(zmq.CURVE_PUBLICKEY, pair.public)
    socket.setsockopt_string(zmq.CURVE_SECRETKEY, pair.secret)


class _Asked:
    """As pyzmq asks. It answers from a thread of its own: a fault would end that, and nobody would get in any more."""

    def __init__(self, allows: Callable[[str], bool]) -> None:
        self._allows = allows

    def callback(self, _domain: str, key: bytes) -> bool:
        try:
            return self._allows(key.decode())
        except Exception:
            logging.getLogger(__name__).exception("a client's key cannot be looked up; it is refused")
            return False


class Authenticator:
    """Says who may come to the secured servers of a context. allows: whether a public key may; it is asked from a thread.
    To be made before they are bound; where it is closed, nobody new comes."""

    def __init__(self, context: Context, allows: Callable[[str], bool]) -> None:
        quiet = logging.getLogger("zmq.auth")
        quiet.setLevel(logging.ERROR)  # a line for every stranger would fill a disk
        self._thread: Any = ThreadAuthenticator(context, log=quiet)
        self._thread.start()
        self._thread.configure_curve_callback(DOMAIN, _Asked(allows))

    def close(self) -> None:
        self._thread.stop()
