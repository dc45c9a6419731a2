"""The small plot: one line a level, blocks as high as the demand."""

from __future__ import annotations

import numpy as np
import pytest

from loki_rl.traces.sketch import HEIGHT, WIDTH, sketch


def _columns(lines: list[str]) -> list[str]:
    cells = [line.split("┤", 1)[1] for line in lines[:HEIGHT]]
    return ["".join(column) for column in zip(*cells, strict=True)]


def test_a_step_is_low_then_full() -> None:
    times = np.concatenate((np.arange(0, 64, 0.25), np.arange(64, 128, 0.125)))
    lines = sketch(times, 128.0, 1.0)
    assert len(lines) == HEIGHT + 2
    columns = _columns(lines)
    assert len(columns) == WIDTH
    assert set(columns[: WIDTH // 2]) == {"    ████"}
    assert set(columns[WIDTH // 2 :]) == {"████████"}
    assert "8/s" in lines[0]
    assert lines[-1].endswith("128 s")


def test_a_peak_inside_a_column_is_a_shade() -> None:
    columns = _columns(sketch(np.array([1.5] * 64), 640.0, 1.0))
    assert columns[0] == "░░░░░░░▆"
    assert set(columns[1:]) == {" " * HEIGHT}


@pytest.mark.parametrize("length_s", [0.5, 1.0, 90.0])
def test_any_length_fits_and_nothing_is_no_fault(length_s: float) -> None:
    lines = sketch(np.array([]), length_s, 1.0)
    assert len({len(line) for line in lines[:HEIGHT]}) == 1
    assert not set("".join(_columns(lines))) - {" "}
