"""The forecaster's training and its commands."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("torch", reason="training is not installed; run 'make learn'")

from loki_rl.agents.forecast_commands import ForecasterFlags, ScoreFlags, run_score, run_train_forecaster
from loki_rl.agents.train.forecaster import LEADS_S, from_trace
from loki_rl.cli.main import app
from loki_rl.control.demand.forecast_learned import load_net
from loki_rl.control.formulation.request import RequestError
from loki_rl.traces.trace import Trace, TraceError, load_trace


def test_it_leaves_a_file_and_a_card_that_say_how_they_were_made(tmp_path: Path) -> None:
    flags = ForecasterFlags(out=str(tmp_path), windows=12, validation=4, epochs=2)
    row = run_train_forecaster(flags)
    net = load_net(tmp_path / "quantiles.npz")
    assert net.error == row["validation_error"]
    assert "forecaster train --windows 12" in net.note
    assert net.note.removeprefix("made by: ") in (tmp_path / "card.md").read_text(encoding="utf-8")
    again = run_train_forecaster(flags)
    assert again["test_errors"] == row["test_errors"]


def test_more_of_it_forecasts_better(tmp_path: Path) -> None:
    few, more = (
        run_train_forecaster(ForecasterFlags(out=str(tmp_path), windows=windows, validation=4, epochs=epochs))
        for windows, epochs in ((4, 1), (40, 6))
    )
    assert more["test_errors"]["quantile"] < few["test_errors"]["quantile"]


def test_the_parts_of_a_trace_share_no_second() -> None:
    """A trace that counts its own seconds: the largest count of one part lies below the smallest of the next."""
    trace = Trace("counted", np.arange(4000.0), np.arange(4000), 1.0)
    parts = [from_trace(trace, part) for part in ("train", "validation", "test")]
    assert all(set(np.unique(part.lead)) == set(LEADS_S) for part in parts)
    for before, after in pairwise(parts):
        assert before.peak.max() < after.histories.min()


def test_a_trace_that_is_too_short_is_refused() -> None:
    with pytest.raises(TraceError, match="too short"):
        from_trace(load_trace("flash_crowd"), "test")


def test_a_file_that_is_no_forecaster_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"nothing")
    with pytest.raises(RequestError, match="cannot be read as a forecaster"):
        run_score(ScoreFlags(model=str(tmp_path / "x.npz")))


def test_the_commands_print_one_json_object(tmp_path: Path) -> None:
    few = ["--windows", "4", "--json"]
    made = ["forecaster", "train", *few, "--validation", "2", "--epochs", "1", "--out", str(tmp_path)]
    model = json.loads(CliRunner().invoke(app, made).stdout)["model"]
    scored = CliRunner().invoke(app, ["forecaster", "score", *few, "--model", model])
    assert set(json.loads(scored.stdout)["test_errors"]) == {
        "persistence", "ewma", "holt", "seasonal", "envelope", "quantile"
    }  # fmt: skip
