"""The teacher: what it leaves, that it goes on, which round is kept."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

pytest.importorskip("torch", reason="training is not installed; run 'make learn'")

from loki_rl.agents.evaluate.rollouts import base, greedy
from loki_rl.agents.train.checkpoints import STATE, OtherTrainingError
from loki_rl.agents.train.teacher import EXAMPLES, NETWORK, network_of, teach
from loki_rl.agents.train.validation import Score, Validation
from loki_rl.control.learned.agent import act
from loki_rl.control.learned.observation import ACTIONS, OBSERVATION
from loki_rl.env.gym.spaces import NAMES


def test_it_leaves_every_round_and_the_best_network(learned: Any) -> None:
    names = {path.name for path in learned.folder.iterdir()}
    assert {STATE, EXAMPLES, NETWORK, "agent.npz", "agent.onnx", "card.md"} <= names
    assert len(learned.progress.rounds) == 2
    assert learned.progress.best.worth == max(score.worth for score in learned.progress.rounds)
    with np.load(learned.folder / EXAMPLES) as examples:
        assert len(examples["saved"]) >= 2 * learned.options.states


def test_the_score_that_is_kept_is_that_of_the_network_that_is_kept(learned: Any) -> None:
    validation = Validation(learned.options.worlds, learned.options.validation)
    network = greedy(*network_of(learned.folder), learned.progress.margin)
    assert validation.score(network)[0] == learned.progress.best
    assert validation.score(base)[0].gain == 0.0


def test_curves_have_the_names_of_every_other_run(learned: Any) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(learned.folder))
    found.Reload()
    assert {"train/gap_closed", "train/j_minus_baseline", "train/slo_violation_ratio"} <= set(found.Tags()["scalars"])
    assert len(found.Scalars("train/gap_closed")) == 2


def test_a_second_call_goes_on_and_a_finished_one_does_nothing(learned: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(learned.folder, tmp_path / "again"))
    before = (folder / STATE).read_bytes()
    assert teach(learned.options, folder) == learned.progress
    assert (folder / STATE).read_bytes() == before
    more = teach(replace(learned.options, rounds=3), folder)
    assert more.rounds[:2] == learned.progress.rounds
    assert len(more.rounds) == 3


def test_a_folder_goes_on_with_its_own_training_only(learned: Any, tmp_path: Path) -> None:
    with pytest.raises(OtherTrainingError, match="holds a training with other options; choose another --out"):
        teach(replace(learned.options, seed=9), learned.folder)
    (tmp_path / STATE).write_text('{"steps": 3}')
    with pytest.raises(OtherTrainingError, match=r"state.json is not of this version \(.*options.*\)"):
        teach(learned.options, tmp_path)


def test_an_agent_is_worth_what_it_saves_less_a_price_of_what_it_loses_beyond_its_base() -> None:
    safe, cheap = Score(0.01, 0.1, 0.0, 0.001, 0.1), Score(0.011, 0.2, 0.002, 0.003, 0.1)
    assert safe.worth == 0.01 > cheap.worth
    assert Score(0.011, 0.2, 0.00005, 0.003, 0.1).worth > safe.worth  # too little to be told from noise


def test_one_agent_is_taught_for_several_pipelines(learned: Any, small: Path, tmp_path: Path) -> None:
    both = replace(learned.options, pipelines=(str(small),), rounds=1)
    progress = teach(both, tmp_path)
    with np.load(tmp_path / EXAMPLES) as examples:
        windows = examples["window"]
    assert windows.min() < both.env.windows <= windows.max()
    assert len(progress.rounds) == 1


def test_an_agent_never_chooses_an_illegal_action(learned: Any) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        mask = np.zeros(ACTIONS, np.bool_)
        mask[rng.integers(ACTIONS)] = True
        assert mask[act(learned.agent, rng.uniform(-2, 2, OBSERVATION).astype(np.float32), mask)]


def test_the_network_is_for_what_is_observed(learned: Any) -> None:
    members = learned.options.fit.members
    assert learned.agent.weights[0].shape == (len(NAMES), members * learned.options.fit.hidden)
    assert learned.agent.weights[-1].shape[1] == members * ACTIONS
