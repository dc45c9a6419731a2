"""API keys of HTTP and gRPC: a file of lines NAME:KEY, which may change while a plane serves."""

from __future__ import annotations

import hmac
import logging
import re
import secrets
from hashlib import sha256
from pathlib import Path

from loki_rl.errors import UserError
from loki_rl.serving.folder import private
from loki_rl.serving.security.watched import Watched, content

log = logging.getLogger(__name__)

# Bytes of chance in a key that is made here.
KEY_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LINE = re.compile(rf"(?P<name>{_NAME.pattern}):(?P<key>[!-~]{{16,512}})")
_SCHEME = "bearer "


class ApiKeyError(UserError):
    """A file of API keys cannot be used; the message is one sentence: where, what, what to do."""


class ApiKeys:
    """Of a server. Raises ApiKeyError for a file that has none, or something else."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._watched = Watched([path])
        self._owners = _owners(path)

    def look(self) -> None:
        """Read the file again if it has changed; where it cannot be used, what it held before stays in force."""
        if self._watched.changed():
            try:
                self._owners = _owners(self._path)
                log.info("%s holds %d API keys now", self._path, len(self._owners))
            except ApiKeyError as error:
                log.warning("the API keys stay as they were: %s", error)

    def owner(self, authorization: str) -> str:
        """Whose key a header `Authorization: Bearer KEY` carries; empty where it carries none. Takes as long for every
        key."""
        if authorization[: len(_SCHEME)].lower() != _SCHEME:
            return ""
        digest = _digest(authorization[len(_SCHEME) :].strip())
        found = ""
        for known, name in self._owners.items():
            if hmac.compare_digest(known, digest):
                found = name
        return found


def own_key(path: Path) -> str:
    """The key that a client sends: the first of the file. Raises ApiKeyError."""
    return next(iter(_lines(path)))


def add_key(path: Path, name: str) -> str:
    """A new key for this name, written behind those of the file, which is made if need be. Raises ApiKeyError."""
    key = secrets.token_urlsafe(KEY_BYTES)
    if not _NAME.fullmatch(name):
        raise ApiKeyError(f"'{name}' is no name for a key: use up to 64 letters, digits, dots, dashes and underscores")
    try:
        before = _text(path) if path.exists() else ""
        with private(path, "ab") as file:
            file.write(f"{'' if not before or before.endswith(chr(10)) else chr(10)}{name}:{key}\n".encode())
    except OSError as error:
        raise ApiKeyError(f"{path} cannot be written: {error.strerror}; name another file") from None
    return key


def _owners(path: Path) -> dict[bytes, str]:
    """Digest of each key -> its name. Two keys of one name let a client change over."""
    return {_digest(key): name for key, name in _lines(path).items()}


def _lines(path: Path) -> dict[str, str]:
    """Key -> name."""
    found: dict[str, str] = {}
    for number, line in enumerate(_text(path).splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _LINE.fullmatch(text)
        if match is None:  # the line itself may be most of a key, and is not told
            raise ApiKeyError(
                f"{path}, line {number}: is not NAME:KEY with a key of 16 characters or more, without spaces; correct it, "
                "or make one with 'loki-rl keys api'"
            )
        if match["key"] in found:
            raise ApiKeyError(f"{path}, line {number}: holds the key of '{found[match['key']]}' again; give each its own")
        found[match["key"]] = match["name"]
    if not found:
        raise ApiKeyError(f"{path} holds no API key; make one with 'loki-rl keys api {path} NAME'")
    return found


def _text(path: Path) -> str:
    try:
        return content(path).decode("utf-8-sig")  # as some editors write it
    except UnicodeDecodeError:
        raise ApiKeyError(f"{path} is not UTF-8 text; name the file that is meant") from None
    except OSError as error:
        raise ApiKeyError(f"the API keys in {path} cannot be read: {error.strerror}") from None


def _digest(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogateescape")).digest()
