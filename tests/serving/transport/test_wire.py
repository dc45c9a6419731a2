"""Tensors and letters survive the wire; damaged ones are refused, never misread."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from loki_rl.core.messages import Submit, Tick
from loki_rl.core.requests.items import Family
from loki_rl.serving.transport import wire
from loki_rl.serving.transport.wire import Letter, WireError, pack, unpack

SHAPES = [(), (0,), (3,), (2, 0, 4), (1, 2, 3, 4, 5, 1, 1, 1)]


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8", ">f4"])
@pytest.mark.parametrize("shape", SHAPES)
def test_tensor_round_trip(dtype: str, shape: tuple[int, ...]) -> None:
    array = (np.arange(np.prod(shape, dtype=int)) % 2).reshape(shape).astype(dtype)
    back = unpack(zmq.Frame(pack(array)))
    assert back.shape == shape
    assert back.dtype == array.dtype.newbyteorder("<")
    assert np.array_equal(back, array)


def test_tensor_not_contiguous() -> None:
    array = np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::-1]
    assert np.array_equal(unpack(pack(array)), array)


def test_tensor_is_read_in_place_and_aligned() -> None:
    frame = zmq.Frame(pack(np.arange(5, dtype=np.float64)))
    back = unpack(frame)
    assert not back.flags.owndata
    assert not back.flags.writeable
    assert back.flags.aligned


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([None]), np.zeros((1,) * 9), np.zeros(1, dtype="c8")])
def test_tensor_refused(array: np.ndarray) -> None:
    with pytest.raises(WireError, match="cannot be sent"):
        pack(array)


@given(st.binary(max_size=80))
def test_unpack_never_misreads_noise(noise: bytes) -> None:
    try:
        array = unpack(noise)
    except WireError:
        return
    assert len(pack(array)) == len(noise)


@pytest.mark.parametrize("cut", [0, 3, 5, 15, -1])
def test_unpack_short(cut: int) -> None:
    with pytest.raises(WireError):
        unpack(pack(np.zeros((2, 3), dtype=np.int32))[:cut])


def test_unpack_long_and_huge_shape() -> None:
    whole = pack(np.zeros((2, 2), dtype=np.float32))
    with pytest.raises(WireError, match="does not have"):
        unpack(whole + b"\0")
    with pytest.raises(WireError, match="does not have"):
        unpack(whole[:4] + b"\xff" * 8 + whole[12:])


HEADERS = st.tuples(
    st.sampled_from([0x4C, 0]), st.sampled_from([1, 2]), st.integers(0, 14),
    st.lists(st.sampled_from([0, 1, 3, 12337, 805306625, wire.MAX_SIZE]) | st.integers(0, wire.MAX_SIZE), max_size=9),
    st.binary(max_size=64),
)  # fmt: skip


@given(HEADERS)
def test_whatever_shape_a_tensor_claims_it_is_read_or_refused(header: tuple[int, int, int, list[int], bytes]) -> None:
    magic, version, code, shape, data = header
    head = struct.pack(f"<BBBB{len(shape)}I", magic, version, code, len(shape), *shape)
    try:
        array = unpack(head + bytes(-len(head) % 16) + data)
    except WireError:
        return
    assert array.shape == tuple(shape)
    assert array.nbytes == len(data)


def test_a_shape_that_no_machine_can_count_is_refused_also_where_it_holds_nothing() -> None:
    shape = (805306625, 3158392, 117525504, 2016411649, 12337, 0, 0)
    with pytest.raises(WireError, match="does not have"):
        unpack(struct.pack("<BBBB7I", 0x4C, 1, 10, 7, *shape))
    assert unpack(pack(np.zeros((1 << 30, 0, 2)))).shape == (1 << 30, 0, 2)


def test_letters_keep_their_frames() -> None:
    letters = [
        Letter("router:0", Submit([Family(1, 0.0, 1.0, 0), Family(2, 0.0, 1.0, 0)]), [1, 2]),
        Letter("gateway", Tick(), []),
        Letter("router:1", Submit([Family(3, 0.0, 1.0, 0)]), [3]),
    ]
    frames = [zmq.Frame(bytes([i])) for i in range(3)]
    found = wire.decode_letters(memoryview(wire.encode_letters(letters, wire.LETTERS_AND_FRAMES))[1:], frames)
    assert [letter for letter, _ in found] == letters
    assert [[frame.bytes for frame in own] for _, own in found] == [[b"\0", b"\1"], [], [b"\2"]]


@pytest.mark.parametrize(
    ("body", "parts"),
    [(b"", 0), (b"\xc1", 0), (b"GET / HTTP/1.1\r\n", 0), (b"\x91" * 5000, 0), (b"\x91\x93\xa1\xffx\x90", 0), (b"\x90", 2)],
)
def test_letters_refused(body: bytes, parts: int) -> None:
    with pytest.raises(WireError):
        wire.decode_letters(memoryview(body), [zmq.Frame(b"x")] * parts)


def test_control_round_trip_and_refusal() -> None:
    word = wire.Up("workers-0")
    assert wire.decode_control(memoryview(wire.encode_control(word))[1:]) == word
    with pytest.raises(WireError, match="control word"):
        wire.decode_control(memoryview(b"\x91\xa4Boom"))
