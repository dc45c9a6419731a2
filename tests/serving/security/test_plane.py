"""A plane that other hosts could reach: every way to it asks for a key, and its own processes need none of the user."""

from __future__ import annotations

import stat
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from loki_rl.core.options import ClusterOptions
from loki_rl.serving.gateway.client import Client, ClientError
from loki_rl.serving.process.launch import LocalPlane
from loki_rl.serving.security.api_keys import add_key
from loki_rl.serving.security.credentials import Credentials
from loki_rl.serving.security.guards import Guards
from loki_rl.serving.security.key_folder import allow, make_client, make_server
from loki_rl.serving.transport.addresses import HttpServer
from tests.serving.security.certificates import Authority

STATIC = {"policy": "static", "policy_options": {"servers": 3, "demand_rps": 1.0}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    server = make_server(tmp_path / "plane")
    allow(tmp_path / "plane", "alice", make_client(tmp_path / "alice", server))
    add_key(tmp_path / "api", "alice")
    return tmp_path


@pytest.fixture
def plane(quick_traffic: ClusterOptions, folder: Path, authority: Authority) -> Iterator[LocalPlane]:
    cert, key = authority.sign("server")
    guards = Guards(str(cert), str(key), api_key_file=str(folder / "api"), native_keys=str(folder / "plane"))
    everywhere = {"http_host": "0.0.0.0", "http_port": 0, "grpc_port": 0, "native": "tcp://0.0.0.0:0"}
    with LocalPlane(quick_traffic, guards=guards, **everywhere, **STATIC) as made:  # type: ignore[arg-type]
        yield made


def test_every_way_in_asks_for_a_key(
    plane: LocalPlane, folder: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    native = plane.native.replace("0.0.0.0", "127.0.0.1")
    assert plane.http_port is not None
    server = HttpServer("127.0.0.1", plane.http_port, tls=True)
    with Client(native, keys=folder / "alice") as client:
        assert client.infer().outcome == "ok"
        with Client(native, 0.5) as stranger, pytest.raises(ClientError):
            stranger.describe()
        mine = Credentials(api_key_file=folder / "api", ca=authority.ca)
        for shown, status in ((mine.headers(), 200), ({}, 401)):
            connection = mine.connection(server, 60.0)
            connection.request("GET", "/loki/state", headers=shown)
            assert connection.getresponse().status == status
            connection.close()
        with pytest.raises((urllib.error.URLError, OSError)):
            urllib.request.urlopen(f"http://127.0.0.1:{plane.http_port}/v2/health/live", timeout=60)
        assert client.ledger().tally.arrivals == 1
    assert "without TLS" not in caplog.text


def test_no_key_stands_on_a_command_line_or_in_an_environment(plane: LocalPlane, folder: Path) -> None:
    """Paths do; files of others are for their user alone."""
    secrets = [(folder / "api").read_text().split(":")[1].strip()]
    secrets += [(folder / "plane" / "server.key_secret").read_text().split('secret-key = "')[1][:40]]
    for pid in plane.pids.values():
        for what in ("cmdline", "environ"):
            said = Path(f"/proc/{pid}/{what}").read_bytes().decode("utf-8", "replace")
            assert not any(secret in said for secret in secrets)
    for path in folder.rglob("*key_secret"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "api").stat().st_mode) == 0o600
