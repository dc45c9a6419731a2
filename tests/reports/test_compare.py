"""Many runs side by side: their order, what is read back, and what happens when one of them fails."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from signal import SIGINT
from typing import Any

import pytest
from msgspec.structs import replace

from loki_rl.control.formulation.request import RequestError
from loki_rl.files.config import ConfigError
from loki_rl.reports import report
from loki_rl.reports.compare import Comparison, build_cases, compare, document
from loki_rl.runs.batch_runner import CasesError, Progress, Runner, attempt, label
from loki_rl.runs.options import RunOptions
from loki_rl.runs.result import RunResult
from loki_rl.runs.run import RUNNERS, run_twin
from loki_rl.runs.run_folder import save
from loki_rl.runs.spreading import as_they_end
from loki_rl.traces.trace import TraceError


class Made:
    """A runner that makes results without any run, and remembers which; `spoil` may raise."""

    def __init__(self, make_result: Callable[..., RunResult], spoil: Callable[[RunOptions], None] = lambda _: None) -> None:
        self.make_result, self.spoil = make_result, spoil
        self.ran: list[tuple[str, str, int]] = []

    def __call__(self, options: RunOptions, _folder: Path | None) -> RunResult:
        self.ran.append((options.driver, options.policy, options.seed))
        self.spoil(options)
        return replace(self.make_result(), options=options)


PIXEL = (Path(__file__).parents[1] / "data" / "pixel.png").read_bytes()


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots have tests of their own, and take longer than everything else here."""
    monkeypatch.setattr(report, "timeline_png", lambda _, path: path.write_bytes(PIXEL))
    monkeypatch.setattr(report, "costs_png", lambda _, path, __: path.write_bytes(PIXEL))


@pytest.fixture
def cases(run_options: RunOptions) -> list[RunOptions]:
    return build_cases(run_options, policies=["static", "exact"], traces=[run_options.trace], seeds=range(2))


def play(cases: list[RunOptions], run: Runner, logdir: Path, **options: Any) -> Comparison:
    return compare(cases, dict.fromkeys(RUNNERS, run), logdir, 1, **options)


# -- cases ----------------------------------------------------------------------------------------------------------------


def test_seeds_come_before_policies_and_drivers_last(run_options: RunOptions) -> None:
    found = build_cases(run_options, policies=["b", "a", "b"], traces=["t"], seeds=[1, 0, 1], drivers=["twin", "emulated"])
    assert [(one.driver, one.seed, one.policy) for one in found] == [
        (driver, seed, policy) for driver in ("twin", "emulated") for seed in (1, 0) for policy in ("b", "a")
    ]
    assert all(one.interval_s == run_options.interval_s for one in found)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"policy": "exat"}, RequestError, "did you mean 'exact'"),
        ({"trace": "crowds"}, TraceError, "no trace"),
        ({"pipeline": "smal"}, ConfigError, "no pipeline"),
        ({"to_s": 99.0}, TraceError, "window"),
        ({"seed": -1}, TraceError, "seed"),
    ],
)
def test_a_mistake_in_the_last_case_is_told_before_the_first_runs(
    cases: list[RunOptions], make_result: Any, tmp_path: Path, change: dict[str, Any], error: type[Exception], says: str
) -> None:
    run = Made(make_result)
    with pytest.raises(error, match=says):
        play([*cases, replace(cases[-1], **{"seed": 9, **change})], run, tmp_path)
    assert run.ran == []
    assert list(tmp_path.iterdir()) == []


def test_two_traces_of_one_name_cannot_share_a_folder(run_options: RunOptions, make_result: Any, tmp_path: Path) -> None:
    other = tmp_path / "crowd.csv"
    other.write_text("t_seconds,requests\n0,5\n1,5\n")
    cases = build_cases(run_options, policies=["static"], traces=[run_options.trace, str(other)], seeds=[0])
    with pytest.raises(CasesError, match="give the traces different file names"):
        play(cases, Made(make_result), tmp_path / "runs")


