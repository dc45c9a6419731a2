"""What a client shows, and whom it trusts."""

from __future__ import annotations

import ssl
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Annotated

from msgspec import Struct

from loki_rl.options import Help
from loki_rl.serving.security.api_keys import own_key
from loki_rl.serving.security.key_folder import ClientKeys
from loki_rl.serving.security.tls import client_context
from loki_rl.serving.transport.addresses import HttpServer


class Credentials(Struct, frozen=True):
    """Files of a client. Its methods raise ApiKeyError or TlsError for those that cannot be used."""

    api_key_file: Annotated[Path | None, Help("Send the first API key of this file (lines NAME:KEY), by HTTP.")] = None
    ca: Annotated[Path | None, Help("Trust https:// servers that one of these signed, not the system's (PEM).")] = None
    client_cert: Annotated[Path | None, Help("Show https:// servers this certificate (PEM, with its key).")] = None
    keys: Annotated[Path | None, Help("Key pair for tcp://: folder of loki-rl keys client.")] = None

    def headers(self) -> dict[str, str]:
        return {} if self.api_key_file is None else {"Authorization": f"Bearer {own_key(self.api_key_file)}"}

    def native(self) -> ClientKeys | None:
        """None without keys. Raises CurveKeyError."""
        return None if self.keys is None else ClientKeys(self.keys)

    def context(self, server: HttpServer) -> ssl.SSLContext | None:
        """None where no TLS is spoken."""
        return client_context(self.ca, self.client_cert) if server.tls else None

    def connection(self, server: HttpServer, timeout_s: float) -> HTTPConnection:
        """Not connected yet; requests on it need `headers`."""
        context = self.context(server)
        if context is None:
            return HTTPConnection(server.host, server.port, timeout=timeout_s)
        return HTTPSConnection(server.host, server.port, timeout=timeout_s, context=context)
