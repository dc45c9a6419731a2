"""Training: what it leaves, that it goes on, and that all forms of the agent agree."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from msgspec.structs import replace

pytest.importorskip("sb3_contrib", reason="training is not installed; run 'make learn'")

from loki_rl.agents.commands import EvaluateFlags, LosingAgentError, run_evaluate
from loki_rl.agents.train.privileged_critic import FORESIGHT
from loki_rl.agents.train.training import (
    BEST,
    LATEST,
    STATE,
    OtherTrainingError,
    PpoOptions,
    TrainOptions,
    new_model,
    next_price,
    train,
    worth,
)
from loki_rl.agents.train.validation import Score
from loki_rl.agents.train.vec_env import ClusterVecEnv
from loki_rl.cli.main import app
from loki_rl.control.formulation.request import RequestError
from loki_rl.control.learned.agent import OnnxAgent, act, card_text, load_agent
from loki_rl.control.learned.observation import ACTIONS, NO_ADJUSTMENT, OBSERVATION
from loki_rl.env.gym.cluster_options import pool_for
from loki_rl.env.gym.spaces import NAMES
from tests.agents.agreement import agreement

CALL = ["train", "one-task", "--steps", "1280", "--windows", "4", "--validation", "2", "--json"]


def test_it_leaves_checkpoints_curves_and_files(trained: Any, tiny: TrainOptions) -> None:
    names = {path.name for path in trained.folder.iterdir()}
    assert {LATEST, BEST, STATE, "agent.npz", "agent.onnx", "card.md"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert trained.progress.steps >= tiny.steps
    assert len(trained.progress.history) == 2


def test_curves_have_the_names_of_every_other_run(trained: Any) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(trained.folder))
    found.Reload()
    tags = set(found.Tags()["scalars"])
    assert {"rollout/ep_rew_mean", "train/loss", "eval/gap_closed", "serving/slo_violation_ratio"} <= tags


def test_a_second_call_goes_on(trained: Any, tiny: TrainOptions, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained.folder, tmp_path / "again"))
    progress = train(replace(tiny, steps=1920), folder)
    assert progress.steps > trained.progress.steps
    assert len(progress.history) == 3


def test_a_folder_goes_on_with_its_own_training_only(trained: Any, tiny: TrainOptions, tmp_path: Path) -> None:
    with pytest.raises(OtherTrainingError, match="holds a training with other options; choose another --out"):
        train(replace(tiny, seed=9), trained.folder)
    (tmp_path / STATE).write_text('{"steps": 3}')
    with pytest.raises(OtherTrainingError, match=r"state.json is not of this version \(.*options.*\)"):
        train(tiny, tmp_path)


def test_lost_requests_have_a_price_that_follows_how_many_there_are(tiny: TrainOptions) -> None:
    options = replace(tiny, allowed=0.001)
    assert next_price(options, 5.0, 0.011) == 6.0  # at most a step
    assert next_price(options, 5.0, 0.00098) == pytest.approx(4.8)
    assert next_price(options, 0.1, 0.0) == 0.0


def test_a_checkpoint_is_kept_for_what_it_saves_less_a_price_of_what_it_loses_beyond_what_is_allowed(
    tiny: TrainOptions,
) -> None:
    safe, cheap = Score(0.01, 0.1, 0.0004, 0.001, 0.1), Score(0.02, 0.2, 0.002, 0.003, 0.1)
    strict, lax = replace(tiny, allowed=0.0005), replace(tiny, allowed=0.0015)
    assert worth(strict, safe) > worth(strict, cheap)
    assert worth(lax, cheap) > worth(lax, safe)
    assert worth(strict, Score(0.02, 0.2, 0.0005, 0.001, 0.1)) > worth(strict, safe)
    assert worth(replace(strict, lost_j=0.0), cheap) > worth(replace(strict, lost_j=0.0), safe)


def test_every_setting_of_the_learner_is_an_option_and_stands_in_the_card(trained: Any, tiny: TrainOptions) -> None:
    settings: dict[str, Any] = {
        "learning_rate": 0.002, "batch_size": 8, "n_epochs": 3, "gamma": 0.7, "gae_lambda": 0.6, "clip_range": 0.3,
        "ent_coef": 0.07, "vf_coef": 0.4, "max_grad_norm": 0.9, "net_arch": (5, 6),
    }  # fmt: skip
    options = replace(tiny, ppo=PpoOptions(**settings))
    model = new_model(options, ClusterVecEnv(pool_for(tiny.env), 2, tiny.rewards))
    assert model.policy_kwargs["net_arch"] == list(settings.pop("net_arch"))
    assert model.clip_range(1.0) == settings.pop("clip_range")
    assert {name: getattr(model, name) for name in settings} == settings
    for card in (trained.agent.card, load_agent(trained.folder / "agent.npz").card):
        assert msgspec.convert(card.training, TrainOptions) == tiny


def test_the_price_is_paid_for_what_the_base_does_not_lose(tiny: TrainOptions) -> None:
    env = ClusterVecEnv(pool_for(tiny.env), 4, tiny.rewards)
    env.reset()
    env.price = 10.0
    for _ in range(tiny.env.intervals):
        env.step_async(np.zeros(4, np.int64))
        rewards = env.step_wait()[1]
        more = env.batch.lost - env.pool.base_lost[env.batch.window, env.batch.k - 1]
        assert rewards == pytest.approx((env.batch.rewards - 10.0 * more).clip(-2.0, 0.5), abs=1e-6)
        if env.batch.k.max() > tiny.env.intervals - 1:
            break


def test_the_critic_alone_sees_what_comes(trained: Any, tiny: TrainOptions) -> None:
    env = ClusterVecEnv(pool_for(tiny.env), 4, tiny.rewards)
    seen = env.reset()
    assert seen.shape[1] == OBSERVATION + FORESIGHT
    assert np.isfinite(seen).all()
    assert trained.agent.weights[0].shape[0] == OBSERVATION


def test_every_form_of_the_agent_chooses_the_same(trained: Any) -> None:
    from sb3_contrib import MaskablePPO

    model = MaskablePPO.load(trained.folder / BEST, device="cpu")
    for name in ("agent.npz", "agent.onnx"):
        assert agreement(load_agent(trained.folder / name), model, 500) == 1.0


def test_the_files_say_what_they_are_for(trained: Any) -> None:
    card = OnnxAgent(trained.folder / "agent.onnx").card
    assert card_text(card) == card_text(trained.agent.card)
    assert card.environment == "LokiRL/OneTask-v1"
    assert card.features == NAMES
    assert len(card.low) == OBSERVATION
    text = (trained.folder / "card.md").read_text(encoding="utf-8")
    assert "On validation windows" in text


def test_an_agent_never_chooses_an_illegal_action(trained: Any) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        mask = np.zeros(ACTIONS, np.bool_)
        mask[rng.integers(ACTIONS)] = True
        assert mask[act(trained.agent, rng.uniform(-2, 2, OBSERVATION).astype(np.float32), mask)]


def test_a_file_for_another_environment_is_refused(trained: Any, tmp_path: Path) -> None:
    strange = replace(trained.agent, card=replace(trained.agent.card, mask_rule=99))
    strange.save(tmp_path / "agent.npz")
    with pytest.raises(RequestError, match="train anew"):
        load_agent(tmp_path / "agent.npz")
    with pytest.raises(RequestError, match="there is no model file"):
        load_agent(tmp_path / "none.npz")
    (tmp_path / "broken.npz").write_bytes(b"nothing")
    with pytest.raises(RequestError, match="cannot be read"):
        load_agent(tmp_path / "broken.npz")


def test_an_agent_is_evaluated_where_it_was_trained_only(trained: Any, tmp_path: Path) -> None:
    model = str(trained.folder / "agent.npz")
    with pytest.raises(RequestError, match="trained for pipeline 'one-task', not 'traffic'"):
        run_evaluate(EvaluateFlags(pipeline="traffic", models=(model,)))
    card = trained.agent.card
    other = replace(card, training={"env": {"interval_s": 2.0}})
    replace(trained.agent, card=other).save(tmp_path / "agent.npz")
    with pytest.raises(RequestError, match="a plan every 2 s, not every 1 s"):
        run_evaluate(EvaluateFlags(pipeline="one-task", models=(str(tmp_path / "agent.npz"),)))
    replace(trained.agent, card=replace(card, training={})).save(tmp_path / "agent.npz")
    with pytest.raises(RequestError, match="does not say what it was trained for"):
        load_agent(tmp_path / "agent.npz")


def test_inference_needs_no_torch(trained: Any) -> None:
    script = (
        "import sys, pathlib, numpy as np\n"
        "from loki_rl.control.learned.agent import act, load_agent\n"
        f"agent = load_agent(pathlib.Path({str(trained.folder / 'agent.npz')!r}))\n"
        f"print(act(agent, np.zeros({OBSERVATION}, np.float32), np.ones({ACTIONS}, bool)), 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split()[1] == "False"


def test_a_finished_cluster_begins_anew_in_the_same_step(tiny: TrainOptions) -> None:
    env = ClusterVecEnv(pool_for(tiny.env), 4, tiny.rewards)
    env.reset()
    for _ in range(tiny.env.intervals):
        env.step_async(np.full(4, NO_ADJUSTMENT))
        _, rewards, done, infos = env.step_wait()
    assert done.all()
    assert rewards == pytest.approx(0.0, abs=1e-6)
    assert infos[0]["TimeLimit.truncated"]
    assert infos[0]["terminal_observation"].shape == env.observation_space.shape
    assert (env.batch.k == 1).all()


def test_a_pipeline_file_is_trained_for_in_a_folder_of_its_name_below_the_one_named(small: Path, tmp_path: Path) -> None:
    """Wherever the file lies: by an absolute path, or by one that leads out of the working folder."""
    before = set(small.parent.iterdir())
    limits = ["--steps", "300", "--windows", "2", "--validation", "2", "--force", "--json"]
    for out, path in ((tmp_path / "one", small), (tmp_path / "two", Path(os.path.relpath(small)))):
        row = json.loads(CliRunner().invoke(app, ["train", str(path), "--out", str(out), *limits]).stdout)
        assert row["pipeline"] == "small"
        assert Path(row["agents"][0]["model"]) == out / "small" / "seed0" / "agent.onnx"
        assert load_agent(out / "small" / "seed0" / "agent.npz").card.pipeline == "small"
    assert set(small.parent.iterdir()) == before


def test_what_is_played_is_told_as_for_simulate(tmp_path: Path) -> None:
    """Window and speed of a trace, interval and load time, in training as in evaluation; the card repeats them."""
    trace = tmp_path / "trace.csv"
    trace.write_text("t_seconds,requests\n" + "".join(f"{60 * i},{300 + 100 * (i % 7)}\n" for i in range(120)))
    played = ["--trace", str(trace), "--from-s", "600", "--to-s", "6600", "--compress", "5", "--rate-scale", "2"]
    played += ["--interval-s", "5", "--intervals", "4", "--load-s", "2"]
    done = CliRunner().invoke(app, [*CALL, *played, "--out", str(tmp_path), "--force"])
    model = Path(json.loads(done.stdout)["agents"][0]["model"]).with_suffix(".npz")
    card = load_agent(model).card
    assert card.interval_s == 5.0
    assert not card.ranges["load_s"]
    assert all(word in card.note for word in ("--from-s 600.0", "--compress 5.0", "--rate-scale 2.0", "--intervals 4"))
    ask = ["evaluate", "one-task", "--model", str(model), "--windows", "2", "--tuning", "2", "--json"]
    other = CliRunner().invoke(app, ask)
    assert "trained for a plan every 5 s, not every 1 s" in str(other.exception)
    report = json.loads(CliRunner().invoke(app, [*ask, *played]).stdout)
    assert "ppo" in {row["policy"] for row in report["results"]}


def test_a_folder_that_cannot_be_written_is_told_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for command in (["train", "one-task"], ["evaluate", "one-task"], ["forecaster", "train"]):
        done = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "file")])
        assert "nothing can be written to" in str(done.exception)


def test_the_command_prints_one_json_object(tmp_path: Path) -> None:
    row = json.loads(CliRunner().invoke(app, [*CALL, "--out", str(tmp_path), "--force"]).stdout)
    assert Path(row["agents"][0]["model"]).is_file()


def test_an_agent_that_loses_against_its_base_is_exported_only_by_force(tmp_path: Path) -> None:
    """A thousand decisions are too few to beat a tuned base."""
    call = [*CALL, "--out", str(tmp_path)]
    lost = CliRunner().invoke(app, call)
    row = json.loads(lost.stdout)["agents"][0]
    assert row["model"] is None
    assert isinstance(lost.exception, LosingAgentError)
    figures = r"it costs (\d.\d+) J and loses \d.\d+ % of the requests, its base (\d.\d+) J and \d.\d+ %; train for more"
    found = re.search(figures, str(lost.exception))
    assert found is not None
    assert float(found[2]) - float(found[1]) == pytest.approx(row["validation_gain"], abs=1e-4)
    folder = tmp_path / "one-task" / "seed0"
    assert {LATEST, BEST, STATE} <= {path.name for path in folder.iterdir()}
    assert not list(folder.glob("agent.*"))
    forced = CliRunner().invoke(app, [*call, "--force"])
    assert forced.exit_code == 0
    assert json.loads(forced.stdout)["agents"][0]["steps"] == row["steps"]
    assert load_agent(folder / "agent.npz").card.gain == row["validation_gain"]
