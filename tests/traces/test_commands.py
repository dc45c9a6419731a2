"""The trace commands: what a user types and reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loki_rl.cli.main import main


def _run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["loki-rl", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    code = ended.value.code
    return code if isinstance(code, int) else 0 if code is None else 1


def test_stats_print_the_contract_as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(monkeypatch, "trace", "stats", "flash_crowd", "--mean-rps", "50", "--json") == 0
    row = json.loads(capsys.readouterr().out)
    assert {"mean_rps", "peak_rps", "idc", "idc_windows", "cv", "synthetic_inside_bin"} <= row.keys()
    assert row["mean_rps"] == pytest.approx(50, rel=0.05)
    assert row["idc_windows"][0]["window_s"] == 1.0


def test_stats_show_a_plot_and_say_what_is_synthetic(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, "trace", "stats", "flash_crowd") == 0
    shown = capsys.readouterr().out
    assert "█" in shown
    assert "idc in 10 s" in shown
    assert "times inside the bins of 1 s are synthetic" in shown
    assert _run(monkeypatch, "trace", "stats", "mmpp") == 0
    assert "are synthetic" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["made.csv", "made.csv.gz"])
def test_what_is_generated_can_be_read_and_repeated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    words = ("trace", "generate", "mmpp", "--seconds", "60", "--seed", "4", "--json", "--out")
    (tmp_path / "again").mkdir()
    assert _run(monkeypatch, *words, str(tmp_path / name)) == _run(monkeypatch, *words, str(tmp_path / "again" / name)) == 0
    assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    row = json.loads(capsys.readouterr().out.splitlines()[0])
    assert row["file"] == str(tmp_path / name)
    assert _run(monkeypatch, "trace", "stats", str(tmp_path / name), "--json") == 0
    assert json.loads(capsys.readouterr().out)["requests"] == row["requests"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("generate", "wave", "--out", "w.csv"), "unknown kind of demand 'wave'; known are flash_crowd"),
        (("generate", "ramp", "--out", "w.txt"), "a trace file's name must end in .csv or .csv.gz"),
        (("generate", "ramp", "--out", "nowhere/w.csv"), "cannot be written"),
        (("generate", "ramp", "--out", "w.csv", "--peak", "0"), "--peak must be a number above 0, not '0'"),
        (("stats", "flashcrowd"), "did you mean 'flash_crowd'?"),
        (("stats", "flash_crowd", "--from-s", "500"), "does not lie in it"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    words: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _run(monkeypatch, "trace", *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
