"""The agents that come with the package: their files, their cards, and a decision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loki_rl.control.learned.agent import DATA, act, load_agent
from loki_rl.control.learned.observation import ACTIONS, NO_ADJUSTMENT
from loki_rl.control.policies.named import make_policy
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.control.policies.ppo import Adjusting
from loki_rl.core.plan import Snapshot
from loki_rl.files.config import load_pipeline

FILES = sorted(DATA.glob("*.npz"))


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def file(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


def test_some_are_shipped() -> None:
    assert {one.stem for one in FILES} == {"traffic", "reading"}


def test_both_forms_choose_the_same(file: Path) -> None:
    npz, onnx = load_agent(file), load_agent(file.with_suffix(".onnx"))
    assert npz.card == onnx.card
    rng = np.random.default_rng(0)
    low, high = np.array(npz.card.low), np.array(npz.card.high)
    for _ in range(500):
        observation, mask = rng.uniform(low, high).astype(np.float32), rng.random(ACTIONS) < 0.6
        mask[NO_ADJUSTMENT] = True
        assert act(npz, observation, mask) == act(onnx, observation, mask)


def test_a_card_says_how_it_was_made_and_what_it_is_worth(file: Path) -> None:
    card, text = load_agent(file).card, file.with_suffix(".md").read_text(encoding="utf-8")
    assert card.pipeline == file.stem
    assert card.note.removeprefix("made by: ") in text
    assert "test windows" in text
    assert card.ranges["load_s"] == [0.5, 1.0, 2.0, 5.0, 5.0, 10.0, 20.0]


def test_it_decides_for_its_pipeline_without_being_asked_for(file: Path) -> None:
    pipeline = load_pipeline(file.stem).pipeline
    policy = make_policy("ppo", pipeline, PolicyOptions(servers=pipeline.servers, initial_rps=20.0))
    assert isinstance(policy, Adjusting)
    assert policy.agent is not None
    plan = policy.decide(Snapshot(60.0, 10.0, (20,) * 60, 0.0, ()))
    assert plan.adjustment is not None
    assert plan.servers > 0
