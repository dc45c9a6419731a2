"""TLS and API keys of HTTP: who shows a key is served, whoever does not gets 401 and costs no request."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loki_rl.errors import UserError
from loki_rl.serving.edge import limits
from loki_rl.serving.gateway.remote_state import StateError, source
from loki_rl.serving.load.http_sender import HttpSender
from loki_rl.serving.load.replay import replay
from loki_rl.serving.load.sender import ReplayError
from loki_rl.serving.security.api_keys import ApiKeys, add_key
from loki_rl.serving.security.credentials import Credentials
from loki_rl.serving.security.guards import Guards
from loki_rl.serving.security.watched import MOST_BYTES
from tests.serving.driving import eventually
from tests.serving.security.certificates import Authority
from tests.serving.site import INFER, Site

PAYLOADS = [np.arange(200_000, dtype=np.uint8)]
ROUTES = [
    ("POST", INFER),
    ("GET", "/v2"),
    ("GET", "/v2/models/reading"),
    ("POST", "/v2/repository/index"),
    ("GET", "/metrics"),
    ("GET", "/loki/state"),
    ("GET", "/loki/ledger"),
    ("POST", "/loki/run"),
    ("GET", "/nothing"),
]


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    add_key(tmp_path / "keys", "alice")
    return tmp_path / "keys"


@pytest.fixture
def keyed(responder: Any, key_file: Path) -> Iterator[Site]:
    site = Site(responder.endpoint, guards=Guards(api_key_file=str(key_file)))
    yield site
    site.close()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_without_a_key_nothing_is_answered_but_401(keyed: Site, responder: Any, method: str, path: str) -> None:
    wrong: tuple[dict[str, str], ...] = (
        {},
        bearer("x" * 43),
        bearer(""),
        {"Authorization": "Basic eDp5"},
        {"Authorization": "Bearer"},
    )
    for headers in wrong:
        status, said, told = keyed.ask(method, path, headers=headers)
        assert (status, told["www-authenticate"]) == (401, "Bearer")
        assert said == {"error": "an API key is needed here: send 'Authorization: Bearer KEY'"}
    assert not responder.entered


def test_whoever_shows_a_key_is_served_and_probes_need_none(keyed: Site, responder: Any, key_file: Path) -> None:
    key = add_key(key_file, "bob")
    assert keyed.ask("GET", "/v2/health/live")[0] == 200
    assert keyed.ask("GET", "/v2/health/ready")[0] == 200
    eventually(lambda: keyed.ask("GET", "/v2", headers=bearer(key))[0] == 200, "the new key is not known")
    first = key_file.read_text().split(":")[1].split()[0]
    assert keyed.ask("GET", "/loki/state", headers=bearer(first))[0] == 200
    assert not responder.entered


def test_top_says_that_a_key_is_missing(keyed: Site, key_file: Path) -> None:
    with source(f"http://127.0.0.1:{keyed.port}", Credentials(api_key_file=key_file)) as ask:
        assert ask().pipeline == "reading"
    with (
        pytest.raises(StateError, match="asks for an API key; give one that it knows with --api-key-file"),
        source(f"http://127.0.0.1:{keyed.port}") as ask,
    ):
        ask()


def test_a_key_that_is_taken_out_is_refused_and_a_file_that_is_none_changes_nothing(keyed: Site, key_file: Path) -> None:
    first = key_file.read_text().split(":")[1].strip()
    key_file.write_text("nonsense\n")
    fresh = key_file.with_name("fresh")
    second = add_key(fresh, "alice")
    # The nonsense has been looked at, or is skipped: either way the first key is good until there is another file.
    assert keyed.ask("GET", "/v2", headers=bearer(first))[0] == 200
    os.replace(fresh, key_file)
    eventually(lambda: keyed.ask("GET", "/v2", headers=bearer(second))[0] == 200, "the new file is not read")
    assert keyed.ask("GET", "/v2", headers=bearer(first))[0] == 401


@pytest.mark.parametrize("limit", ["in all", "of an address"])
def test_strangers_take_no_room_from_who_has_shown_a_key(
    responder: Any, key_file: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    if limit == "in all":
        monkeypatch.setattr(limits, "connections", lambda: 3)
    else:
        monkeypatch.setattr(limits, "MAX_PER_CLIENT", 3)
    site = Site(responder.endpoint, guards=Guards(api_key_file=str(key_file)))
    key = key_file.read_text().split(":")[1].strip()
    known = http.client.HTTPConnection("127.0.0.1", site.port, timeout=60)
    strangers = [http.client.HTTPConnection("127.0.0.1", site.port, timeout=60) for _ in range(4)]
    try:
        known.request("GET", "/v2", headers=bearer(key))
        assert known.getresponse().read()
        for one in strangers:
            one.request("GET", "/v2/health/live")
            assert one.getresponse().status == 200
        assert site.ask("GET", "/v2", headers=bearer(key))[0] == 200, "somebody else who has a key finds room"
        known.request("GET", "/v2", headers=bearer(key))
        assert known.getresponse().status == 200, "who has shown one stays"
        assert strangers[0].sock.recv(1) == b""
    finally:
        for one in (known, *strangers):
            one.close()
        site.close()


def test_a_body_without_a_key_is_not_read(keyed: Site, responder: Any) -> None:
    """The answer comes before the body has been sent."""
    with socket.create_connection(("127.0.0.1", keyed.port), timeout=60) as peer:
        peer.sendall(f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n".encode())
        said = b""
        while part := peer.recv(1 << 16):
            said += part
    assert said.startswith(b"HTTP/1.1 401 ")
    assert not responder.entered


def test_one_key_has_not_all_the_room(keyed: Site, responder: Any, key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits.Shares, "one", limits.Shares(0).one)
    key = key_file.read_text().split(":")[1].strip()
    body = b'{"inputs":[{"name":"image","datatype":"UINT8","shape":[3],"data":[1,2,3]}]}'
    status, said, _ = keyed.ask("POST", INFER, body, bearer(key))
    assert status == 429
    assert said["error"].endswith("inferences of one client are under way")
    assert not responder.entered


UNTRUSTED = r"the certificate of {} is not trusted \(.+\); name who signed it with --ca"


def test_a_replay_over_tls_shows_its_key(responder: Any, authority: Authority, key_file: Path) -> None:
    site = Site(responder.endpoint, 1 << 20, authority.guards(api_key_file=str(key_file)))
    url = f"https://127.0.0.1:{site.port}"
    try:
        mine = Credentials(api_key_file=key_file, ca=authority.ca)
        seen = replay(url, "reading", np.linspace(0, 0.2, 20), PAYLOADS, 30.0, credentials=mine)
        assert set(seen.outcomes) == {0}
        with pytest.raises(ReplayError, match="status 401: an API key is needed here"):
            HttpSender(url, "reading", None, 1.0, credentials=Credentials(ca=authority.ca))
        with pytest.raises(ReplayError, match=f"^{UNTRUSTED.format(url)}$"):
            HttpSender(url, "reading", None, 1.0, credentials=Credentials(api_key_file=key_file))
        with pytest.raises(StateError, match=f"^{UNTRUSTED.format(url)}$"), source(url) as ask:
            ask()
    finally:
        site.close()


def test_clients_show_a_certificate_where_one_is_asked_for(
    responder: Any, authority: Authority, stranger: Authority
) -> None:
    site = Site(responder.endpoint, guards=authority.guards(clients=True))
    url = f"https://127.0.0.1:{site.port}"
    try:
        with_one = Credentials(ca=authority.ca, client_cert=authority.client())
        replay(url, "reading", np.zeros(1), [PAYLOADS[0][:9]], 30.0, warmup=0, credentials=with_one)
        for shown in (None, stranger.client()):
            with pytest.raises(ReplayError, match=r"no answer to GET|is not an HTTP server"):
                HttpSender(url, "reading", None, 1.0, credentials=Credentials(ca=authority.ca, client_cert=shown))
    finally:
        site.close()
    assert len(responder.entered) == 1


def test_plain_peers_get_nothing_where_tls_is_spoken(responder: Any, authority: Authority) -> None:
    site = Site(responder.endpoint, guards=authority.guards())
    try:
        for said in (b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n", bytes(64), b"\x16\x03\x01\x00\xff" + bytes(255)):
            with socket.create_connection(("127.0.0.1", site.port), timeout=60) as peer:
                peer.sendall(said)
                peer.shutdown(socket.SHUT_WR)
                heard = b""
                while part := peer.recv(1 << 16):
                    heard += part
                assert b"HTTP" not in heard
        context = ssl.create_default_context(cafile=authority.ca)
        connection = http.client.HTTPSConnection("127.0.0.1", site.port, timeout=60, context=context)
        connection.request("GET", "/v2/health/live")
        assert connection.getresponse().status == 200
        connection.close()
    finally:
        site.close()


def test_the_oldest_handshake_of_who_has_most_makes_room(
    responder: Any, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loki_rl.serving.security.tls_server.MAX_HANDSHAKES", 3)
    site = Site(responder.endpoint, guards=authority.guards())
    try:
        addresses = ("127.0.0.2", "127.0.0.1", "127.0.0.1", "127.0.0.1")
        place = ("127.0.0.1", site.port)
        patient, *silent = [socket.create_connection(place, 60, source_address=(one, 0)) for one in addresses]
        assert silent[0].recv(1) == b""
        with ssl.create_default_context(cafile=str(authority.ca)).wrap_socket(
            patient, server_hostname="localhost"
        ) as client:
            assert client.version() == "TLSv1.3"
        for peer in silent:
            peer.close()
    finally:
        site.close()


def test_a_renewed_certificate_is_shown_without_a_restart(responder: Any, authority: Authority) -> None:
    site = Site(responder.endpoint, guards=authority.guards())
    try:
        before = ssl.get_server_certificate(("127.0.0.1", site.port))
        authority.sign("server")
        eventually(lambda: ssl.get_server_certificate(("127.0.0.1", site.port)) != before, "it is still the old one")
    finally:
        site.close()


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("", "holds no API key; make one with 'loki-rl keys api "),
        ("# nobody\n\n", "holds no API key"),
        ("alice\n", "line 1: is not NAME:KEY with a key of 16 characters or more"),
        ("alice:short\n", "line 1: is not NAME:KEY"),
        ("alice:0123456789abcdef\nbob:0123456789abcdef\n", "line 2: holds the key of 'alice' again"),
        ("alice:0123456789abcd ef\n", "line 1: is not NAME:KEY"),
    ],
)
def test_what_is_no_file_of_keys_is_told_in_a_sentence(tmp_path: Path, written: str, sentence: str) -> None:
    (tmp_path / "keys").write_text(written)
    with pytest.raises(UserError) as caught:
        Guards(api_key_file=str(tmp_path / "keys")).check_files()
    assert sentence in str(caught.value)
    assert "0123456789abcd" not in str(caught.value)


def test_a_file_of_keys_may_come_from_another_system(tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes(b"\xef\xbb\xbf# ours\r\nalice:" + b"a" * 43 + b"\r\n")
    keys = ApiKeys(tmp_path / "keys")
    assert keys.owner("Bearer " + "a" * 43) == "alice"
    assert not keys.owner("Bearer " + "a" * 42)


def test_files_of_tls_that_cannot_be_used_are_told_in_a_sentence(tmp_path: Path, authority: Authority) -> None:
    cert, key = authority.sign("third")
    other = authority.sign("fourth")[1]
    (tmp_path / "none").write_text("nothing")
    (tmp_path / "vast").write_bytes(bytes(MOST_BYTES + 1))
    os.mkfifo(tmp_path / "pipe")
    wrong = [
        (Guards(str(cert), str(other)), "are not a certificate and its key in PEM: "),
        (Guards(str(tmp_path / "none"), str(key)), "are not a certificate and its key in PEM"),
        (Guards(str(tmp_path / "absent"), str(key)), "absent cannot be read: No such file"),
        (Guards(str(cert), str(key), str(tmp_path / "none")), "none holds no certificates of authorities in PEM"),
        (Guards(api_key_file=str(tmp_path / "absent")), "absent cannot be read: No such file"),
        (Guards(native_keys=str(tmp_path)), "server.key_secret cannot be read"),
        (Guards(api_key_file=str(tmp_path / "pipe")), "pipe cannot be read: it is no regular file"),
        (Guards(str(cert), str(tmp_path / "pipe")), "pipe cannot be read: it is no regular file"),
        (Guards("/dev/zero", str(key)), "/dev/zero cannot be read: it is no regular file"),
        (Guards(str(cert), str(key), str(tmp_path / "vast")), "vast cannot be read: it is larger than any that is meant"),
    ]
    for guards, sentence in wrong:
        with pytest.raises(UserError) as caught:
            guards.check_files()
        assert sentence in str(caught.value)
        assert "\n" not in str(caught.value)
