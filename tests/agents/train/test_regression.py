"""The regression: planted savings are found, and the members lie side by side in one network."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="training is not installed; run 'make learn'")

from loki_rl.agents.train.regression import FitOptions, fit, merged
from loki_rl.control.demand.tanh_network import forward
from loki_rl.control.learned.agent import preferences
from loki_rl.control.learned.observation import ACTIONS, NO_ADJUSTMENT, OBSERVATION
from tests.agents.made_up import drawn, nothing, planted

PLANTED = 0 if NO_ADJUSTMENT else 1


def test_it_finds_where_an_action_saves_and_is_sure_of_it() -> None:
    observations, saved = drawn(4000), nothing(4000)
    saved[:, PLANTED] = observations[:, 3] + 0.2
    layers = fit(planted(saved, observations, 0.4), FitOptions(members=3, epochs=20), 0)
    unseen = drawn(300, seed=1)
    said = preferences(*layers, 1.0, unseen.astype(np.float32))
    assert (said[:, NO_ADJUSTMENT] == 0).all()
    clear = np.abs(unseen[:, 3] + 0.2) > 0.4
    chosen = said.argmax(axis=1) == PLANTED
    assert np.mean(chosen[clear] == (unseen[clear, 3] > -0.2)) > 0.97


def test_nothing_is_made_of_a_feature_that_never_varied() -> None:
    observations, saved = drawn(300), nothing(300)
    observations[:, 7] = 0.5
    layers = fit(planted(saved, observations, 0.5), FitOptions(members=2, epochs=1), 0)
    usual, moved = observations[:5].astype(np.float32), observations[:5].astype(np.float32)
    moved[:, 7] = -1.0
    assert (forward(*layers, usual) == forward(*layers, moved)).all()


def test_it_is_the_same_for_the_same_seed() -> None:
    examples = planted(nothing(200), drawn(200), 0.5)
    one, two = (fit(examples, FitOptions(members=2, epochs=1), 5)[0] for _ in range(2))
    assert all((a == b).all() for a, b in zip(one, two, strict=True))


def test_members_side_by_side_say_what_each_says_alone() -> None:
    rng = np.random.default_rng(0)
    sizes = ((OBSERVATION, 6), (6, 6), (6, ACTIONS))
    layers = [(rng.normal(size=(3, *size)), rng.normal(size=(3, 1, size[1]))) for size in sizes]
    shift, spread, seen = rng.normal(size=OBSERVATION), rng.uniform(1, 2, OBSERVATION), rng.normal(size=(5, OBSERVATION))
    together = forward(*merged(layers, shift, spread), seen).reshape(5, 3, ACTIONS)
    others = np.arange(ACTIONS) != NO_ADJUSTMENT
    for member in range(3):
        alone = forward(tuple(w[member] for w, _ in layers), tuple(b[member, 0] for _, b in layers), (seen - shift) / spread)
        assert together[:, member, others] == pytest.approx(alone[:, others], abs=1e-4)
    assert (together[:, :, NO_ADJUSTMENT] == 0).all()
