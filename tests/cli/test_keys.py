"""The commands that make keys: what they write is what planes and clients read, and mistakes are one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from loki_rl.serving.security.api_keys import ApiKeys, own_key
from loki_rl.serving.security.key_folder import ClientKeys, ServerKeys
from tests.cli.conftest import Call


def test_a_plane_knows_the_clients_that_were_let_in(call: Call, tmp_path: Path) -> None:
    plane, alice, bob = tmp_path / "plane", tmp_path / "alice", tmp_path / "bob"
    assert str(plane / "server.key") in call("keys", "server", plane).out
    for client in (alice, bob):
        assert str(client / "client.key") in call("keys", "client", client, "--server", plane / "server.key").out
    call("keys", "allow", plane, "alice", alice / "client.key")
    keys = ServerKeys(plane)
    assert keys.pair.public == ClientKeys(alice).server
    assert keys.allows(ClientKeys(alice).pair.public)
    assert not keys.allows(ClientKeys(bob).pair.public)


def test_a_key_that_is_made_is_the_one_that_is_printed(call: Call, tmp_path: Path) -> None:
    first, second = (call("keys", "api", tmp_path / "keys", name).out.strip() for name in ("alice", "bob"))
    keys = ApiKeys(tmp_path / "keys")
    assert (keys.owner(f"Bearer {first}"), keys.owner(f"bearer {second}")) == ("alice", "bob")
    assert own_key(tmp_path / "keys") == first


def test_mistakes_are_one_sentence_and_change_nothing(call: Call, tmp_path: Path) -> None:
    plane = tmp_path / "plane"
    call("keys", "server", plane)
    before = (plane / "server.key_secret").read_bytes()
    (tmp_path / "none").write_text("nothing")
    wrong = [
        (("server", plane), "server.key_secret is there already, and others may count on it"),
        (("client", tmp_path / "c", "--server", tmp_path / "absent"), "absent cannot be read: no such file"),
        (("client", tmp_path / "c", "--server", tmp_path / "none"), "none is no file of a CURVE key"),
        (("allow", tmp_path, "alice", plane / "server.key"), "make it with 'loki-rl keys server"),
        (("allow", plane, "../alice", plane / "server.key"), "'../alice' is no name for a client"),
        (("api", tmp_path / "keys", "a:b"), "'a:b' is no name for a key"),
        (("api", tmp_path, "alice"), "cannot be"),
    ]
    for words, sentence in wrong:
        said = call("keys", *words)
        assert said.code == 2
        assert sentence in said.err
        assert said.err.count("\n") == 1
    assert (plane / "server.key_secret").read_bytes() == before
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("command", ["replay", "top"])
def test_credentials_that_cannot_be_used_are_told_of(call: Call, tmp_path: Path, command: str) -> None:
    where = "https://127.0.0.1:9"
    rest = ("--url", where, "--pipeline", "traffic") if command == "replay" else ("--url", where, "--once")
    wrong = [("--api-key-file", "holds no API key"), ("--ca", "holds no certificates of authorities")]
    (tmp_path / "empty").write_text("")
    for flag, sentence in wrong:
        said = call(command, *rest, flag, tmp_path / "empty")
        assert said.code == 2
        assert sentence in said.err
