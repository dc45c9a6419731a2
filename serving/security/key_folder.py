"""Folders of key pairs: of a plane for its native clients, and of a client. Files are those of zmq.auth: NAME.key is public,
NAME.key_secret is not."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from zmq import auth

from loki_rl.serving.folder import PRIVATE_FILE, PRIVATE_FOLDER
from loki_rl.serving.security.watched import Sign, sign
from loki_rl.serving.transport.curve import CurveKeyError, KeyPair

log = logging.getLogger(__name__)

SERVER, CLIENT = "server", "client"
# In a server's folder: public keys of those who may come.
ALLOWED = "clients"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


class ServerKeys:
    """Of a plane. Raises CurveKeyError."""

    def __init__(self, folder: Path) -> None:
        self.pair = _pair(folder / f"{SERVER}.key_secret", f"loki-rl keys server {folder}")
        self._allowed = folder / ALLOWED
        self._seen = _files(self._allowed)
        self._clients = frozenset(_client(path) for path in self._seen)

    def allows(self, public: str) -> bool:
        """Whether a client with this public key may come, by the files as they are now. One that cannot be read lets nobody
        in, and keeps nobody else from coming or going; where there is no folder to read, those of before count."""
        try:
            files = _files(self._allowed)
        except CurveKeyError as error:
            log.warning("the keys of native clients stay as they were: %s", error)
            return public in self._clients
        if files != self._seen:
            self._seen, self._clients = files, frozenset(_usable(files))
        return public in self._clients


class ClientKeys:
    """Of a client, with the public key of the plane that it means. Raises CurveKeyError."""

    def __init__(self, folder: Path) -> None:
        make = f"loki-rl keys client {folder} --server FILE"
        self.pair = _pair(folder / f"{CLIENT}.key_secret", make)
        self.server = _public(folder / f"{SERVER}.key", make)


def make_server(folder: Path) -> Path:
    """A key pair for a plane in a new folder; the file with its public key. Raises CurveKeyError."""
    public = _make(folder, SERVER)
    (folder / ALLOWED).mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    return public


def make_client(folder: Path, server: Path) -> Path:
    """A key pair for a client of the plane with the public key in the file `server`; the file with its own. Raises
    CurveKeyError."""
    theirs = _public(server, "loki-rl keys server FOLDER")
    public = _make(folder, CLIENT)
    _write_public(folder / f"{SERVER}.key", theirs)
    return public


def allow(folder: Path, name: str, client: Path) -> Path:
    """Let the client with the public key in the file `client` come to the plane whose folder this is; the file that says so.
    Raises CurveKeyError."""
    if not _NAME.fullmatch(name) or name.startswith("."):
        raise CurveKeyError(f"'{name}' is no name for a client: use up to 64 letters, digits, dots, dashes and underscores")
    ServerKeys(folder)
    theirs, target = _public(client, "loki-rl keys client FOLDER --server FILE"), folder / ALLOWED / f"{name}.key"
    if target.exists():
        raise CurveKeyError(f"{target} is there already; remove it, or give this client another name")
    _write_public(target, theirs)
    return target


def _make(folder: Path, name: str) -> Path:
    secret = folder / f"{name}.key_secret"
    if secret.exists():
        raise CurveKeyError(f"{secret} is there already, and others may count on it; remove it, or name another folder")
    try:
        folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        # Closed before there is anything to see.
        secret.touch(mode=PRIVATE_FILE)
        public, _ = auth.create_certificates(folder, name)
        for path in (secret, Path(public)):
            path.chmod(PRIVATE_FILE)
    except OSError as error:
        raise CurveKeyError(f"no keys can be written to {folder}: {error.strerror}; name another folder") from None
    return Path(public)


def _write_public(path: Path, public: str) -> None:
    """As zmq.auth reads it."""
    fresh = path.with_suffix(".new")
    try:
        fresh.touch(mode=PRIVATE_FILE)
        fresh.write_text(f'metadata\ncurve\n    public-key = "{public}"\n', encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        raise CurveKeyError(f"{path} cannot be written: {error.strerror}") from None


def _files(folder: Path) -> dict[Path, Sign | None]:
    """Those of clients, as they are now. Raises CurveKeyError."""
    if not folder.is_dir():
        raise CurveKeyError(f"there is no folder {folder}; make it with 'loki-rl keys server'")
    try:
        return {path: sign(path) for path in sorted(folder.glob("*.key"))}
    except OSError as error:
        raise CurveKeyError(f"{folder} cannot be read: {error.strerror}") from None


def _usable(files: Iterable[Path]) -> Iterator[str]:
    for path in files:
        try:
            yield _client(path)
        except CurveKeyError as error:
            log.warning("a native client cannot come: %s", error)


def _client(path: Path) -> str:
    return _public(path, "loki-rl keys allow")


def _public(path: Path, make: str) -> str:
    return _read(path, make)[0]


def _pair(path: Path, make: str) -> KeyPair:
    public, secret = _read(path, make)
    if not secret:
        raise CurveKeyError(f"{path} holds no secret key; make one with '{make}'")
    return KeyPair(public, secret)


def _read(path: Path, make: str) -> tuple[str, str]:
    """Public key, and the secret one if it is there."""
    try:
        public, secret = auth.load_certificate(path)
        found = public.decode("ascii"), (secret or b"").decode("ascii")
    except OSError as error:
        raise CurveKeyError(f"{path} cannot be read: {error.strerror or 'no such file'}; make it with '{make}'") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise CurveKeyError(f"{path} is no file of a CURVE key: {error}; make it with '{make}'") from None
    if len(found[0]) != 40 or len(found[1]) not in (0, 40):
        raise CurveKeyError(f"{path} holds a key that has not 40 characters; make it with '{make}'")
    return found
