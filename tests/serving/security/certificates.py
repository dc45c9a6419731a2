"""An authority of a test's own, and what it signs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from loki_rl.serving.security.guards import Guards

OPENSSL = shutil.which("openssl")
EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")


class Authority:
    """Files in a folder of its own. ca: its certificate."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self.ca = folder / f"{name}.pem"
        # Clients since Python 3.13 hold authorities to RFC 5280.
        use = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
        _openssl("req", "-x509", *EC, *use, "-subj", f"/CN={name}", "-keyout", folder / f"{name}.key", "-out", self.ca)

    def sign(self, name: str) -> tuple[Path, Path]:
        """Certificate and key, good for 127.0.0.1 and localhost."""
        folder, request = self._folder, self._folder / f"{name}.csr"
        cert, key, names = folder / f"{name}.pem", folder / f"{name}.key", folder / f"{name}.ext"
        names.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        _openssl("req", "-new", *EC[:-2], "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        by = ("-CA", self.ca, "-CAkey", folder / f"{self._name}.key", "-CAcreateserial")
        _openssl("x509", "-req", "-in", request, *by, "-days", "2", "-extfile", names, "-out", cert)
        return cert, key

    def guards(self, *, clients: bool = False, api_key_file: str = "") -> Guards:
        """clients: they need a certificate too."""
        cert, key = self.sign("server")
        return Guards(str(cert), str(key), str(self.ca) if clients else "", api_key_file)

    def client(self) -> Path:
        """Certificate and key of a client in one file."""
        cert, key = self.sign("client")
        both = self._folder / "both.pem"
        both.write_text(cert.read_text() + key.read_text())
        return both


def _openssl(*words: str | Path) -> None:
    subprocess.run([str(OPENSSL), *map(str, words)], check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    if OPENSSL is None:
        pytest.skip("openssl is not installed: there is nobody to sign certificates")
    return Authority(tmp_path_factory.mktemp("authority"), "ours")


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """One that nobody trusts."""
    if OPENSSL is None:
        pytest.skip("openssl is not installed: there is nobody to sign certificates")
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")
