"""Pictures of runs and plans: what is drawn, and what happens where nothing can be. How they look is for eyes to judge."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
from matplotlib.figure import Figure

from loki_rl.core.plan import Mode, Plan
from loki_rl.reports.plots import PlotError, phases_png, timeline_png

Drawn = list[Figure]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """Every figure that is saved."""
    figures: Drawn = []
    save = Figure.savefig

    def keep(figure: Figure, *args: Any, **options: Any) -> None:
        figures.append(figure)
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def ys(axis: Any) -> list[float]:
    """The heights of an axis's first line."""
    return [round(float(value), 6) for value in axis.lines[0].get_ydata()]


def size(path: Path) -> tuple[int, int]:
    height, width, _ = matplotlib.image.imread(path).shape
    return width, height


def test_a_column_for_each_driver_and_a_line_for_each_policy(make_result: Any, tmp_path: Path, drawn: Drawn) -> None:
    results = [make_result(policy, driver) for policy in ("hardware", "exact") for driver in ("twin", "emulated")]
    timeline_png(results, tmp_path / "t.png")
    (figure,) = drawn
    assert [axis.get_title() for axis in figure.axes[:2]] == ["twin", "emulated"]
    assert len(figure.axes) == 2 * 5
    assert all(len(axis.lines) == 2 for axis in figure.axes[:2])
    wide = size(tmp_path / "t.png")
    timeline_png(results[:1], tmp_path / "one.png")
    assert wide[0] > size(tmp_path / "one.png")[0] > 700


def test_scales_hold_what_every_column_shows(make_result: Any, tmp_path: Path, drawn: Drawn) -> None:
    timeline_png([make_result(driver="twin", ok=9), make_result(driver="emulated", ok=0)], tmp_path / "t.png")
    violations = drawn[0].axes[6:8]
    assert all(axis.get_ylim()[0] < 0 and axis.get_ylim()[1] >= 100 for axis in violations)


def test_the_lines_are_the_figures_of_the_run(make_result: Any, tmp_path: Path, drawn: Drawn) -> None:
    seeds = [make_result(seed=0, ok=8), make_result(seed=1, ok=4)]
    timeline_png(seeds, tmp_path / "t.png")
    rates, servers, accuracy, violations, _ = drawn[0].axes
    assert ys(rates) == [6.0, 0.0, 6.0, 0.0]
    assert ys(servers) == [3.0] * 4
    # A second without requests has neither an accuracy nor violations.
    assert list(map(str, ys(accuracy))) == ["90.0", "nan", "90.0", "nan"]
    assert list(map(str, ys(violations))) == ["40.0", "nan", "40.0", "nan"]


def test_a_long_run_is_drawn_as_means_over_a_few_seconds(make_result: Any, tmp_path: Path, drawn: Drawn) -> None:
    timeline_png([make_result(seconds=360)], tmp_path / "t.png")
    rates = drawn[0].axes[0]
    assert "mean of 4 s" in rates.get_ylabel()
    assert set(ys(rates)[4:-4]) == {4.0}


def test_an_unanswered_run_is_drawn_too(make_result: Any, tmp_path: Path) -> None:
    timeline_png([make_result(ok=-1)], tmp_path / "t.png")
    assert size(tmp_path / "t.png") > (0, 0)


def plan(mode: Mode, demand: float) -> Plan:
    return Plan(mode, (), 3, 0.9, 1.0, demand, demand, {"t": 1.0}, {"t": {"v": 1.0}})


def test_the_phases_stand_above_their_demands(tmp_path: Path, drawn: Drawn) -> None:
    plans = [plan("shed", 400.0), plan("hardware", 100.0), plan("hardware", 200.0), plan("accuracy", 300.0)]
    phases_png(plans, tmp_path / "p.png", "small")
    (figure,) = drawn
    names = [(text.get_text(), text.get_position()[0]) for text in figure.axes[0].texts]
    assert names == [("hardware", 175.0), ("accuracy", 300.0), ("shed", 375.0)]
    demands: Any = figure.axes[0].lines[0].get_xdata()
    assert list(demands) == [100.0, 200.0, 300.0, 400.0]
    assert size(tmp_path / "p.png")[0] > 700


def test_a_picture_is_a_png_whatever_its_name(tmp_path: Path) -> None:
    phases_png([plan("hardware", 1.0)], tmp_path / "p.pdf")
    assert (tmp_path / "p.pdf").read_bytes().startswith(b"\x89PNG")


CALLS: list[Callable[[Any, Path], None]] = [
    lambda make_result, path: timeline_png([make_result()], path),
    lambda _, path: phases_png([plan("hardware", 1.0)], path),
]


@pytest.mark.parametrize("draw", CALLS)
def test_where_nothing_can_be_written_the_sentence_names_the_file(
    draw: Callable[[Any, Path], None], make_result: Any, tmp_path: Path
) -> None:
    with pytest.raises(PlotError, match=r"absent/x\.png cannot be written"):
        draw(make_result, tmp_path / "absent" / "x.png")


@pytest.mark.parametrize("draw", CALLS)
def test_without_matplotlib_the_sentence_says_what_to_install(
    draw: Callable[[Any, Path], None], make_result: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PlotError, match=r"pip install 'loki-rl\[plot\]'"):
        draw(make_result, tmp_path / "x.png")


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    with pytest.raises(PlotError, match="no run to draw"):
        timeline_png([], tmp_path / "x.png")
    with pytest.raises(PlotError, match="no plan to draw"):
        phases_png([], tmp_path / "x.png")