def test_nothing_to_compare_is_said(make_result: Any, tmp_path: Path) -> None:
    with pytest.raises(CasesError, match="nothing to compare"):
        play([], Made(make_result), tmp_path)


# -- runs -----------------------------------------------------------------------------------------------------------------


def test_results_are_what_the_folders_say_in_the_order_of_the_cases(
    cases: list[RunOptions], make_result: Any, tmp_path: Path
) -> None:
    steps: list[Progress] = []
    found = play(cases, Made(make_result), tmp_path, progress=steps.append)
    assert [done.options for done in found.results] == cases
    assert [(row.policy, row.n) for row in found.summary] == [("static", 2), ("exact", 2)]
    assert found.report.read_text().startswith("# Comparison")
    assert [step.state for step in steps] == ["started", "done"] * 4
    assert (steps[-1].ended, steps[-1].total) == (4, 4)
    assert str(steps[-1]) == "[4/4] exact on crowd.csv (twin, seed 1): done"


def test_what_is_there_is_read_back_unless_fresh(cases: list[RunOptions], make_result: Any, tmp_path: Path) -> None:
    first, again, fresh = Made(make_result), Made(make_result), Made(make_result)
    play(cases[:3], first, tmp_path)
    found = play(cases, again, tmp_path)
    assert again.ran == [("twin", "exact", 1)]
    assert [done.options for done in found.results] == cases
    play(cases, fresh, tmp_path, fresh=True)
    assert len(fresh.ran) == 4


