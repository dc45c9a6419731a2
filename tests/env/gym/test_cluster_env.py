"""Environments against gymnasium's and stable-baselines3's checks, and against their documentation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.utils.env_checker import check_env

from loki_rl.control.compiled import njit
from loki_rl.control.compiling import SENTENCE
from loki_rl.control.learned.observation import ACTIONS, MULTIPLIERS, NO_ADJUSTMENT
from loki_rl.control.policies.clairvoyant import FORESIGHT_S
from loki_rl.env import register_envs
from loki_rl.env.fluid.windows import LEAD_IN_S
from loki_rl.env.gym.cluster_env import ClusterEnv, OneTaskEnv
from loki_rl.env.gym.cluster_options import OptionError
from loki_rl.env.gym.spaces import NAMES
from loki_rl.traces.trace import TraceError

ONE, CLUSTER = "LokiRL/OneTask-v1", "LokiRL/Cluster-v1"


def play(env: gym.Env[Any, Any], actions: list[int], seed: int = 0) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = [env.reset(seed=seed)]
    rows += [env.step(np.int64(action)) for action in actions]
    return rows


@pytest.mark.parametrize("name", [ONE, CLUSTER])
def test_gymnasium_finds_no_fault(name: str, small: dict[str, Any]) -> None:
    check_env(gym.make(name, **small).unwrapped, skip_render_check=True)


def test_stable_baselines3_finds_no_fault(small: dict[str, Any]) -> None:
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    checker.check_env(OneTaskEnv(**small))


def test_registering_twice_changes_nothing() -> None:
    before = dict(gym.envs.registration.registry)
    register_envs()
    assert dict(gym.envs.registration.registry) == before


@pytest.mark.parametrize("make", ["make", "make_vec"])
def test_a_name_with_its_module_needs_no_import(make: str) -> None:
    """There is no other way without one: gymnasium asks for no entry points."""
    script = f"import gymnasium; print(gymnasium.{make}('loki_rl.env:{ONE}', windows=2, intervals=4).unwrapped.spec.id)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{ONE}\n"), done.stderr


@pytest.mark.skipif(njit is None, reason="numba is not installed: nothing is compiled")
def test_the_first_environment_says_on_standard_error_that_it_compiles(tmp_path: Path) -> None:
    script = f"import gymnasium, loki_rl.env; gymnasium.make('{ONE}')"
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", script], env=environment, stderr=subprocess.PIPE, text=True) as making:
        assert making.stderr is not None
        assert making.stderr.readline() == f"{SENTENCE}\n"
        making.kill()  # what follows takes a minute


def test_the_same_seed_plays_the_same_episode(small: dict[str, Any]) -> None:
    actions = [3, 5, 13, 0, 9, 23]
    first, second = (play(OneTaskEnv(**small), actions, seed=7) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a[0], b[0])
        assert isinstance(a[1], dict) or a[1] == b[1]


def test_no_adjustment_is_worth_nothing(small: dict[str, Any]) -> None:
    env = OneTaskEnv(**small)
    rewards = [row[1] for row in play(env, [NO_ADJUSTMENT] * 6)[1:]]
    assert rewards == pytest.approx([0.0] * 6, abs=1e-12)


def test_an_episode_is_truncated_and_never_terminated(small: dict[str, Any]) -> None:
    rows = play(OneTaskEnv(**small), [NO_ADJUSTMENT] * 6)[1:]
    assert [row[2] for row in rows] == [False] * 6
    assert [row[3] for row in rows] == [False] * 5 + [True]


@pytest.mark.parametrize("fidelity", ["fluid", "event"])
@pytest.mark.parametrize("action", [-1, ACTIONS, 2.5, np.array([3]), None, "3"])
def test_an_action_outside_of_the_space_is_refused(fidelity: str, action: Any, small: dict[str, Any]) -> None:
    env = OneTaskEnv(**{**small, "intervals": 2, "mean_rps": 60.0, "fidelity": fidelity})
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match="must be a whole number from 0 to 23"):
        env.step(action)
    env.step(cast("int", np.array(NO_ADJUSTMENT)))  # as learners give it; nothing was played before
    assert env.step(NO_ADJUSTMENT)[3]


@pytest.mark.parametrize("fidelity", ["fluid", "event"])
def test_outside_of_an_episode_there_is_no_step(fidelity: str, small: dict[str, Any]) -> None:
    env = OneTaskEnv(**{**small, "intervals": 2, "mean_rps": 60.0, "fidelity": fidelity})
    with pytest.raises(ResetNeeded, match="call reset"):
        env.step(NO_ADJUSTMENT)
    for _ in range(2):
        assert play(env, [NO_ADJUSTMENT] * 2)[-1][3]
        with pytest.raises(ResetNeeded, match="call reset"):
            env.step(NO_ADJUSTMENT)


@pytest.mark.parametrize("window", [-1, 3, 0.5, [1, 2]])
def test_a_window_that_there_is_not_is_refused(window: Any, small: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="window must be a whole number from 0 to 2"):
        OneTaskEnv(**small).reset(options={"window": window})


def test_masks_name_the_actions_that_serve_the_last_seconds(small: dict[str, Any]) -> None:
    env = OneTaskEnv(**{**small, "kind": "bursts"})
    _, info = env.reset(options={"window": 1})
    mask = env.action_masks()
    assert np.array_equal(mask, info["action_mask"].astype(bool))
    assert mask.shape == (ACTIONS,)
    arrays = env.pool.windows.arrays
    for k in range(1, 6):
        mask = env.action_masks()
        expected, top = arrays.expected[1, k], arrays.to_rps[1, k, -1]
        assert mask[NO_ADJUSTMENT]
        low = expected + MULTIPLIERS * (top - expected) < 0.95 * arrays.floor[1, k] - 1e-9
        low[NO_ADJUSTMENT] = False
        assert not mask[: len(MULTIPLIERS)][low].any()
        env.step(NO_ADJUSTMENT)


def test_observations_are_named_and_inside_their_bounds(small: dict[str, Any]) -> None:
    env = OneTaskEnv(**{**small, "randomise": True})
    assert env.observation_space.shape == (len(NAMES),)
    for row in play(env, [9, 23, 0, 10, 3, 4], seed=3):
        assert env.observation_space.contains(row[0]), dict(zip(NAMES, row[0], strict=True))


def test_randomised_windows_differ_in_what_they_draw(small: dict[str, Any]) -> None:
    env = OneTaskEnv(**{**small, "randomise": True, "windows": 8})
    env.pool.ensure(np.arange(8))
    assert len(np.unique(env.pool.windows.load_s[:, 0])) > 2
    assert len(np.unique(env.pool.windows.factor)) == 8


def test_a_load_time_that_is_given_is_not_drawn(small: dict[str, Any]) -> None:
    env = OneTaskEnv(**{**small, "randomise": True, "windows": 8, "load_s": 3.0})
    env.pool.ensure(np.arange(8))
    assert (env.pool.windows.load_s == 3.0).all()
    assert len(np.unique(env.pool.windows.factor)) == 8


def test_a_trace_is_played_as_its_options_say(tmp_path: Path, small: dict[str, Any]) -> None:
    """An hour of 2 requests a second between two of silence, four times as fast and with half as many again."""
    file = tmp_path / "trace.csv"
    file.write_text("t_seconds,requests\n" + "".join(f"{60 * i},{120 if 60 <= i < 120 else 0}\n" for i in range(180)))
    options = {"trace": str(file), "from_s": 3600.0, "to_s": 7200.0, "compress": 4.0, "rate_scale": 1.5}
    env = OneTaskEnv(**{**small, **options, "interval_s": 5.0, "intervals": 3})
    rows = play(env, [NO_ADJUSTMENT] * 3)
    assert env.pool.windows.options.length_s == LEAD_IN_S + 4 * 5 + FORESIGHT_S
    assert np.mean([row[-1]["arrivals"] for row in rows]) == pytest.approx(5 * 2 * 4 * 1.5, rel=0.2)
    with pytest.raises(TraceError, match="does not lie in it"):
        OneTaskEnv(**{**small, **options, "to_s": 99999.0})


def test_a_trace_file_is_cut_into_windows(small: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="an episode needs"):
        OneTaskEnv(**{**small, "trace": "flash_crowd", "intervals": 600}).reset(seed=0)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("fidelity", "real", "fidelity must be"),
        ("split", "exam", "split must be"),
        ("solver", "cbc", "solver must be one of search, pulp"),
        ("base", "oracle", "base must be"),
        ("interval_s", 0.0, "interval_s must be finite and above 0"),
        ("compress", 0.0, "compress must be finite and above 0"),
        ("to_s", 60.0, "from_s, to_s, compress, rate_scale are of a trace; name one"),
        ("render_mode", "human", "render_mode must be"),
    ],
)
def test_a_wrong_option_is_named(option: str, value: object, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        OneTaskEnv(**{option: value})  # type: ignore[arg-type]


def test_an_episode_can_be_seen(small: dict[str, Any]) -> None:
    text = OneTaskEnv(render_mode="ansi", **small)
    play(text, [3, 4])
    drawn = text.render()
    assert isinstance(drawn, str)
    assert "servers #" in drawn
    image = OneTaskEnv(render_mode="rgb_array", **small)
    play(image, [3, 4])
    pixels = image.render()
    assert isinstance(pixels, np.ndarray)
    assert pixels.shape == (270, 480, 3)
    assert pixels.min() < 255


class TestEventFidelity:
    """The same contract with the core's own actors."""

    def test_steps_answer_the_controllers_question(self, small: dict[str, Any]) -> None:
        options = {**small, "intervals": 3, "mean_rps": 60.0, "fidelity": "event"}
        env = ClusterEnv(pipeline="one-task", **options)
        rows = play(env, [NO_ADJUSTMENT, 5, 3], seed=2)
        assert env.observation_space.contains(rows[0][0])
        assert rows[1][1] == pytest.approx(0.0, abs=1e-9)
        arrivals = sum(row[-1]["arrivals"] for row in rows)
        assert arrivals == len(env.pool.windows.window(env._number).times)
        assert rows[-1][3]

    def test_the_exact_pulp_model_plans_and_masks(self, small: dict[str, Any]) -> None:
        options = {**small, "intervals": 3, "mean_rps": 60.0, "fidelity": "event"}
        seen = {}
        for solver in ("search", "pulp"):
            env = ClusterEnv(pipeline="one-task", solver=solver, **options)
            seen[solver] = play(env, [NO_ADJUSTMENT] * 3, seed=2)
        for own, known in zip(seen["search"], seen["pulp"], strict=True):
            assert known[-1]["action_mask"].tolist() == own[-1]["action_mask"].tolist()
            assert known[-1]["servers"] == pytest.approx(own[-1]["servers"], abs=1.0)

    def test_fluid_and_event_agree_where_nothing_is_scarce(self, small: dict[str, Any]) -> None:
        options = {**small, "intervals": 3, "mean_rps": 60.0}
        seen = {}
        for fidelity in ("fluid", "event"):
            env = ClusterEnv(pipeline="one-task", fidelity=fidelity, **options)
            seen[fidelity] = [row[-1] for row in play(env, [NO_ADJUSTMENT] * 3, seed=2)]
        for fluid, event in zip(seen["fluid"], seen["event"], strict=True):
            assert fluid["slo_violation_ratio"] == pytest.approx(event["slo_violation_ratio"], abs=0.01)
            assert fluid["servers"] == pytest.approx(event["servers"], abs=1.0)
            assert fluid["accuracy"] == pytest.approx(event["accuracy"], abs=0.02)
