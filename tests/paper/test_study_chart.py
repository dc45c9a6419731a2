"""The table of a study as a picture: bars by name, lines over a number."""

from __future__ import annotations

from pathlib import Path

import pytest

from loki_rl.paper.study import Chart, Study
from loki_rl.paper.study_chart import study_png

BARS = Study("T", "About.", ("policy", "a %", "b"), (("x", 1.0, 2.0), ("y", 0.0, 4.0)), (), Chart("bars", ("b", "a %")))
LINES = Study("T", "About.", ("SLO ms", "a %"), ((100, 1.0), (200, 3.0)), (), Chart("lines", ("a %",)))


@pytest.mark.parametrize("study", [BARS, LINES])
def test_a_study_is_drawn(study: Study, tmp_path: Path) -> None:
    study_png(study, tmp_path / "s.png")
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
