"""A mistake is told in one sentence on stderr, with exit code 2 and no traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loki_rl.cli import main as cli
from loki_rl.serving.engines.files import model_path

Call = Callable[..., Any]

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
    ("plan SMALL --demand 0", "--demand must be a rate from 1e-06 to 1e+09 requests/s"),
    ("plan SMALL --demand -5", "--demand must be a rate from 1e-06 to 1e+09 requests/s"),
    ("plan SMALL --demand nan", "--demand must be a rate from 1e-06 to 1e+09 requests/s"),
    ("plan SMALL --demand many", "--demand must be a rate from 1e-06 to 1e+09 requests/s or FROM:TO:STEP, not 'many'"),
    ("plan SMALL --demand 1e-300", "--demand must be a rate from 1e-06 to 1e+09 requests/s"),
    ("plan SMALL --demand 1:2:1e-320", "--demand must be a rate from 1e-06 to 1e+09 requests/s"),
    ("plan SMALL --demand 5 --slo-ms 1e308", "--slo-ms must be a number above 0 and at most 86400000"),
    ("plan SMALL --demand 5 --headroom 1e308", "--headroom must be a number from 0 to 1000"),
    ("plan SMALL --demand 5:1:1", "FROM:TO:STEP"),
    ("plan SMALL --demand 1:1e9:1e-3", "take a larger step"),
    ("plan SMALL", "--demand"),
    ("plan SMALL --demand 5 --servers 0", "--servers must be a whole number from 1 to 100000, not '0'"),
    ("plan SMALL --demand 5 --servers 100001", "--servers must be a whole number from 1 to 100000, not '100001'"),
    ("simulate SMALL --servers 999999999", "--servers must be a whole number from 1 to 100000"),
    ("train one-task --steps 0", "--steps must be a whole number of at least 1, not '0'"),
    ("train one-task --rounds 0", "--rounds must be a whole number of at least 1, not '0'"),
    ("train one-task --servers 0", "--servers must be a whole number from 1 to 100000, not '0'"),
    ("train one-task --mean-rps -5", "--mean-rps must be a number above 0, not '-5'"),
    ("train one-task --interval-s 0", "--interval-s must be a number of at least 0.1, not '0'"),
    ("evaluate one-task --intervals 0", "--intervals must be a whole number of at least 1, not '0'"),
    ("evaluate one-task --compress 2", "from_s, to_s, compress, rate_scale are of a trace; name one or leave them out"),
    ("evaluate one-task --trace flash_crowd --to-s 900", "trace 'flash_crowd' runs from 0 to 180 s; the window 0 to 900 s"),
    ("evaluate one-task --trace flash_crowd", "of which 52 s are for validation; an episode needs 316 s: take fewer"),
    ("evaluate one-task --load-s -1", "--load-s must be a number from 0 to 86400.0, not '-1'"),
    ("serve SMALL --workers 999999999", "--workers must be a whole number from 1 to 100000"),
    ("serve SMALL --pool BAD/crowded.yaml", "servers must be at most 100000"),
    ("plan SMALL --demand 5 --slo-ms 5", "an SLO of 5 ms cannot be met, since the fastest path takes"),
    ("plan SMALL --demand 5 --slo-ms nan", "--slo-ms must be a number above 0 and at most 86400000.0, not 'nan'"),
    ("plan SMALL --demand 5 --min-accuracy 1.5", "--min-accuracy must be a number from 0 to 1, not '1.5'"),
    ("plan SMALL --demand 5 --headroom -1", "--headroom must be a number from 0 to 1000.0, not '-1'"),
    ("plan SMALL --demand 5 --queueing tial", "--queueing must be one of half-slo, tail, not 'tial'"),
    ("plan SMALL --demand 5 --plot BAD/x.png", "give --demand as FROM:TO:STEP"),
    ("plan SMALL --demand 5:6:1 --plot BAD/file/x.png", "cannot be written"),
    ("plan smal --demand 5", "no pipeline 'smal'"),
    (
        "compare SMALL --policies exact --min-accuracy 2 --logdir BAD/runs",
        "--min-accuracy must be a number from 0 to 1, not '2'",
    ),
    ("compare SMALL --trace BAD --logdir BAD/runs", "BAD: is a folder; name a file"),
    ("compare SMALL --faults BAD/none.yaml --logdir BAD/runs", "BAD/none.yaml: cannot be read"),
    ("plan trafic --demand 5", "did you mean 'traffic'?"),
    ("plan SMALL --demand 5 --pool BAD/absent.yaml", "no such pool file"),
    ("plan SMALL --demand 5 --pool three-tipes", "did you mean 'three-types'?"),
    ("plan SMALL --demand 5 --pool BAD/key.yaml", "unknown key 'name'"),
    ("plan SMALL --demand 5 --pool three-types --servers 5", "the types have 20 servers together, not 5"),
    ("plan SMALL traffic --demand 5 --servers 9", "--demand stands 1 times; give it once for each of 2 pipelines"),
    ("plan SMALL traffic --demand 5 --demand 6", "give its --servers or a --pool"),
    ("plan SMALL traffic --demand 5 --demand 1:5:1 --servers 9", "a ladder of demands is for one pipeline"),
    ("plan SMALL traffic --demand 5 --demand 6 --weight 1 --servers 9", "--weight stands 1 times"),
    ("plan SMALL --demand 5 --weight 0", "the weight of 'small' must be above 0, not 0"),
    ("plan SMALL traffic --demand 5 --demand 6 --profile BAD/none.json", "--profile is for one pipeline"),
    ("plan SMALL traffic --demand 5 --demand 6 --servers 1 --min-accuracy 2", "--min-accuracy must be a number from 0 to 1"),
    ("capacity SMALL --pool BAD/malformed.yaml", "line 2: malformed YAML"),
    ("capacity SMALL --servers 0", "--servers must be a whole number from 1"),
    ("capacity SMALL --slo-ms 5", "cannot be met"),
    ("simulate", "name a pipeline"),
    ("simulate SMALL --policy exat", "there is no policy 'exat'; did you mean 'exact'?"),
    ("simulate SMALL --drop rerout", "--drop must be one of none, last-task, per-task, reroute, not 'rerout'"),
    ("plan SMALL --demand 5 --solver cbc", "--solver must be one of search, pulp, not 'cbc'"),
    ("capacity SMALL --solver cbc", "--solver must be one of search, pulp, not 'cbc'"),
    ("simulate SMALL --solver cbc", "--solver must be one of search, pulp, not 'cbc'"),
    ("serve SMALL --solver cbc", "--solver must be one of search, pulp, not 'cbc'"),
    ("simulate SMALL --servers 0", "--servers must be"),
    ("simulate SMALL --pool three-tipes", "did you mean 'three-types'?"),
    ("simulate SMALL --pool three-types --servers 4", "have 20 servers together, not 4; leave one out"),
    ("simulate SMALL --pool three-types --policy proteus", "plans for servers of one type"),
    ("simulate SMALL --pool three-types --routing table", "with routing 'pull' only"),
    ("simulate SMALL --servers few", "--servers must be a whole number from 1 to 100000, not 'few'"),
    ("simulate SMALL --slo-ms 5", "cannot be met"),
    ("simulate SMALL --interval-s 0", "--interval-s must be a number of at least 0.1, not '0'"),
    ("simulate SMALL --interval-s nan", "--interval-s must be a number of at least 0.1, not 'nan'"),
    ("simulate SMALL --load-s -1", "--load-s must be a number from 0 to 86400.0, not '-1'"),
    ("simulate SMALL --load-s inf", "--load-s must be a number from 0 to 86400.0, not 'inf'"),
    ("simulate SMALL --mean-rps 0", "--mean-rps must be a number above 0, not '0'"),
    ("simulate SMALL --mean-rps 5 --rate-scale 2", "exclude each other"),
    ("simulate SMALL --compress 0", "--compress must be a number above 0, not '0'"),
    ("simulate SMALL --from-s 9 --to-s 3", "window"),
    ("simulate SMALL --seed -1", "--seed must be a whole number of at least 0, not '-1'"),
    ("simulate SMALL --trace flash_crwd", "did you mean 'flash_crowd'?"),
    ("simulate SMALL --logdir BAD/file", "nothing can be written to BAD/file"),
    ("simulate SMALL --logdir BAD/file/runs", "name another folder"),
    ("simulate SMALL --profil x", "No such option"),
    ("simulate SMALL --profile BAD/none.json", "does not exist"),
    ("simulate --config BAD/absent.json", "cannot be read"),
    ("simulate --config BAD/columns.csv", "is not the run.json of a run"),
    ("simulate --config BAD/key.json", "unknown key 'polcy'; did you mean 'policy'?"),
    ("simulate --config BAD/servers.json", "BAD/servers.json, at 'servers': expected a whole number >= 1"),
    ("simulate SMALL --config BAD/servers.json", "leave pipeline out"),
    ("simulate --config BAD/servers.json --mean-rps 5", "leave --mean-rps out"),
    ("simulate SMALL --calibration BAD/absent.json", "BAD/absent.json: cannot be read"),
    ("simulate SMALL --calibration BAD/key.json", "BAD/key.json: is of version None, this program reads 1; calibrate again"),
    ("simulate SMALL --driver emulated --calibration BAD/key.json", "for the twin only, not for driver 'emulated'"),
    ("calibrate --out BAD/c.json", "Missing argument 'RECORDING...'"),
    ("calibrate BAD/absent --out BAD/c.json", "BAD/absent cannot be read"),
    ("calibrate BAD --out BAD/c.json", "BAD/flight cannot be read"),
    ("calibrate BAD/key.json --out BAD/c.json", "BAD/key.json is not a recording"),
    ("calibrate BAD/key.json --out BAD/file/c.json", "nothing can be written to BAD/file"),
    ("calibrate BAD/key.json", "--out"),
    ("compare SMALL --policies ,", "--policies names nothing"),
    ("compare SMALL --policies static,exat --logdir BAD/runs", "did you mean 'exact'?"),
    ("compare SMALL --driver twin,plane", "--driver must be one of twin, emulated, onnx, not 'plane'"),
    ("compare SMALL --driver onnx", "names no models"),
    ("compare SMALL --seeds 0", "--seeds must be a whole number of at least 1, not '0'"),
    ("compare SMALL --jobs 0", "--jobs must be a whole number of at least 1, not '0'"),
    ("compare SMALL --servers 0", "--servers must be"),
    ("compare SMALL --drop rerout", "--drop must be one of"),
    ("compare SMALL --logdir BAD/file", "nothing can be written to BAD/file"),
    ("serve SMALL --workers 0", "--workers must be a whole number from 1 to 100000, not '0'"),
    ("serve SMALL --http-port 65536", "--http-port must be a whole number from 0 to 65535, not '65536'"),
    ("serve SMALL --trace-ratio 2", "--trace-ratio must be a number from 0 to 1, not '2'"),
    ("serve SMALL --log-level loud", "--log-level must be one of info, debug, not 'loud'"),
    ("serve SMALL --engine onx", "--engine must be one of"),
    ("serve SMALL --engine onnx", "names no models"),
    ("serve SMALL --policy exat", "did you mean 'exact'?"),
    ("serve SMALL --pool three-tipes", "did you mean 'three-types'?"),
    ("serve SMALL --pool three-types --workers 4", "have 20 servers together, not 4; leave one out"),
    ("serve SMALL --pool three-types --workers-per-gpu 4", "leave --workers-per-gpu out"),
    ("serve SMALL --pool three-types --policy proteus", "plans for servers of one type"),
    ("serve SMALL --pool BAD/dear.yaml", "'small' cannot be served: "),
    ("serve SMALL --workers 1", "'small' cannot be served: "),
    ("serve SMALL --logdir BAD/file", "nothing can be written"),
    ("serve SMALL --shadow loki", "the curves of shadows need a folder; add --logdir FOLDER"),
    ("serve SMALL --shadow exat --logdir runs", "there is no policy 'exat'; did you mean 'exact'?"),
    ("serve SMALL --shadow clairvoyant --logdir runs", "plans for demand known beforehand"),
    ("serve SMALL --calibration absent", "a calibration is for the twins of shadows; add --shadow POLICIES"),
    ("serve SMALL --shadow loki --logdir runs --calibration absent", "absent"),
    ("serve SMALL --record BAD", "BAD cannot be written: File exists; name another file to record to"),
    ("simulate --journal absent", "absent cannot be read: No such file or directory"),
    ("simulate --journal BAD/empty.csv", "BAD/empty.csv is not a recording: it has no head"),
    ("simulate --journal BAD", "BAD/flight cannot be read"),
    ("simulate --journal BAD/file --trace flash_crowd", "--journal brings the requests of a plane; leave --trace out"),
    ("simulate --journal BAD/file --config BAD/key.json", "--config repeats a run as it was; leave --journal out"),
    ("compare --journal BAD/file", "BAD/file is not a recording"),
    ("compare", "name a pipeline (or a recording to play with --journal)"),
    ("replay --url ftp://x --pipeline SMALL", "neither tcp://, ipc:// nor http://"),
    ("replay --url http://x:99999 --pipeline SMALL", "'http://x:99999' is not an http://HOST:PORT (or https) address"),
    ("replay --pipeline SMALL", "--url"),
    ("top --once --url localhost:8000", "'localhost:8000' is not http://HOST:PORT (or https), tcp://HOST:PORT or ipc://"),
    ("top --once --url http://x:99999", "'http://x:99999' is not http://HOST:PORT"),
    ("trace stats flash_crowd --compress -1", "--compress must be a number above 0, not '-1'"),
    ("history show absent.json", "there is no history absent.json; make it with 'loki-rl history fit'"),
    ("history show BAD/file", "is no history of demand: "),
    ("history fit absent --out history.json", "no trace 'absent'"),
    ("history fit flash_crowd --out absent/history.json", "the history absent/history.json cannot be written"),
    ("simulate SMALL --history absent.json", "there is no history absent.json"),
    ("serve SMALL --history BAD/file", "is no history of demand: "),
    ("profile SMALL --budget-s 0", "--budget-s must be a number above 0, not '0'"),
    ("profile SMALL", "names no models"),
    ("models fetch SMALL", "no models come with pipeline 'small'"),
    ("simulat SMALL", "simulat"),
]


@pytest.mark.parametrize(("line", "says"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_mistake_is_one_sentence(call: Call, small: Path, bad: Path, line: str, says: str) -> None:
    said = call(*line.replace("SMALL", str(small)).replace("BAD", str(bad)).split())
    assert said.out == ""
    assert says.replace("BAD", str(bad)) in said.sentence


def with_models(small: Path, folder: Path) -> Path:
    """The small pipeline with a model for each variant, in a repository of its own."""
    adapter = "    adapter: loki_rl.reading.detection:TextDetection\n"
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
    missing = model_path(tmp_path / "models", "m")
    assert f"there is no model {missing}; put it there, or correct 'model' or 'repository' in {pipeline}" in said.sentence


def test_models_that_can_be_fetched_are_said_to_be(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOKI_MODELS", str(tmp_path / "none"))
    assert "; run 'loki-rl models fetch reading', or correct 'repository'" in call("serve", "reading").sentence


@pytest.mark.parametrize("device", ["cpu+0", "gpu", "cuda:0,0"])
@pytest.mark.parametrize("command", ["serve", "profile"])
def test_a_mistyped_device_is_a_mistake(call: Call, small: Path, tmp_path: Path, command: str, device: str) -> None:
    said = call(command, with_models(small, tmp_path), "--device", device)
    assert said.out == ""
    assert f"device '{device}'" in said.sentence


def test_ctrl_c_in_compiled_code_is_ctrl_c(call: Call, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """numba makes a SystemError of it, and another one of that."""

    def interrupted(*_: object, **__: object) -> None:
        try:
            raise SystemError("returned a result with an exception set") from KeyboardInterrupt()
        except SystemError as error:
            raise SystemError("returned a result with an exception set") from error

    monkeypatch.setattr("loki_rl.runs.options.load_pipeline", interrupted)
    said = call("capacity", small)
    assert (said.code, said.out, said.err) == (130, "", "")


def test_a_fault_of_ours_keeps_its_traceback(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("nope")

    monkeypatch.setattr("loki_rl.runs.options.load_pipeline", broken)
    monkeypatch.setattr(sys, "argv", ["loki-rl", "capacity", str(small)])
    with pytest.raises(KeyError, match="nope"):
        cli.main()
