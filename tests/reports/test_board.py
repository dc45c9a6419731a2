"""What TensorBoard shows beside curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from loki_rl.reports.board import COMPARISON, SEEDS, show_comparison, show_run
from loki_rl.reports.compare import build_cases, compare
from loki_rl.runs.options import RunOptions
from loki_rl.runs.run import RUNNERS, run_twin
from loki_rl.runs.run_folder import save


def seen(folder: Path) -> EventAccumulator:
    """As TensorBoard reads it."""
    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def test_a_run_has_its_picture_and_its_phases(small: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = save(run_twin(RunOptions(str(small), to_s=5.0)), tmp_path)
    show_run(run_twin(RunOptions(str(small), to_s=5.0)), folder)
    found = seen(folder / "pictures")
    (picture,) = found.Images("run/timeline")
    assert picture.encoded_image_string.startswith(b"\x89PNG")
    assert picture.width > picture.height / 4 > 0
    (phases,) = found.Tensors("run/phases")
    assert b"what happened" in phases.tensor_proto.string_val[0]


def test_a_comparison_has_its_pictures_and_a_band_over_seeds(small: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    cases = build_cases(
        RunOptions(str(small), to_s=5.0), policies=["hardware", "exact"], traces=["flash_crowd"], seeds=[0, 1, 2]
    )
    compare(cases, RUNNERS, tmp_path, 1)
    assert {"comparison/costs", "comparison/timeline-flash_crowd"} <= set(seen(tmp_path / COMPARISON).Tags()["images"])
    band = seen(tmp_path / SEEDS / "twin" / "exact" / "flash_crowd")
    middle, low, high = (band.Scalars(f"seeds/goodput_rps{end}") for end in ("", "_low", "_high"))
    assert [one.step for one in middle] == list(range(5))
    assert all(a.value <= b.value <= c.value for a, b, c in zip(low, middle, high, strict=True))


def test_a_band_lies_from_the_lowest_to_the_highest_seed_around_their_mean(make_result: Any, tmp_path: Path) -> None:
    show_comparison([make_result(ok=3, seed=0), make_result(ok=9, seed=1)], tmp_path)
    (folder,) = (path for path in (tmp_path / SEEDS).rglob("*") if path.is_dir() and not list(path.glob("*/")))
    band = seen(folder)
    low, middle, high = (band.Scalars(f"seeds/goodput_rps{end}")[0].value for end in ("_low", "", "_high"))
    assert low < middle < high
    assert middle == (low + high) / 2


def test_without_matplotlib_there_are_words_and_no_picture(
    make_result: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    show_run(make_result(), tmp_path)
    assert seen(tmp_path / "pictures").Tags()["images"] == []
    show_comparison([], tmp_path)
    assert not (tmp_path / COMPARISON).exists()
