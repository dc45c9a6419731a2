"""Regions of a map are what labelling each of its pixels finds, in the same order."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from loki_rl.reading.regions import regions


@pytest.mark.parametrize("seed", range(60))
def test_regions_are_those_that_labelling_pixels_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    chart = rng.random((int(rng.integers(1, 40)), int(rng.integers(1, 40))), dtype=np.float32)
    threshold = float(rng.random())
    labels, count = ndimage.label(chart > threshold)
    found = regions(chart, threshold)
    places = [place for place in ndimage.find_objects(labels) if place]
    boxes = [(column.start, row.start, column.stop, row.stop) for row, column in places]
    assert list(zip(found.left, found.top, found.right, found.bottom, strict=True)) == boxes
    assert found.mean == pytest.approx(ndimage.mean(chart, labels, range(1, count + 1)), rel=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_map_of_one_value_has_no_region_or_one(value: float) -> None:
    found = regions(np.full((3, 5), value, np.float32), 0.5)
    assert (found.left.tolist(), found.right.tolist(), found.mean.tolist()) == (([0], [5], [1.0]) if value else ([], [], []))


def test_regions_that_meet_at_a_corner_or_across_the_margin_stay_apart() -> None:
    found = regions(np.array([[1, 0, 0, 1], [0, 1, 0, 0], [1, 0, 0, 0]], np.float32), 0.5)
    assert found.left.tolist() == [0, 3, 1, 0]
    assert found.top.tolist() == [0, 0, 1, 2]
