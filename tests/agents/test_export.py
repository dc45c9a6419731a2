"""The files of an agent: what they say, that all forms choose alike, and that what does not fit is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

pytest.importorskip("sb3_contrib", reason="training is not installed; run 'make learn'")

from loki_rl.agents.commands import EvaluateFlags, run_evaluate
from loki_rl.control.formulation.request import RequestError
from loki_rl.control.learned.agent import OnnxAgent, act, card_text, load_agent, outside, preferences
from loki_rl.control.learned.observation import ACTIONS, OBSERVATION
from loki_rl.env.gym.spaces import NAMES
from tests.agents.agreement import agreement, pairs


def test_both_files_of_an_ensemble_choose_what_it_prefers(learned: Any) -> None:
    """With a margin too: what members disagree about is worth less."""
    sure = replace(learned.agent, card=replace(learned.agent.card, margin=1.5))
    from loki_rl.agents.export import write_onnx

    write_onnx(sure, learned.folder / "sure.onnx")
    assert agreement(OnnxAgent(learned.folder / "sure.onnx"), lambda *pair: act(sure, *pair), 500) == 1.0
    seen = np.stack([seen for seen, _ in pairs(20)])
    bold = preferences(learned.agent.weights, learned.agent.biases, 0.0, seen)
    assert (preferences(sure.weights, sure.biases, 1.5, seen) <= bold + 1e-6).all()


def test_the_files_say_what_they_are_for(learned: Any, tuned: Any) -> None:
    for trained in (learned, tuned):
        card = OnnxAgent(trained.folder / "agent.onnx").card
        assert card_text(card) == card_text(trained.agent.card)
        assert (card.environment, card.pipelines) == ("LokiRL/OneTask-v1", ("one-task",))
        assert card.features == NAMES
        assert len(card.low) == OBSERVATION
        text = (trained.folder / "card.md").read_text(encoding="utf-8")
        assert "On validation windows" in text
        assert card.note.removeprefix("made by: ") in text
    assert (learned.agent.card.learner, tuned.agent.card.learner) == ("learned", "ppo")


def test_the_ranges_of_a_card_hold_what_training_saw(learned: Any) -> None:
    with np.load(learned.folder / "examples.npz") as file:
        strange = outside(learned.agent.card, file["observations"]).any(axis=1)
    assert strange.mean() < 0.1


def test_a_file_for_another_environment_is_refused(learned: Any, tmp_path: Path) -> None:
    strange = replace(learned.agent, card=replace(learned.agent.card, mask_rule=99))
    strange.save(tmp_path / "agent.npz")
    with pytest.raises(RequestError, match="train anew"):
        load_agent(tmp_path / "agent.npz")
    with pytest.raises(RequestError, match="there is no model file"):
        load_agent(tmp_path / "none.npz")
    (tmp_path / "broken.npz").write_bytes(b"nothing")
    with pytest.raises(RequestError, match="cannot be read"):
        load_agent(tmp_path / "broken.npz")


def test_an_agent_is_evaluated_where_it_was_trained_only(learned: Any, tmp_path: Path) -> None:
    model = str(learned.folder / "agent.npz")
    with pytest.raises(RequestError, match="trained for pipeline 'one-task', not 'traffic'"):
        run_evaluate(EvaluateFlags(pipeline="traffic", models=(model,)))
    replace(learned.agent, card=replace(learned.agent.card, interval_s=2.0)).save(tmp_path / "agent.npz")
    with pytest.raises(RequestError, match="a plan every 2 s, not every 1 s"):
        run_evaluate(EvaluateFlags(pipeline="one-task", models=(str(tmp_path / "agent.npz"),)))


def test_inference_needs_no_torch(learned: Any) -> None:
    script = (
        "import sys, pathlib, numpy as np\n"
        "from loki_rl.control.learned.agent import act, load_agent\n"
        f"agent = load_agent(pathlib.Path({str(learned.folder / 'agent.npz')!r}))\n"
        f"print(act(agent, np.zeros({OBSERVATION}, np.float32), np.ones({ACTIONS}, bool)), 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split()[1] == "False"
