"""Every command as a user types it: one JSON object on stdout, one sentence on stderr for a mistake, no traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from loki_rl.cli import main as cli
from loki_rl.serving.repository import model_path

RUN_KEYS = {
    "arrivals", "ok", "late", "dropped", "rejected", "cancelled", "failed", "slo_violation_ratio", "leaf_violation_ratio",
    "accuracy", "servers_mean", "p50_ms", "p99_ms", "task_executions", "cost_j", "wall_s",
}  # fmt: skip
PLAN_KEYS = {
    "mode", "servers", "accuracy", "served_fraction", "placements", "bound", "gap", "solve_ms", "build_ms", "reasons",
}  # fmt: skip
OUTCOMES = ("ok", "late", "dropped", "rejected", "cancelled", "failed")


class Said(Struct):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one object on stdout."""
        assert self.out.endswith("}\n")
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found

    @property
    def sentence(self) -> str:
        """The one sentence on stderr, after the name of the program."""
        (line,) = self.err.splitlines()
        assert self.code == 2
        assert line.startswith("loki-rl: ")
        assert "Traceback" not in line
        return line.removeprefix("loki-rl: ")


Call = Callable[..., Said]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`compare` writes to the working folder unless it is told otherwise."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots have tests of their own, and take longer than the rest of a short comparison."""
    monkeypatch.setattr("loki_rl.report.timeline_png", lambda _, path: path.write_bytes(b""))


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Type a command in this process."""

    def call(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["loki-rl", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert isinstance(end.value.code, int)
        return Said(end.value.code, *capsys.readouterr())

    return call


def typed(*words: object) -> Said:
    """Type a command in a process of its own."""
    command = [sys.executable, "-m", "loki_rl", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return Said(done.returncode, done.stdout, done.stderr)


# -- what commands print --------------------------------------------------------------------------------------------------


def test_plan(call: Call, small: Path) -> None:
    said = call("plan", small, "--demand", 20, "--json")
    assert (said.code, said.err) == (0, "")
    assert said.json.keys() > PLAN_KEYS
    assert (said.json["mode"], said.json["served_fraction"]) == ("hardware", 1.0)
    assert {frozenset(one) for one in said.json["placements"]} == {frozenset({"task", "variant", "batch", "replicas"})}
    assert "hardware mode at 20 requests/s" in call("plan", small, "--demand", 20).out


def test_a_ladder_of_plans_with_its_picture(call: Call, small: Path, tmp_path: Path) -> None:
    said = call("plan", small, "--demand", "50:450:200", "--plot", tmp_path / "phases.png", "--json")
    assert [one["demand_rps"] for one in said.json["plans"]] == [50.0, 250.0, 450.0]
    assert all(one.keys() > PLAN_KEYS for one in said.json["plans"])
    assert (tmp_path / "phases.png").read_bytes().startswith(b"\x89PNG")
    assert "optimal plans by demand" in call("plan", small, "--demand", "50:450:200").out


def test_an_infeasible_plan_prints_its_json_and_fails(call: Call, small: Path) -> None:
    said = call("plan", small, "--demand", 20, "--servers", 1, "--json")
    assert said.json["mode"] == "infeasible"
    assert said.json["reasons"][0] in said.sentence


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


def test_run_json_of_a_plane_starts_a_plane(call: Call, make_result: Any, tmp_path: Path, monkeypatch: Any) -> None:
    from loki_rl import run_folder, runs

    done = make_result(driver="emulated")
    monkeypatch.setitem(runs.RUNNERS, "emulated", {done.options: done}.__getitem__)
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
    assert told.out.splitlines()[-2:] == [
        f"report: {tmp_path / 'runs/report.md'}", f"curves: tensorboard --logdir {tmp_path / 'runs'}",
    ]  # fmt: skip
    assert told.err.splitlines()[-1] == "[8/8] exact on calm.csv (twin, seed 8): resumed"


@pytest.mark.usefixtures("undrawn")
def test_compare_lists_what_failed(
    call: Call, small: Path, crowd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from loki_rl import runs
    from loki_rl.serving.launch import LaunchError

    def refuse(_: runs.RunOptions) -> runs.RunResult:
        raise LaunchError("no worker came up")

    monkeypatch.setitem(runs.RUNNERS, "emulated", refuse)
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


def test_help_names_every_command(call: Call) -> None:
    said = call("--help")
    assert (said.code, said.err) == (0, "")
    for name in ("plan", "capacity", "simulate", "compare", "serve", "replay", "profile", "models", "trace"):
        assert name in said.out
    assert call().out == said.out


# -- mistakes -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def bad(tmp_path: Path, small: Path) -> Path:
    """A folder of files that are wrong."""
    good = small.read_text()
    files = {
        "malformed.yaml": "name: x\n  slo: [\n",
        "key.yaml": good.replace("slo_ms:", "slo_msec:"),
        "variant.yaml": good.replace("accuracy: 0.5", "acuracy: 0.5"),
        "negative.csv": "t_seconds,requests\n0,1\n1,-3\n",
        "columns.csv": "time,users\n0,1\n",
        "empty.csv": "",
        "file": "",
        "servers.json": '{"pipeline": "p", "trace": "t", "policy": "exact", "servers": 0}',
        "key.json": '{"pipeline": "p", "trace": "t", "polcy": "exact"}',
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path


PIPELINES = {
    "malformed.yaml": "line 2: malformed YAML",
    "key.yaml": "unknown key 'slo_msec'; did you mean 'slo_ms'?",
    "variant.yaml": "unknown key 'acuracy'; did you mean 'accuracy'?",
    "absent.yaml": "no such pipeline file",
}
READERS = (("plan", "--demand", 5), ("capacity",), ("simulate",), ("compare",), ("serve",))


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize("words", READERS, ids=lambda words: str(words[0]))
def test_a_wrong_pipeline_file(call: Call, bad: Path, name: str, words: tuple[object, ...]) -> None:
    command, *rest = words
    said = call(command, bad / name, *rest, "--json")
    assert said.out == ""
    assert said.sentence.startswith(str(bad / name))
    assert PIPELINES[name] in said.sentence


TRACES = {
    "negative.csv": "line 3: -3 requests; a count must lie between 0 and",
    "columns.csv": "line 1: unknown columns 'time,users'; expected 't_seconds,requests'",
    "empty.csv": "is empty",
    "absent.csv": "no such trace file",
}


@pytest.mark.parametrize("name", TRACES)
@pytest.mark.parametrize("command", ["simulate", "compare", "replay", "stats"])
def test_a_wrong_trace(call: Call, small: Path, bad: Path, name: str, command: str) -> None:
    words: dict[str, tuple[object, ...]] = {
        "simulate": ("simulate", small, "--trace"),
        "compare": ("compare", small, "--logdir", bad / "runs", "--trace"),
        "replay": ("replay", "--url", "tcp://127.0.0.1:1", "--pipeline", small, "--trace"),
        "stats": ("trace", "stats"),
    }
    said = call(*words[command], bad / name, "--json")
    assert said.out == ""
    assert said.sentence.startswith(str(bad / name))
    assert TRACES[name] in said.sentence


MISTAKES: list[tuple[str, str]] = [
    ("plan SMALL --demand 0", "--demand must be a rate above 0"),
    ("plan SMALL --demand -5", "--demand must be a rate above 0"),
    ("plan SMALL --demand nan", "--demand must be a rate above 0"),
    ("plan SMALL --demand many", "--demand must be a rate above 0 or FROM:TO:STEP, not 'many'"),
    ("plan SMALL --demand 5:1:1", "FROM:TO:STEP"),
    ("plan SMALL --demand 1:1e9:1e-3", "take a larger step"),
    ("plan SMALL", "--demand"),
    ("plan SMALL --demand 5 --servers 0", "servers must be at least 1, not 0"),
    ("plan SMALL --demand 5 --slo-ms 5", "an SLO of 5 ms cannot be met, since the fastest path takes"),
    ("plan SMALL --demand 5 --slo-ms nan", "SLO"),
    ("plan SMALL --demand 5 --min-accuracy 1.5", "min_accuracy must lie in 0..1"),
    ("plan SMALL --demand 5 --headroom -1", "headroom"),
    ("plan SMALL --demand 5 --queueing tial", "--queueing must be one of tail, half-slo, not 'tial'"),
    ("plan SMALL --demand 5 --plot BAD/x.png", "give --demand as FROM:TO:STEP"),
    ("plan SMALL --demand 5:6:1 --plot BAD/file/x.png", "cannot be written"),
    ("plan smal --demand 5", "no pipeline 'smal'"),
    ("plan trafic --demand 5", "did you mean 'traffic'?"),
    ("capacity SMALL --servers 0", "servers must be at least 1, not 0"),
    ("capacity SMALL --slo-ms 5", "cannot be met"),
    ("simulate", "name a pipeline"),
    ("simulate SMALL --policy exat", "there is no policy 'exat'; did you mean 'exact'?"),
    ("simulate SMALL --drop rerout", "--drop must be one of none, last-task, per-task, reroute, not 'rerout'"),
    ("simulate SMALL --servers 0", "servers must be"),
    ("simulate SMALL --servers few", "--servers"),
    ("simulate SMALL --slo-ms 5", "cannot be met"),
    ("simulate SMALL --interval-s 0", "interval_s must be"),
    ("simulate SMALL --interval-s nan", "interval_s must be"),
    ("simulate SMALL --load-s -1", "load_s must be"),
    ("simulate SMALL --load-s inf", "load_s must be"),
    ("simulate SMALL --mean-rps 0", "mean_rps must be above 0"),
    ("simulate SMALL --mean-rps 5 --rate-scale 2", "exclude each other"),
    ("simulate SMALL --compress 0", "compress must be above 0"),
    ("simulate SMALL --from-s 9 --to-s 3", "window"),
    ("simulate SMALL --seed -1", "seed"),
    ("simulate SMALL --trace flash_crwd", "did you mean 'flash_crowd'?"),
    ("simulate SMALL --logdir BAD/file", "nothing can be written to BAD/file"),
    ("simulate SMALL --logdir BAD/file/runs", "name another folder"),
    ("simulate SMALL --profil x", "No such option"),
    ("simulate SMALL --profile BAD/none.json", "does not exist"),
    ("simulate --config BAD/absent.json", "cannot be read"),
    ("simulate --config BAD/columns.csv", "is not the run.json of a run"),
    ("simulate --config BAD/key.json", "polcy"),
    ("simulate --config BAD/servers.json", "servers must be"),
    ("simulate SMALL --config BAD/servers.json", "leave pipeline out"),
    ("simulate --config BAD/servers.json --mean-rps 5", "leave --mean-rps out"),
    ("compare SMALL --policies ,", "--policies names nothing"),
    ("compare SMALL --policies static,exat --logdir BAD/runs", "did you mean 'exact'?"),
    ("compare SMALL --driver twin,plane", "--driver must be one of twin, emulated, onnx, not 'plane'"),
    ("compare SMALL --driver onnx", "names no models"),
    ("compare SMALL --seeds 0", "--seeds"),
    ("compare SMALL --jobs 0", "--jobs"),
    ("compare SMALL --servers 0", "servers must be"),
    ("compare SMALL --drop rerout", "--drop must be one of"),
    ("compare SMALL --logdir BAD/file", "nothing can be written to BAD/file"),
    ("serve SMALL --workers 0", "workers must be"),
    ("serve SMALL --engine onx", "--engine must be one of"),
    ("serve SMALL --engine onnx", "names no models"),
    ("serve SMALL --policy exat", "did you mean 'exact'?"),
    ("serve SMALL --logdir BAD/file", "nothing can be written"),
    ("replay --url ftp://x --pipeline SMALL", "neither tcp://, ipc:// nor http://"),
    ("replay --pipeline SMALL", "--url"),
    ("trace stats flash_crowd --compress -1", "compress must be above 0"),
    ("profile SMALL --clock moon", "--clock must be one of wall, cpu"),
    ("profile SMALL", "names no models"),
    ("models fetch writing", "must be one of reading"),
    ("simulat SMALL", "simulat"),
]


@pytest.mark.parametrize(("line", "says"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_mistake_is_one_sentence(call: Call, small: Path, bad: Path, line: str, says: str) -> None:
    said = call(*line.replace("SMALL", str(small)).replace("BAD", str(bad)).split())
    assert said.out == ""
    assert says.replace("BAD", str(bad)) in said.sentence


def with_models(small: Path, folder: Path) -> Path:
    """The small pipeline with a model for each variant, in a repository of its own."""
    adapter = "    adapter: loki_rl.serving.adapters.detection:TextDetection\n"
    text = (
        small.read_text().replace("    variants:\n", adapter + "    variants:\n").replace("{accuracy", "{model: m, accuracy")
    )
    path = folder / "modelled.yaml"
    path.write_text(text.replace("servers: 4\n", "servers: 4\nrepository: models\n"))
    return path


@pytest.mark.parametrize("words", [("serve",), ("compare", "--driver", "onnx")], ids=lambda words: str(words[0]))
def test_a_missing_model_is_missed_before_anything_starts(
    call: Call, small: Path, tmp_path: Path, words: tuple[object, ...]
) -> None:
    pipeline = with_models(small, tmp_path)
    command, *rest = words
    said = call(command, pipeline, *rest, "--logdir", tmp_path / "runs")
    assert said.out == ""
    assert f"there is no model {model_path(tmp_path / 'models', 'm')}; run 'loki-rl models fetch" in said.sentence


def test_a_fault_of_ours_keeps_its_traceback(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("nope")

    monkeypatch.setattr("loki_rl.config.load_pipeline", broken)
    monkeypatch.setattr(sys, "argv", ["loki-rl", "capacity", str(small)])
    with pytest.raises(KeyError, match="nope"):
        cli.main()


# -- in a process of its own ----------------------------------------------------------------------------------------------


def test_a_whole_process_prints_json_alone(small: Path, crowd: Path) -> None:
    said = typed("simulate", small, "--trace", crowd, "--json")
    assert (said.code, said.err) == (0, "")
    assert said.json["arrivals"] == 100


def test_a_whole_process_compares_in_several(small: Path, crowd: Path, tmp_path: Path) -> None:
    words = ("compare", small, "--trace", crowd, "--policies", "static,exact", "--jobs", 2, "--logdir", tmp_path)
    said = typed(*words, "--json")
    assert said.code == 0
    assert [one["policy"] for one in said.json["results"]] == ["static", "exact"]
    assert "Traceback" not in said.err


def test_a_whole_process_fails_with_one_sentence(small: Path, bad: Path) -> None:
    assert "malformed YAML" in typed("plan", bad / "malformed.yaml", "--demand", 5, "--json").sentence
    infeasible = typed("plan", small, "--demand", 20, "--servers", 1, "--json")
    assert infeasible.json["mode"] == "infeasible"
    assert infeasible.json["reasons"][0] in infeasible.sentence


@pytest.mark.parametrize(("number", "send", "code"), [
    (signal.SIGINT, os.killpg, 130),  # Ctrl-C reaches the whole group
    (signal.SIGKILL, os.kill, -signal.SIGKILL),
])  # fmt: skip
def test_an_interrupted_comparison_leaves_no_process(
    small: Path, crowd: Path, tmp_path: Path, number: signal.Signals, send: Callable[[int, int], None], code: int
) -> None:
    endless = tmp_path / "endless.csv"
    endless.write_text("t_seconds,requests\n0,2000000\n50000,2000000\n")
    traces = ("--trace", crowd, "--trace", endless)
    words = ("compare", small, *traces, "--policies", "static", "--seeds", 3, "--jobs", 2, "--logdir", tmp_path / "runs")
    command = [sys.executable, "-m", "loki_rl", *map(str, words)]
    out_err = subprocess.PIPE
    with subprocess.Popen(command, stdout=out_err, stderr=out_err, text=True, start_new_session=True) as running:
        try:
            assert running.stderr is not None
            assert running.stderr.readline().startswith("[1/")
            send(running.pid, number)
            out, err = running.communicate(timeout=30)  # returns when nobody holds the pipes any more
        finally:
            with suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
    assert (running.returncode, out) == (code, "")
    assert "Traceback" not in err
