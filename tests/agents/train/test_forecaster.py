"""The forecaster's training and its commands."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from loki_rl.agents.forecast_commands import ForecasterFlags, ScoreFlags, run_score, run_train_forecaster
from loki_rl.agents.train.demand_series import Series
from loki_rl.agents.train.forecaster import log_loss, samples_of
from loki_rl.cli.main import app
from loki_rl.control.demand.exceedance_net import SHIPPED, load_exceedance, shipped_exceedance
from loki_rl.control.formulation.request import RequestError
from loki_rl.traces.generate import KINDS


def small(out: Path, windows: int = 2, epochs: int = 2) -> ForecasterFlags:
    return ForecasterFlags(out=str(out), windows=windows, held_out=1, epochs=epochs)


def test_it_leaves_a_file_and_a_card_that_say_how_they_were_made(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="training is not installed; run 'make learn'")
    row = run_train_forecaster(small(tmp_path))
    net = load_exceedance(tmp_path / "exceedance.npz")
    assert net.error == row["validation_error"]
    assert "forecaster train --windows 2" in net.note
    assert net.note.removeprefix("made by: ") in (tmp_path / "card.md").read_text(encoding="utf-8")


def test_the_same_command_makes_the_same_network_and_more_of_it_a_better_one(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="training is not installed; run 'make learn'")
    for name in ("once", "again"):
        run_train_forecaster(small(tmp_path / name))
    once, again = (load_exceedance(tmp_path / name / "exceedance.npz") for name in ("once", "again"))
    assert all(np.array_equal(a, b) for a, b in zip(once.weights, again.weights, strict=True))
    more = run_train_forecaster(small(tmp_path / "more", windows=4, epochs=8))
    assert more["validation_error"] < once.error < 1.0


def test_what_is_believed_of_steady_demand_can_hardly_be_bettered_and_of_swings_it_can() -> None:
    rng = np.random.default_rng(5)
    swings = rng.poisson(np.repeat(rng.choice((40.0, 200.0), 40), 15)).astype(np.float64)
    samples = samples_of([Series("swings", swings)], 200, 0)
    assert log_loss(shipped_exceedance(), samples).sum() < 0.7 * log_loss(None, samples).sum()


def test_samples_show_what_came_and_nothing_of_it_beforehand() -> None:
    """Demand that jumps once: no row before it says so, and what came after does."""
    counts = np.concatenate((np.full(200, 50.0), np.full(100, 400.0)))
    flat = np.concatenate((np.full(200, 50.0), np.full(100, 50.0)))
    jumped, calm = (samples_of([Series("jump", one[:204])], 300, 1) for one in (counts, flat))
    assert len(jumped.rows) == len(calm.rows)
    assert np.array_equal(jumped.rows, calm.rows)
    assert jumped.share.sum() > calm.share.sum()


def test_the_shipped_network_scores_what_its_card_says() -> None:
    card = SHIPPED.with_suffix(".md").read_text(encoding="utf-8")
    assert shipped_exceedance().note.removeprefix("made by: ") in card
    said = dict(re.findall(r"^\| (\w+) \| (\d\.\d\d) \|$", card, re.MULTILINE))
    assert said.keys() >= set(KINDS)
    scored = run_score(ScoreFlags())["test_errors"]
    assert {family: float(said[family]) for family in KINDS} == pytest.approx(scored, abs=0.006)
    assert max(scored.values()) < 1.0


def test_a_file_that_is_no_forecaster_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"nothing")
    with pytest.raises(RequestError, match="cannot be read as a forecaster"):
        run_score(ScoreFlags(model=str(tmp_path / "x.npz")))


def test_the_commands_print_one_json_object(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="training is not installed; run 'make learn'")
    made = ["forecaster", "train", "--windows", "1", "--held-out", "1", "--epochs", "1", "--out", str(tmp_path), "--json"]
    model = json.loads(CliRunner().invoke(app, made).stdout)["model"]
    scored = CliRunner().invoke(app, ["forecaster", "score", "--windows", "1", "--json", "--model", model])
    assert set(json.loads(scored.stdout)["test_errors"]) == set(KINDS)
