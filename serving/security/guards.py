"""What guards the addresses of a plane, and which addresses need it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Struct

from loki_rl.errors import UserError
from loki_rl.options import Help
from loki_rl.serving.security.api_keys import ApiKeys
from loki_rl.serving.security.key_folder import ServerKeys
from loki_rl.serving.security.tls import Certificate
from loki_rl.serving.transport.addresses import is_loopback, native_server

# Fields of Guards, and flags of front ends, that name a file or folder.
FILES = ("tls_cert", "tls_key", "tls_client_ca", "api_key_file", "native_keys")


class GuardError(UserError):
    """An address must not be listened on as it is, or what guards it does not fit together; the message says what to do."""


class Guards(Struct, frozen=True):
    """Files of TLS and of keys. behind_proxy: something in front of the plane does what they would."""

    tls_cert: Annotated[str, Help("Certificate for HTTP and gRPC (PEM, with those between it and its root).")] = ""
    tls_key: Annotated[str, Help("Its private key (PEM, without a passphrase).")] = ""
    tls_client_ca: Annotated[str, Help("Ask clients of HTTP and gRPC for a certificate that one of these signed.")] = ""
    api_key_file: Annotated[str, Help("Ask them for a key of this file: lines NAME:KEY (see loki-rl keys api).")] = ""
    native_keys: Annotated[str, Help("Ask native clients for a key: folder of loki-rl keys server.")] = ""
    behind_proxy: Annotated[
        bool, Help("Listen where other hosts can reach it without TLS and keys: something in front of the plane has them.")
    ] = False

    def flags(self) -> list[str]:
        """For processes in front of the gateway."""
        told = {name: getattr(self, name) for name in FILES}
        return [f"--{name.replace('_', '-')}={Path(path).absolute()}" for name, path in told.items() if path]

    def keys(self) -> ApiKeys | None:
        """None where no key is asked for. Raises ApiKeyError."""
        return ApiKeys(Path(self.api_key_file)) if self.api_key_file else None

    def certificate(self) -> Certificate | None:
        """None without TLS."""
        return Certificate(self.tls_cert, self.tls_key, self.tls_client_ca) if self.tls_cert else None

    def check_files(self) -> None:
        """Raises ApiKeyError, TlsError or CurveKeyError for a file that cannot be used."""
        self.keys()
        certificate = self.certificate()
        if certificate is not None:
            certificate.context()
        if self.native_keys:
            ServerKeys(Path(self.native_keys))


def check_addresses(guards: Guards, host: str | None, native: str) -> list[str]:
    """Those hosts that strangers could reach without TLS and keys, which must be meant. host: of HTTP and gRPC, None without
    them (empty is every address); native: where native clients connect, empty without. Raises GuardError or AddressError."""
    if bool(guards.tls_cert) != bool(guards.tls_key):
        raise GuardError("TLS needs both a certificate and its key; give --tls-cert and --tls-key")
    if guards.tls_client_ca and not guards.tls_cert:
        raise GuardError("certificates of clients are asked for with TLS only; give --tls-cert and --tls-key too")
    if guards.native_keys and not native:
        raise GuardError("--native-keys is for native clients; give --native tcp://HOST:PORT too")
    secure = bool(guards.tls_cert and (guards.api_key_file or guards.tls_client_ca))
    wanted = "--tls-cert, --tls-key and --api-key-file (or --tls-client-ca)"
    bare = [] if host is None else _bare(guards, host, secure, wanted)
    if native:
        bare += _bare(guards, native_server(native)[0], bool(guards.native_keys), "--native-keys")
    return sorted({*bare})


def _bare(guards: Guards, host: str, secure: bool, wanted: str) -> list[str]:
    if secure or is_loopback(host):
        return []
    if not guards.behind_proxy:
        raise GuardError(
            f"'{host}' can be reached from other hosts: give {wanted}, listen on 127.0.0.1, or give --behind-proxy where "
            "something in front of the plane guards it"
        )
    return [host]