def test_a_comparison_that_was_killed_goes_on_where_it_was(
    cases: list[RunOptions], make_result: Any, tmp_path: Path
) -> None:
    """The command itself, killed as a kernel kills, its pool with it; what had been written is not run again."""
    logdir, options = tmp_path / "runs", cases[0]
    words = [
        "compare", options.pipeline, "--trace", options.trace, "--policies", "static,exact", "--seeds", "8",
        "--interval-s", "1", "--jobs", "2", "--logdir", str(logdir),
    ]  # fmt: skip
    with subprocess.Popen([sys.executable, "-m", "loki_rl", *words], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        first = next(line for line in process.stderr if line.rstrip().endswith(": done"))
        process.kill()
        process.stderr.read()  # ends when the last process of the pool has
    assert first.startswith("[1/16] ")
    every = build_cases(options, policies=["static", "exact"], traces=[options.trace], seeds=range(8))
    kept = len(list(logdir.glob("twin/*/*/*/summary.json")))
    assert 1 <= kept < 16
    run, steps = Made(make_result), list[Progress]()
    found = play(every, run, logdir, progress=steps.append)
    assert (len(run.ran), found.reused) == (16 - kept, kept)
    assert [step.state for step in steps[:kept]] == ["reused"] * kept
    assert steps[-1].reused == kept
    assert len(found.results) == 16


def test_other_options_are_run_anew(cases: list[RunOptions], make_result: Any, tmp_path: Path) -> None:
    again = Made(make_result)
    play(cases, Made(make_result), tmp_path)
    found = play([replace(one, servers=3) for one in cases], again, tmp_path)
    assert len(again.ran) == 4
    assert all(done.options.servers == 3 for done in found.results)


def test_a_failed_run_does_not_stop_the_others(cases: list[RunOptions], make_result: Any, tmp_path: Path) -> None:
    def spoil(options: RunOptions) -> None:
        if (options.policy, options.seed) == ("static", 1):
            raise TraceError("the trace\nhas burnt")

    found = play(cases, Made(make_result, spoil), tmp_path)
    assert [done.options for done in found.results] == [cases[0], cases[1], cases[3]]
    assert [str(failure) for failure in found.failures] == ["static on crowd.csv (twin, seed 1): the trace has burnt"]
    assert "the trace has burnt" in found.report.read_text()
    assert document(found)["failures"] == [
        {"policy": "static", "driver": "twin", "trace": cases[2].trace, "seed": 1, "sentence": "the trace has burnt"}
    ]


def test_a_fault_of_ours_is_told_apart_and_logged(
    run_options: RunOptions, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: RunOptions, __: Path | None) -> RunResult:
        raise KeyError("nope")

    with caplog.at_level(logging.ERROR):
        assert attempt(broken, run_options, tmp_path) == "KeyError: 'nope'"
    assert caplog.records[0].exc_info is not None


def test_a_log_folder_that_cannot_be_written_fails_the_run(
    run_options: RunOptions, make_result: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    why = attempt(Made(make_result), run_options, tmp_path / "file")
    assert "Not a directory" in str(why)


def test_planes_run_one_after_another_when_the_twin_is_done(
    run_options: RunOptions, make_result: Any, tmp_path: Path
) -> None:
    cases = build_cases(
        run_options, policies=["static"], traces=[run_options.trace], seeds=range(2), drivers=["emulated", "twin"]
    )
    run = Made(make_result)
    found = play(cases, run, tmp_path)
    assert [driver for driver, _, _ in run.ran] == ["twin", "twin", "emulated", "emulated"]
    assert [done.options.driver for done in found.results] == ["emulated", "emulated", "twin", "twin"]


def test_processes_give_the_same_results_as_one(cases: list[RunOptions], tmp_path: Path) -> None:
    together = compare(cases[:2], {"twin": run_twin}, tmp_path / "many", 2)
    alone = compare(cases[:2], {"twin": run_twin}, tmp_path / "one", 1)
    assert [done.summary for done in together.results] == [done.summary for done in alone.results]
    assert [done.tally.seconds for done in together.results] == [done.tally.seconds for done in alone.results]


def test_a_process_that_dies_is_a_failed_run_and_no_traceback() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        ends = list(as_they_end(pool, {7: partial(os._exit, 1)}, []))
    assert ends == [(7, "its process died, perhaps for want of memory; run again with fewer jobs to resume")]


def test_a_process_that_ctrl_c_ended_is_no_failed_run() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool, pytest.raises(KeyboardInterrupt):
        list(as_they_end(pool, {7: partial(os._exit, 1)}, [SIGINT]))


# -- what comes out -------------------------------------------------------------------------------------------------------


def test_the_document_has_the_keys_of_the_contract(cases: list[RunOptions], make_result: Any, tmp_path: Path) -> None:
    beside = document(play(cases, Made(make_result), tmp_path, recorded=replace(make_result(), trace="live")))
    assert beside["recorded"]["trace"] == "live"  # type: ignore[index]
    assert "live" in (tmp_path / "report.md").read_text()
    found = document(play(cases, Made(make_result), tmp_path))
    assert found.keys() == {"results", "summary", "failures", "reused", "report"}
    rows: Any = found["results"]
    assert [(row["trace"], row["policy"], row["seed"]) for row in rows] == [
        ("crowd", policy, seed) for seed in (0, 1) for policy in ("static", "exact")
    ]
    assert {"arrivals", "slo_violation_ratio", "accuracy", "servers_mean", "p99_ms", "cost_j", "wall_s"} < rows[0].keys()
    means: Any = found["summary"]
    assert [(row["policy"], row["driver"], row["n"]) for row in means] == [("static", "twin", 2), ("exact", "twin", 2)]


def test_a_case_has_a_name(run_options: RunOptions) -> None:
    assert label(run_options) == "exact on crowd.csv (twin, seed 0)"


def test_a_run_that_was_saved_alone_counts_too(cases: list[RunOptions], make_result: Any, tmp_path: Path) -> None:
    save(replace(make_result(), options=cases[0]), tmp_path)
    run = Made(make_result)
    play(cases[:2], run, tmp_path)
    assert run.ran == [("twin", "exact", 0)]
