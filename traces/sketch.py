"""A trace as a small picture of characters. Owns how rates become blocks; prints nothing and knows no format of file."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

EIGHTHS = " ▁▂▃▄▅▆▇"
FULL, SHADE = "█", "░"
WIDTH, HEIGHT = 64, 8


def sketch(times: NDArray[np.float64], length_s: float, bin_s: float) -> list[str]:
    """Lines of text: demand over a replay of length_s. A column's block is its mean rate, its shade its busiest bin."""
    width = max(1, min(WIDTH, int(length_s / bin_s)))
    means, peaks = _rates(times, length_s, bin_s, width)
    top = float(peaks.max()) or 1.0
    label = f"{top:.3g}/s"
    lines = []
    for row in reversed(range(HEIGHT)):
        levels = zip(HEIGHT * means / top - row, HEIGHT * peaks / top - row, strict=True)
        mark = {HEIGHT - 1: label, 0: "0"}.get(row, "")
        lines.append(f"{mark:>10} ┤{''.join(_cell(mean, peak) for mean, peak in levels)}")
    return [*lines, f"{'':>11}└{'─' * width}", f"{'':>12}0{f'{length_s:.6g} s':>{max(1, width - 1)}}"]


def _rates(
    times: NDArray[np.float64], length_s: float, bin_s: float, width: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and peak rate [1/s] of each column; every column is a whole number of equal bins, about bin_s wide."""
    bins = width * max(1, round(length_s / (bin_s * width)))
    counts = np.histogram(times, bins, (0.0, length_s))[0].astype(np.float64)
    rates = counts.reshape(width, -1) * (bins / length_s)
    return rates.mean(axis=1), rates.max(axis=1)


def _cell(mean: float, peak: float) -> str:
    """One character: how far the block and its shade reach into it, where 1 fills it."""
    if mean >= 1:
        return FULL
    if mean >= 1 / len(EIGHTHS):
        return EIGHTHS[int(mean * len(EIGHTHS))]
    return SHADE if peak > 0.5 else " "
