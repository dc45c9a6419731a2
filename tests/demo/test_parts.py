"""What the demo says is what its runs did."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from msgspec.structs import replace
from rich.console import Console, RenderableType

from loki_rl.core.pipeline import Pipeline
from loki_rl.core.requests.ledger import cost
from loki_rl.demo import reading, traffic
from loki_rl.demo.crowd import Crowd
from loki_rl.demo.host import fit
from loki_rl.demo.stage import DemoError, Stage, play_all
from loki_rl.files.config import load_pipeline
from loki_rl.files.profile_file import Capacity
from loki_rl.reports.phases import phases
from loki_rl.runs.options import RunOptions
from loki_rl.runs.result import RunResult
from loki_rl.runs.run import RUNNERS, run_twin

CROWD = Crowd(40.0, 400.0, calm_s=6, rise_s=4, held_s=6)


def stage_of(folder: Path, said: list[RenderableType]) -> Stage:
    return Stage(folder, "cpu", said.append, lambda: nullcontext(lambda _what, _share: None))


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load_pipeline("reading").pipeline


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[RunResult]:
    trace = CROWD.save(tmp_path_factory.mktemp("crowd"))
    options = RunOptions("traffic", str(trace), interval_s=1.0, initial_rps=40.0, load_s=1.0)
    return [run_twin(replace(options, policy=policy)) for policy in ("hardware", "loki", "exact")]


# -- part A -----------------------------------------------------------------------------------------------------------


def test_the_verdict_names_what_was_missed_and_what_accuracy_it_cost_when(runs: list[RunResult]) -> None:
    (line,) = reading.verdict([runs[0], runs[2]], CROWD)
    missed, planned = (done.summary.slo_violation_ratio for done in (runs[0], runs[2]))
    assert line.startswith(f"twin: 'hardware' missed {missed:.1%} of the deadlines, 'exact' {planned:.1%}, at accuracy ")
    before, height = reading.accuracy(runs[2], 0, 6), reading.accuracy(runs[2], 10, 16)
    assert before > height
    assert f"{before:.1%} before the crowd and {height:.1%} at its height (best models: 99.7%)" in line


def test_the_accuracy_of_a_stretch_is_that_of_what_was_served_in_it(runs: list[RunResult]) -> None:
    seconds = [runs[2].tally.seconds[number] for number in range(10, 16)]
    expected = sum(one.accuracy_sum for one in seconds) / sum(one.outcomes[0] for one in seconds)
    assert reading.accuracy(runs[2], 10, 16) == pytest.approx(expected)


def test_a_quiet_host_needs_no_warning(pipeline: Pipeline) -> None:
    measured = Capacity(2, 17.0, 140.0, neighbours=0.02)
    text = "\n".join(reading.told(measured, pipeline, fit(measured, pipeline)))
    assert "17.0 pictures/s with the most accurate models, 140.0 with the fastest" in text
    assert "Other programs" not in text
    assert "too short" not in text


@pytest.mark.parametrize(
    ("share", "word"), [(0.2, "stop them for steady figures"), (0.6, "run the demo again when it is quiet")]
)
def test_a_busy_host_is_told_what_its_figures_are_worth(pipeline: Pipeline, share: float, word: str) -> None:
    measured = Capacity(2, 17.0, 140.0, neighbours=share)
    text = "\n".join(reading.told(measured, pipeline, fit(measured, pipeline)))
    assert f"Other programs took {share:.0%}" in text
    assert word in text


def test_a_host_that_can_show_nothing_is_told_so(pipeline: Pipeline) -> None:
    text = "\n".join(reading.told(Capacity(2, 17.0, 25.0), pipeline, None))
    assert "cannot be shown" in text
    assert "A crowd from" not in text


# -- part B -----------------------------------------------------------------------------------------------------------


def test_every_policy_is_in_the_verdict(runs: list[RunResult]) -> None:
    (line,) = traffic.verdict(runs)
    assert all(f"'{done.options.policy}' {done.summary.slo_violation_ratio:.1%}" in line for done in runs)


def test_the_table_has_a_row_for_each_phase(runs: list[RunResult]) -> None:
    found = phases(runs[2])
    table = traffic.phase_table(found)
    assert table.row_count == len(found)
    console = Console(width=120)
    with console.capture() as captured:
        console.print(table)
    assert "all servers, cheaper models" in captured.get()


def test_readiness_is_the_calm_beside_the_cheapest_plan_for_it(runs: list[RunResult]) -> None:
    pipeline = load_pipeline("traffic").pipeline
    line = traffic.readiness(runs[2], pipeline, CROWD)
    used = sum(runs[2].tally.seconds[number].servers for number in range(6)) / 6
    served = reading.accuracy(runs[2], 0, 6)
    assert f"(the first 6 s) 'exact' had {used:.1f} servers in use at accuracy {served:.1%}" in line
    paid = cost(1, 1, served, pipeline.best_accuracy, used / 20, 5.0)
    assert f"J {paid:.3f}; the cheapest plan" in line


# -- both -------------------------------------------------------------------------------------------------------------


def test_a_picture_is_named_only_where_there_is_one(
    small: Path, crowd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[RenderableType] = []
    options = RunOptions(str(small), str(crowd), interval_s=1.0)
    play_all(stage_of(tmp_path, said), options, ["exact"], "emulated", RUNNERS["emulated"], tmp_path / "small")
    assert str(said[-1]).endswith(f"{tmp_path}/small/timeline-crowd.png")
    assert (tmp_path / "small" / "timeline-crowd.png").is_file()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    play_all(stage_of(tmp_path, said), options, ["exact"], "emulated", RUNNERS["emulated"], tmp_path / "small")
    assert "no picture over time without matplotlib" in str(said[-1])
    assert not (tmp_path / "small" / "timeline-crowd.png").exists(), "one of an earlier demo would pass for one of this"


def test_a_run_that_fails_ends_the_demo_with_its_sentence(small: Path, crowd: Path, tmp_path: Path) -> None:
    def fails(_options: RunOptions, _folder: Path | None) -> RunResult:
        raise OSError("no room")

    options = RunOptions(str(small), str(crowd), interval_s=1.0)
    with pytest.raises(DemoError, match="no room"):
        play_all(stage_of(tmp_path, []), options, ["exact"], "emulated", fails, tmp_path)
