"""TLS and API keys of gRPC. Apart from the rest: who does not answer gRPC need not have it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from loki_rl.serving.security.api_keys import ApiKeys
from loki_rl.serving.security.tls import Certificate, TlsError
from loki_rl.serving.security.watched import Watched

log = logging.getLogger(__name__)

# Whoever asks how we are needs no key.
PROBES = frozenset({"/inference.GRPCInferenceService/ServerLive", "/inference.GRPCInferenceService/ServerReady"})
KEY_WANTED = "an API key is needed here: send the metadata 'authorization: Bearer KEY'"


class Doorkeeper(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Lets nobody without an API key in, before a message is read. owner: whose key the metadata of a call carries."""

    def __init__(self, keys: ApiKeys, refused: Callable[[], None]) -> None:
        self._keys = keys
        self._refused = refused

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        if details.method in PROBES or self.owner(details.invocation_metadata):
            return await continuation(details)
        self._refused()
        # On the wire a call of one message is a stream too; of this one no message is waited for.
        return grpc.stream_stream_rpc_method_handler(_deny)

    def owner(self, metadata: Any) -> str:
        shown = [value for name, value in metadata or () if name == "authorization"]
        return self._keys.owner(shown[0]) if len(shown) == 1 and isinstance(shown[0], str) else ""


async def _deny(_: Any, context: Any) -> None:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, KEY_WANTED)


def credentials(certificate: Certificate) -> Any:
    """Files are looked at before each handshake, and read again once they have changed. Raises TlsError."""

    def configured() -> Any:
        cert, key, client_ca = certificate.read()
        return grpc.ssl_server_certificate_configuration([(key, cert)], client_ca or None)

    watched, first = Watched(certificate.files), configured()

    def renewed() -> Any:
        try:
            return configured() if watched.changed() else None
        except TlsError as error:
            log.warning("the certificate stays as it was: %s", error)
            return None

    return grpc.dynamic_ssl_server_credentials(first, renewed, require_client_authentication=bool(certificate.client_ca))
