"""The commands `train` and `evaluate`."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("sb3_contrib", reason="training is not installed; run 'make learn'")

from loki_rl.agents.commands import LosingAgentError, check_exported
from loki_rl.cli.main import app
from loki_rl.control.learned.agent import load_agent

LIMITS = ["--states", "20", "--rounds", "1", "--windows", "4", "--validation", "2", "--intervals", "45", "--json"]
CALL = ["train", "one-task", *LIMITS]


def row(*words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(CliRunner().invoke(app, list(words)).stdout)
    return found


def test_the_command_prints_one_json_object(tmp_path: Path) -> None:
    found = row(*CALL, "--out", str(tmp_path), "--force")
    assert Path(found["model"]) == tmp_path / "one-task" / "learned" / "agent.onnx"
    assert Path(found["model"]).is_file()


def test_ppo_begins_with_a_teacher_beside_it(tmp_path: Path) -> None:
    call = [*CALL, "--out", str(tmp_path), "--learner", "ppo", "--steps", "600", "--force"]
    found = row(*call)
    assert Path(found["model"]) == tmp_path / "one-task" / "ppo" / "agent.onnx"
    assert (tmp_path / "one-task" / "learned" / "network.npz").is_file()
    card = (tmp_path / "one-task" / "ppo" / "card.md").read_text(encoding="utf-8")
    assert "; its teacher it costs" in card
    assert "--learner ppo" in card


def test_a_pipeline_file_is_trained_for_in_a_folder_of_its_name_below_the_one_named(small: Path, tmp_path: Path) -> None:
    """Wherever the file lies: by an absolute path, or by one that leads out of the working folder."""
    before = set(small.parent.iterdir())
    for out, path in ((tmp_path / "one", small), (tmp_path / "two", Path(os.path.relpath(small)))):
        found = row("train", str(path), "--out", str(out), *LIMITS, "--force")
        assert found["pipeline"] == "small"
        assert Path(found["model"]) == out / "small" / "learned" / "agent.onnx"
        assert load_agent(out / "small" / "learned" / "agent.npz").card.pipelines == ("small",)
    assert set(small.parent.iterdir()) == before


def test_what_is_played_is_told_as_for_simulate(tmp_path: Path) -> None:
    """Window and speed of a trace, interval and load time, in training as in evaluation; the card repeats them."""
    trace = tmp_path / "trace.csv"
    trace.write_text("t_seconds,requests\n" + "".join(f"{60 * i},{300 + 100 * (i % 7)}\n" for i in range(120)))
    played = ["--trace", str(trace), "--from-s", "600", "--to-s", "6600", "--compress", "5", "--rate-scale", "2"]
    played += ["--interval-s", "2", "--load-s", "2"]
    model = Path(row(*CALL, *played, "--out", str(tmp_path), "--force")["model"]).with_suffix(".npz")
    card = load_agent(model).card
    assert card.interval_s == 2.0
    assert not card.ranges["load_s"]
    assert all(word in card.note for word in ("--from-s 600.0", "--compress 5.0", "--rate-scale 2.0", "--intervals 45"))
    ask = ["evaluate", "one-task", "--model", str(model), "--windows", "2", "--validation", "2", "--json"]
    other = CliRunner().invoke(app, ask)
    assert "trained for a plan every 2 s, not every 1 s" in str(other.exception)
    report = row(*ask, *played, "--intervals", "45")
    assert "learned 0" in {one["method"] for one in report["fluid"]}


def test_a_folder_that_cannot_be_written_is_told_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for command in (["train", "one-task"], ["evaluate", "one-task"]):
        done = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "file")])
        assert "nothing can be written to" in str(done.exception)


def test_an_agent_that_does_not_win_is_exported_only_by_force(tmp_path: Path) -> None:
    """Six hundred decisions of PPO are too few to beat its teacher, or it did."""
    call = [*CALL, "--out", str(tmp_path), "--learner", "ppo", "--steps", "600"]
    done = CliRunner().invoke(app, call)
    found, folder = json.loads(done.stdout), tmp_path / "one-task" / "ppo"
    if found["model"] is not None:
        pytest.skip("it did")
    assert isinstance(done.exception, LosingAgentError)
    figures = r"it costs (\d.\d+) J and loses \d.\d+ % of the requests, its base (\d.\d+) J and \d.\d+ %; its teacher"
    assert re.search(figures, str(done.exception)) is not None
    assert not list(folder.glob("agent.*"))
    assert CliRunner().invoke(app, [*call, "--force"]).exit_code == 0
    assert (folder / "agent.npz").is_file()


def test_what_was_refused_is_one_sentence() -> None:
    check_exported({"refused": ""})
    with pytest.raises(LosingAgentError, match="is not exported: why; train on more --states"):
        check_exported({"refused": "the agent in x is not exported: why"})
