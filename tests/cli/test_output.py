"""What every command prints: one JSON object on stdout, or something for people."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text

from loki_rl.cli import terminal
from loki_rl.control.demand.history import History
from loki_rl.control.demand.history_file import write_history
from loki_rl.core.messages import Outcome
from loki_rl.files.pool_file import Pool
from loki_rl.flight.file import Writer
from loki_rl.flight.rows import Answer, Arrival, Begun
from loki_rl.runs.batch_runner import Progress
from loki_rl.runs.options import RunOptions
from loki_rl.runs.recorded.recording import begin_recording
from loki_rl.runs.result import RunResult
from loki_rl.runs.run import cluster_of

Call = Callable[..., Any]
RUN_KEYS = {
    "arrivals", "ok", "late", "dropped", "rejected", "cancelled", "failed", "slo_violation_ratio", "leaf_violation_ratio",
    "accuracy", "servers_mean", "p50_ms", "p99_ms", "task_executions", "cost_j", "wall_s",
}  # fmt: skip
PLAN_KEYS = {
    "mode", "servers", "accuracy", "served_fraction", "placements", "bound", "gap", "solve_ms", "build_ms", "reasons",
}  # fmt: skip
OUTCOMES = ("ok", "late", "dropped", "rejected", "cancelled", "failed")


def test_plan(call: Call, small: Path) -> None:
    said = call("plan", small, "--demand", 20, "--json")
    assert (said.code, said.err) == (0, "")
    assert said.json.keys() > PLAN_KEYS
    assert (said.json["mode"], said.json["served_fraction"]) == ("hardware", 1.0)
    keys = {"task", "variant", "batch", "replicas", "server_type"}
    assert {frozenset(one) for one in said.json["placements"]} == {frozenset(keys)}
    assert "hardware mode at 20 requests/s" in call("plan", small, "--demand", 20).out


@pytest.mark.parametrize("command", [("plan", "--demand", 120), ("plan", "--demand", 2000), ("capacity",)])
def test_pulp_plans_as_well(call: Call, small: Path, command: tuple[object, ...]) -> None:
    name, *flags = command
    own, known = (call(name, small, *flags, "--solver", solver, "--json").json for solver in ("search", "pulp"))
    assert known.keys() == own.keys()
    assert (known["mode"], known["servers"]) == (own["mode"], own["servers"])
    for key in ("accuracy", "served_fraction", "bound", "capacity_rps"):
        assert known[key] == pytest.approx(own[key], rel=1e-4), key


def test_a_ladder_of_plans_with_its_picture(call: Call, small: Path, tmp_path: Path) -> None:
    said = call("plan", small, "--demand", "50:450:200", "--plot", tmp_path / "phases.png", "--json")
    assert [one["demand_rps"] for one in said.json["plans"]] == [50.0, 250.0, 450.0]
    assert all(one.keys() > PLAN_KEYS for one in said.json["plans"])
    assert (tmp_path / "phases.png").read_bytes().startswith(b"\x89PNG")
    assert "optimal plans by demand" in call("plan", small, "--demand", "50:450:200").out


def test_an_infeasible_plan_prints_its_json_and_fails(call: Call, small: Path) -> None:
    said = call("plan", small, "--demand", 20, "--servers", 1, "--json")
    assert said.json["mode"] == "infeasible"
    assert said.json["reasons"][0] in said.failure


def test_a_plan_for_a_pool(call: Call, small: Path) -> None:
    said = call("plan", small, "--demand", 20, "--pool", "three-types", "--json")
    assert (said.code, said.err) == (0, "what more would be worth ...\n")  # said before it takes its time
    assert said.json.keys() > PLAN_KEYS | {"price"}
    assert {one["server_type"] for one in said.json["placements"]} <= {"large", "medium", "small"}
    prices = {"large": 3, "medium": 2, "small": 1}
    assert said.json["price"] == sum(one["replicas"] * prices[one["server_type"]] for one in said.json["placements"])
    told = call("plan", small, "--demand", 2000, "--pool", "three-types").out
    assert "server type" in told
    assert "one more server of type 'medium':" in told


def test_plans_for_several_pipelines(call: Call, small: Path) -> None:
    flags = ("--demand", 150, "--demand", 40, "--weight", 1, "--weight", 3, "--min-accuracy", 0.3, "--servers", 25)
    said = call("plan", small, "traffic", *flags, "--json")
    assert (said.code, said.err) == (0, "")
    assert said.json.keys() > PLAN_KEYS | {"price", "plans"}
    first, second = said.json["plans"]
    assert (first["pipeline"], first["weight"], second["pipeline"], second["weight"]) == ("small", 1.0, "traffic", 3.0)
    assert all(one.keys() > PLAN_KEYS for one in (first, second))
    assert said.json["servers"] == first["servers"] + second["servers"] <= 25
    assert said.json["accuracy"] == pytest.approx((first["accuracy"] + 3 * second["accuracy"]) / 4)
    assert {one["pipeline"] for one in said.json["placements"]} == {"small", "traffic"}
    told = call("plan", small, "traffic", *flags).out
    assert "small: " in told
    assert "traffic: " in told
    assert "together: " in told


def test_capacity_of_a_pool(call: Call, small: Path) -> None:
    plain = call("capacity", small, "--servers", 20, "--json").json["max_qps"]
    typed = call("capacity", small, "--pool", "three-types", "--json").json
    assert 0 < typed["max_qps"] < plain
    assert (
        call("plan", small, "--demand", typed["max_qps"] * 0.999, "--pool", "three-types", "--json").json["mode"] != "shed"
    )


def test_capacity(call: Call, small: Path) -> None:
    said = call("capacity", small, "--json")
    assert (said.code, said.err) == (0, "")
    assert said.json.keys() > {"max_qps", "accuracy", "placements"}
    accurate = call("capacity", small, "--min-accuracy", 1, "--json").json
    assert 0 < accurate["max_qps"] < said.json["max_qps"]
    assert "small" in call("capacity", small).out


def test_simulate(call: Call, small: Path, crowd: Path) -> None:
    said = call("simulate", small, "--trace", crowd, "--interval-s", 1, "--json")
    assert (said.code, said.err) == (0, "")
    assert said.json.keys() > RUN_KEYS
    assert said.json["arrivals"] == 100 == sum(said.json[name] for name in OUTCOMES)
    assert "exact" in call("simulate", small, "--trace", crowd).out
    known = call("simulate", small, "--trace", crowd, "--interval-s", 1, "--solver", "pulp", "--json").json
    assert known["cost_j"] == pytest.approx(said.json["cost_j"], abs=0.02)


def test_a_run_on_a_pool_is_repeated(call: Call, small: Path, crowd: Path, tmp_path: Path) -> None:
    flags = ("--pool", "three-types", "--policy", "static", "--rate-scale", 9, "--logdir", tmp_path)
    first = call("simulate", small, "--trace", crowd, *flags, "--json").json
    again = call("simulate", "--config", tmp_path / "twin/static/crowd/seed0/run.json", "--json").json
    assert again.pop("wall_s") > 0 < first.pop("wall_s")
    assert again == first
    assert first["arrivals"] == 900


@pytest.mark.parametrize(("flags", "name", "value"), [
    (("--servers", 2, "--policy", "static"), "servers_mean", 2.0),
    (("--from-s", 1, "--to-s", 2), "arrivals", 20),
    (("--rate-scale", 2), "arrivals", 200),
    (("--seed", 5), "seed", 5),
])  # fmt: skip
def test_simulate_does_what_its_flags_say(
    call: Call, small: Path, crowd: Path, flags: tuple[object, ...], name: str, value: float
) -> None:
    assert call("simulate", small, "--trace", crowd, *flags, "--json").json[name] == value


def test_run_json_repeats_a_run(call: Call, small: Path, crowd: Path, tmp_path: Path) -> None:
    flags = ("--policy", "loki", "--servers", 3, "--seed", 4, "--interval-s", 1, "--drop", "per-task", "--rate-scale", 3)
    first = call("simulate", small, "--trace", crowd, *flags, "--logdir", tmp_path, "--json").json
    again = call("simulate", "--config", tmp_path / "twin/loki/crowd/seed4/run.json", "--json").json
    assert again.pop("wall_s") > 0 < first.pop("wall_s")
    assert again == first


def test_what_a_plane_was_asked_is_played_again_beside_what_it_made_of_it(call: Call, small: Path, tmp_path: Path) -> None:
    options = RunOptions(str(small), "live", "loki", "emulated", initial_rps=20.0)
    cluster = cluster_of(options, options.file.pipeline, 4, Pool())
    file = begin_recording(tmp_path / "run" / "flight", cluster, options)
    writer = Writer(file)
    writer.put(Begun(9.0))
    for number in range(100):
        writer.put(Arrival(9.0 + number / 50, 0.0, 0.0, 0))
        writer.put(Answer(9.1 + number / 50, Outcome.OK if number % 4 else Outcome.DROPPED, 0.1, 0.8))
    writer.close()
    said = call("simulate", "--journal", tmp_path / "run", "--policy", "exact", "--servers", 3, "--json").json
    recorded = said.pop("recorded")
    assert (said["policy"], said["driver"], said["arrivals"], said["ok"]) == ("exact", "twin", 100, 100)
    assert (recorded["policy"], recorded["driver"]) == ("loki (live)", "emulated")
    assert (recorded["arrivals"], recorded["ok"], recorded["dropped"]) == (100, 75, 25)
    shown = call("simulate", "--journal", file, "--policy", "exact").out
    assert [line.split()[0] for line in shown.splitlines() if "twin" in line or "emulated" in line] == ["loki", "exact†"]
    words = ("compare", "--journal", file, "--policies", "loki,exact", "--jobs", 1, "--logdir", tmp_path / "runs", "--json")
    found = call(*words).json
    assert [one["policy"] for one in found["results"]] == ["loki", "exact"]
    assert found["recorded"]["dropped"] == 25
    assert "loki (live)" in (tmp_path / "runs" / "report.md").read_text()
    assert call(*words).json["reused"] == 2


def test_run_json_of_a_plane_starts_a_plane(call: Call, make_result: Any, tmp_path: Path, monkeypatch: Any) -> None:
    from loki_rl.runs import run, run_folder

    done = make_result(driver="emulated")
    monkeypatch.setitem(run.RUNNERS, "emulated", lambda options, *_: {done.options: done}[options])
    folder = run_folder.save(done, tmp_path)
    assert call("simulate", "--config", folder / "run.json", "--json").json["driver"] == "emulated"


@pytest.mark.usefixtures("undrawn")
def test_compare(call: Call, small: Path, crowd: Path, tmp_path: Path) -> None:
    calm = tmp_path / "calm.csv"
    calm.write_text("t_seconds,requests\n0,5\n1,5\n")
    words = ("compare", small, "--trace", crowd, "--trace", calm, "--policies", "static,exact", "--seeds", 2, "--seed", 7)
    flags = ("--interval-s", 1, "--jobs", 1, "--logdir", tmp_path / "runs")
    said = call(*words, *flags, "--json")
    assert said.code == 0
    assert said.json.keys() >= {"results", "summary"}
    assert all(one.keys() > RUN_KEYS | {"trace", "policy", "seed"} for one in said.json["results"])
    assert [(one["trace"], one["seed"], one["policy"]) for one in said.json["results"]] == [
        (trace, seed, policy) for trace in ("crowd", "calm") for seed in (7, 8) for policy in ("static", "exact")
    ]
    assert [(one["trace"], one["policy"], one["n"]) for one in said.json["summary"]] == [
        (trace, policy, 2) for trace in ("crowd", "calm") for policy in ("static", "exact")
    ]
    assert said.err.splitlines()[-1] == "[8/8] exact on calm.csv (twin, seed 8): done"
    assert (tmp_path / "runs/twin/exact/calm/seed8/run.json").is_file()
    told = call(*words, *flags)
    assert told.code == 0
    assert told.out.splitlines()[-4:] == [
        "reused: 8 of 8 runs, made before with the same options and code", f"report: {tmp_path / 'runs/report.md'}",
        f"as one page: {tmp_path / 'runs/report.html'}", f"curves: tensorboard --logdir {tmp_path / 'runs'}",
    ]  # fmt: skip
    assert any(line.startswith("exact: violations ") for line in told.out.splitlines())
    assert told.err.splitlines()[-1] == "[8/8] exact on calm.csv (twin, seed 8): reused"


@pytest.mark.usefixtures("undrawn")
def test_compare_on_a_pool(call: Call, small: Path, crowd: Path, tmp_path: Path) -> None:
    words = ("compare", small, "--trace", crowd, "--policies", "static,exact", "--pool", "three-types", "--jobs", 1)
    said = call(*words, "--logdir", tmp_path / "runs", "--json")
    assert said.code == 0
    options = json.loads((tmp_path / "runs/twin/exact/crowd/seed0/run.json").read_text())
    assert options["pool"] == "three-types"
    assert [one["arrivals"] for one in said.json["results"]] == [100, 100]


@pytest.mark.usefixtures("undrawn")
def test_compare_lists_what_failed(
    call: Call, small: Path, crowd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from loki_rl.runs import run
    from loki_rl.serving.process.launch import LaunchError

    def refuse(_: RunOptions, __: Path | None) -> RunResult:
        raise LaunchError("no worker came up")

    monkeypatch.setitem(run.RUNNERS, "emulated", refuse)
    words = ("compare", small, "--trace", crowd, "--policies", "static", "--driver", "twin,emulated", "--logdir", tmp_path)
    said = call(*words, "--json")
    assert said.code == 1
    assert said.json["failures"][0]["sentence"] == "no worker came up"
    assert [one["driver"] for one in said.json["results"]] == ["twin"]
    assert said.err.splitlines()[-1] == "failed: static on crowd.csv (emulated, seed 0): no worker came up"
    told = call(*words)
    assert told.code == 1
    assert "static" in told.out


def test_trace_stats(call: Call, crowd: Path) -> None:
    said = call("trace", "stats", crowd, "--json")
    assert (said.code, said.err) == (0, "")
    assert (said.json["requests"], said.json["mean_rps"], said.json["peak_rps"]) == (100, 25.0, 50.0)
    assert "mean_rps" in call("trace", "stats", crowd).out


def test_a_history_is_made_and_shown(call: Call, crowd: Path, tmp_path: Path) -> None:
    file, trace = tmp_path / "history.json", tmp_path / "rise.csv"
    trace.write_text("requests\n" + 100 * "20\n" + 100 * "80\n")
    made = call("history", "fit", crowd, trace, "--out", file, "--json")
    assert (made.code, made.err) == (0, "")
    assert made.json["jumps_per_day"]["1.5"] > made.json["jumps_per_day"]["5"] >= 0
    assert made.json["calendar"] == {"minute of the hour": None, "hour of the day": None, "day of the week": None}
    shown = call("history", "show", file, "--json")
    assert shown.json == made.json
    for word in ("demand stays", "minute of the hour", "nothing shown"):
        assert word in call("history", "show", file).out


def test_a_history_shows_its_calendar(call: Call, tmp_path: Path) -> None:
    history = History()
    history.extend([150 if second % 3600 < 120 else 50 for second in range(6 * 3600)], 0)
    write_history(tmp_path / "history.json", history)
    calendar = call("history", "show", tmp_path / "history.json", "--json").json["calendar"]
    assert calendar["minute of the hour"][1] / calendar["minute of the hour"][2] == pytest.approx(3, rel=0.01)
    assert "0-1: 2.8" in call("history", "show", tmp_path / "history.json").out


def test_help_names_every_command(call: Call) -> None:
    said = call("--help")
    assert (said.code, said.err) == (0, "")
    for name in ("plan", "capacity", "simulate", "compare", "serve", "replay", "profile", "models", "trace", "history"):
        assert name in said.out
    assert call().out == said.out


def test_a_bar_says_how_far_all_runs_are_and_what_was_reused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run_options: RunOptions
) -> None:
    steps = [Progress(run_options, "reused", 1, 4, 1), Progress(run_options, "failed", 2, 4, 1, "it broke")]
    with terminal.run_bar() as tell:
        for step in steps:
            tell(step)
    assert capsys.readouterr().err.splitlines() == [
        "[1/4] exact on crowd.csv (twin, seed 0): reused", "[2/4] exact on crowd.csv (twin, seed 0): it broke"
    ]  # fmt: skip
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    with terminal.run_bar() as tell:
        for step in steps:
            tell(step)
    drawn = Text.from_ansi(capsys.readouterr().err).plain
    assert "2/4 runs, 1 reused" in drawn
    assert "it broke" in drawn
