"""TLS of HTTP and gRPC: certificates as files of PEM, which may be renewed while a plane serves."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from loki_rl.errors import UserError
from loki_rl.serving.security.watched import Watched, content

log = logging.getLogger(__name__)


class TlsError(UserError):
    """A certificate, key or authority cannot be used; the message is one sentence: where, what, what to do."""


class Certificate(Struct, frozen=True):
    """Files of a server. client_ca: authorities one of which must have signed the certificate of every client; empty:
    clients need none."""

    cert: str
    key: str
    client_ca: str = ""

    @property
    def files(self) -> list[str]:
        return [path for path in (self.cert, self.key, self.client_ca) if path]

    def read(self) -> tuple[bytes, bytes, bytes]:
        """Certificate, key and authorities, which have been checked. Raises TlsError."""
        self.context()
        return _read(self.cert), _read(self.key), _read(self.client_ca)

    def context(self) -> ssl.SSLContext:
        """Raises TlsError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        _load_pair(context, self.cert, self.key)
        if self.client_ca:
            context.verify_mode = ssl.CERT_REQUIRED
            _load_authorities(context, self.client_ca)
        return context


class Renewed:
    """The context for the next connection, as the files are now. Raises TlsError at first; later, what cannot be used is
    told in the log, and what was read before stays in force."""

    def __init__(self, certificate: Certificate) -> None:
        self._certificate = certificate
        self._watched = Watched(certificate.files)
        self.context = certificate.context()

    def look(self) -> None:
        if self._watched.changed():
            try:
                self.context = self._certificate.context()
                log.info("the certificate %s was read again", self._certificate.cert)
            except TlsError as error:
                log.warning("the certificate stays as it was: %s", error)


def client_context(ca: Path | None, cert: Path | None) -> ssl.SSLContext:
    """For clients. ca: authorities to trust instead of those of the system. cert: PEM with their own certificate and key,
    for servers that ask for one. Raises TlsError."""
    context = ssl.create_default_context() if ca is None else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is not None:
        _load_authorities(context, str(ca))
    if cert is not None:
        _load_pair(context, str(cert), str(cert))
    return context


def _load_pair(context: ssl.SSLContext, cert: str, key: str) -> None:
    for path in (cert, key):
        _read(path)
    try:
        # Asked on a terminal, nobody would answer.
        context.load_cert_chain(cert, key, password=_no_password(key))
    except (ssl.SSLError, OSError) as error:
        raise TlsError(f"{cert} and {key} are not a certificate and its key in PEM: {_why(error)}") from None


def _no_password(key: str) -> Callable[[], str]:
    def ask() -> str:
        raise TlsError(f"{key} is encrypted; give a key without a passphrase, readable for you alone")

    return ask


def _load_authorities(context: ssl.SSLContext, ca: str) -> None:
    _read(ca)
    try:
        context.load_verify_locations(ca)
    except (ssl.SSLError, OSError) as error:
        raise TlsError(f"{ca} holds no certificates of authorities in PEM: {_why(error)}") from None


def _why(error: OSError) -> str:
    return str(getattr(error, "reason", None) or error)


def _read(path: str) -> bytes:
    try:
        return content(Path(path)) if path else b""
    except OSError as error:
        raise TlsError(f"{path} cannot be read: {error.strerror}") from None


def untrusted(server: object, error: ssl.SSLCertVerificationError) -> str:
    """A sentence for a client that takes a server for another one."""
    return f"the certificate of {server} is not trusted ({error.verify_message}); name who signed it with --ca"
