"""The check of payloads: whatever an adapter raises costs the request that it was asked about."""

from __future__ import annotations

import numpy as np
import pytest
import zmq

from loki_rl.serving.engines.adapter import Adapter, Array, PayloadError
from loki_rl.serving.gateway.schema import PayloadCheck
from loki_rl.serving.transport.protocol import Tensor
from loki_rl.serving.transport.shared_memory import NOWHERE
from loki_rl.serving.transport.wire import pack


class Picky(Adapter):
    @staticmethod
    def check(payload: Array) -> None:
        if payload.sum() > 5:
            raise PayloadError("too much")
        if payload.ndim > 1:
            raise RuntimeError("no such case")


class Careless(Adapter):
    @staticmethod
    def check(payload: Array) -> None:
        payload[3]


def frame(*values: int) -> zmq.Frame:
    return zmq.Frame(pack(np.array(values, np.uint8)))


def test_a_payload_is_right_or_a_sentence_says_why_not() -> None:
    check = PayloadCheck([Picky], NOWHERE)  # type: ignore[type-abstract]
    assert check(frame(1, 2)) is None
    assert check(frame(3, 3)) == "too much"
    assert check(None) == "a tensor is missing"
    assert check(zmq.Frame(b"noise")) == "not a packed tensor of this version"
    assert PayloadCheck([], NOWHERE)(None) is None


class Numbers(Adapter):
    takes = Tensor("rows", "FP32", (-1, 4))

    @staticmethod
    def check(payload: Array) -> None:
        if payload.sum() > 5:
            raise PayloadError("too much")


@pytest.mark.parametrize(
    ("payload", "fault"),
    [
        (np.zeros((3, 4), np.float32), None),
        (np.ones((3, 4), np.float32), "too much"),
        (np.zeros((3, 5), np.float32), "'rows' is FP32 of shape [-1, 4], not FP32 of shape [3, 5]"),
        (np.zeros(4, np.float32), "'rows' is FP32 of shape [-1, 4], not FP32 of shape [4]"),
        (np.zeros((3, 4), np.float64), "'rows' is FP32 of shape [-1, 4], not FP64 of shape [3, 4]"),
        (np.zeros(4, np.uint8), "'rows' is FP32 of shape [-1, 4], not UINT8 of shape [4]"),
    ],
)
def test_numbers_have_the_type_and_shape_that_an_adapter_declares(payload: Array, fault: str | None) -> None:
    check = PayloadCheck([Numbers], NOWHERE)  # type: ignore[type-abstract]
    assert check(zmq.Frame(pack(payload))) == fault


def test_what_an_adapter_raises_by_mistake_is_refused_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    check = PayloadCheck([Picky, Careless], NOWHERE)  # type: ignore[type-abstract]
    for _ in range(3):
        assert check(frame(1)) == "Careless cannot check this payload (IndexError); the server's log says more"
    assert check(zmq.Frame(pack(np.zeros((1, 1))))) == (
        "Picky cannot check this payload (RuntimeError); the server's log says more"
    )
    assert check(frame(1, 0, 0, 1)) is None
    assert caplog.text.count("IndexError") == 1
    assert caplog.text.count("RuntimeError: no such case") == 1
