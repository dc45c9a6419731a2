"""Orders reach nodes as they stand now, and a cursed payload is known by its bytes and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zmq

from loki_rl.serving.chaos.orders import CORRUPT, CURSES, MISSING, Orders, Standing, cursed, curses, digests, spoil
from loki_rl.serving.engines.files import model_path
from loki_rl.serving.transport.wire import Array, pack

PAYLOADS: list[Array] = [
    np.frombuffer(b"jpeg", np.uint8),
    np.zeros((2, 2, 3), np.uint8),
    np.arange(4, dtype=np.float32),
    np.array(3, np.int64),
]


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda payload: f"{payload.dtype}{list(payload.shape)}")
def test_a_cursed_payload_is_recognised_and_no_other_is(payload: Array) -> None:
    orders = Orders(cursed=digests(curses(payload)))
    assert orders.curse([pack(payload)]) is None
    for curse in CURSES:
        hurt = cursed(payload, curse)
        assert (hurt.shape, hurt.dtype) == (payload.shape, payload.dtype)
        assert sum(a != b for a, b in zip(pack(hurt), pack(payload), strict=True)) == 1
        assert orders.curse([pack(payload), zmq.Frame(pack(hurt))]) == curse


def test_orders_are_those_that_were_written_last(tmp_path: Path) -> None:
    standing = Standing(tmp_path)
    assert standing.orders() == Orders(), "none have been given yet"
    for factor in (2.0, 10.0):
        Orders(slow={"workers-0": factor}, withheld=[("gateway", "router-0")]).write(tmp_path)
        assert standing.orders().slow == {"workers-0": factor}
    (tmp_path / "orders.json").unlink()
    assert standing.orders().slow == {"workers-0": 10.0}, "what cannot be read changes nothing"


def test_spoilt_repositories_have_cut_models_or_none_and_leave_the_real_one_as_it_is(tmp_path: Path) -> None:
    real, site = tmp_path / "models", tmp_path / "site"
    path = model_path(real, "tone")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"0123456789")
    (real / "tone" / "labels.txt").write_text("dark light")
    spoil(real, site)
    assert model_path(site / CORRUPT, "tone").read_bytes() == b"01234"
    assert not model_path(site / MISSING, "tone").exists()
    assert all((site / kind / "tone" / "labels.txt").read_text() == "dark light" for kind in (CORRUPT, MISSING))
    assert path.read_bytes() == b"0123456789"
