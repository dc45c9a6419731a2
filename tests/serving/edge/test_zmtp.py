"""What may pass from a native client to the gateway: ZMTP 3 in whatever pieces it comes, within the limits of a message."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loki_rl.serving.edge.zmtp import Watch, ZmtpError

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
READY = b"\x04\x05READY"


def frame(size: int, more: bool = False) -> bytes:
    head = bytes((more, size)) if size < 256 else bytes((more | 2,)) + size.to_bytes(8, "big")
    return head + bytes(size)


def watch() -> Watch:
    made = Watch(3, 1000)
    made.feed(GREETING + READY)
    return made


def feed(one: Watch, pieces: list[bytes]) -> None:
    for piece in pieces:
        one.feed(piece)


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 2)), max_size=6), st.data())
def test_messages_pass_in_whatever_pieces_they_come(messages: list[tuple[int, int]], data: st.DataObject) -> None:
    said = GREETING + READY + b"".join(frame(size, True) * parts + frame(size) for size, parts in messages)
    one = Watch(3, 1000)
    while said:
        cut = data.draw(st.integers(1, len(said)))
        one.feed(said[:cut])
        said = said[cut:]
    assert (one.unfinished, one.midway) == (0, False)
    assert one.ended == 1 + len(messages)


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b"\xff" + bytes(9), GREETING[:10] + b"\x01"])
def test_other_protocols_and_versions_are_refused(noise: bytes) -> None:
    with pytest.raises(ZmtpError, match="does not speak ZMTP 3"):
        Watch(3, 1000).feed(noise)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (frame(0, True) * 4, "more than 3 parts"),
        (frame(400, True) * 2 + frame(400), "more than 1000 bytes"),
        (b"\x03" + b"\xff" * 8, "more than 1000 bytes"),
        (b"\x06" + (5000).to_bytes(8, "big"), "a command has 5000 bytes"),
        (b"\x05\x01", "flags"),
        (b"\x08\x01", "flags"),
    ],
)
def test_a_message_beyond_the_limits_is_refused_before_it_has_come(said: bytes, sentence: str) -> None:
    for pieces in ([said], [bytes((byte,)) for byte in said]):
        with pytest.raises(ZmtpError, match=sentence):
            feed(watch(), pieces)


def test_what_a_message_without_an_end_holds_is_known() -> None:
    one = watch()
    one.feed(frame(300, True) + frame(300, True)[:100])
    assert one.midway
    assert 300 < one.unfinished <= 400
    one.feed(frame(300, True)[100:] + READY + frame(1))
    assert (one.unfinished, one.midway) == (0, False)


@given(st.lists(st.binary(max_size=30), max_size=20))
def test_noise_is_refused_or_within_the_limits(noise: list[bytes]) -> None:
    one = watch()
    for piece in noise:
        try:
            one.feed(piece)
        except ZmtpError:
            return
        assert 0 <= one.unfinished <= 1000 + 3 * 4096
