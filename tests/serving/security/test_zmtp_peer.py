"""Frames of messages, and messages of frames, in whatever pieces they come."""

from __future__ import annotations

import pytest

from loki_rl.serving.security.zmtp_peer import HELLO, Reader, frames

MESSAGES = [[b"one"], [b"", b"two", bytes(255)], [bytes(256), b"three"], [bytes(70_000)]]
SAID = HELLO + b"".join(piece for message in MESSAGES for piece in frames(message))


@pytest.mark.parametrize("piece", [1, 2, 7, 64, 1000, len(SAID)])
def test_messages_are_read_as_they_were_written(piece: int) -> None:
    reader = Reader()
    found: list[list[bytes]] = []
    for at in range(0, len(SAID), piece):
        found += reader.feed(SAID[at : at + piece])
    assert found == MESSAGES
    assert reader.ready


def test_without_the_end_of_its_handshake_a_gateway_is_not_there() -> None:
    reader = Reader()
    assert reader.feed(HELLO[:-1]) == []
    assert not reader.ready
