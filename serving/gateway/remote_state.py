"""The state of a running plane, asked for from outside."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPException

import msgspec

from loki_rl.decoding import UNREADABLE
from loki_rl.errors import FailureError
from loki_rl.serving.gateway.client import Client
from loki_rl.serving.security.credentials import Credentials
from loki_rl.serving.security.tls import untrusted
from loki_rl.serving.state import PlaneState
from loki_rl.serving.transport.addresses import AddressError, HttpServer, http_server
from loki_rl.serving.transport.protocol import MSGPACK

# What other servers of the protocol say to a path that they do not know; Triton's says 400.
_NO_SUCH_ROUTE = {HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED}


class StateError(FailureError):
    """The plane cannot be asked; the message says why."""


class NoStateError(StateError):
    """Who answers is a server of another kind, which has no such state."""


@contextmanager
def source(url: str, credentials: Credentials | None = None) -> Iterator[Callable[[], PlaneState]]:
    """A function that asks the plane at http://HOST:PORT (or https), tcp://HOST:PORT or ipc://PATH. Asking raises StateError
    or ClientError; another URL raises AddressError, and credentials that cannot be used ApiKeyError, TlsError or
    CurveKeyError."""
    shown = credentials or Credentials()
    address = http_server(url)
    if address is not None:
        yield lambda: _ask_http(address, shown)
    elif url.startswith(("tcp://", "ipc://")):
        with Client(url, keys=shown.native()) as client:
            yield client.state
    else:
        raise AddressError(f"'{url}' is not http://HOST:PORT (or https), tcp://HOST:PORT or ipc://PATH")


def _ask_http(server: HttpServer, credentials: Credentials) -> PlaneState:
    connection = credentials.connection(server, 5.0)
    try:
        connection.request("GET", "/loki/state", headers={"Accept": MSGPACK, **credentials.headers()})
        answer = connection.getresponse()
        content = answer.read()
        if answer.status == HTTPStatus.UNAUTHORIZED:
            raise StateError(f"{server} asks for an API key; give one that it knows with --api-key-file")
        if answer.status in _NO_SUCH_ROUTE:
            raise NoStateError(f"{server} is a server of another kind: it tells no state")
        if answer.status != HTTPStatus.OK:
            raise StateError(f"{server} was asked for its state and answered with status {answer.status}")
        return msgspec.msgpack.decode(content, type=PlaneState)
    except ssl.SSLCertVerificationError as error:
        raise StateError(untrusted(server, error)) from None
    except OSError as error:
        raise StateError(f"nobody answers at {server}: {error}") from None
    except HTTPException:
        raise StateError(f"what answers at {server.name} is not an HTTP server") from None
    except UNREADABLE as error:
        raise StateError(f"{server} is not a plane of this version: {error}") from None
    finally:
        connection.close()
