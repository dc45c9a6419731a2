"""The command chaos: what it finds decides how it ends, and mistakes are told before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from loki_rl.serving.chaos import trial
from loki_rl.serving.load import open_loop
from loki_rl.serving.load.native_sender import NativeSender
from loki_rl.serving.load.sender import Seen
from tests.cli.conftest import Call


class Loses(NativeSender):
    """Does not pass on the first answers that come."""

    lost = 0

    def poll(self) -> list[Seen]:
        seen = super().poll()
        if seen and not Loses.lost:
            Loses.lost = len(seen)
            return []
        return seen


def test_a_request_that_is_lost_is_found_out_and_so_is_a_plane_that_is_not_whole_in_time(
    call: Call, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("BEFORE_S", 1.0), ("AFTER_S", 1.0), ("WHOLE_S", 0.0), ("NativeSender", Loses)):
        monkeypatch.setattr(trial, name, value)
    monkeypatch.setattr(open_loop, "LOST_S", 2.0)
    said = call("chaos", str(small), "--kinds", "withhold", "--faults", "1", "--rps", "20", "--slo-ms", "5000", "--json")
    assert said.code == 1
    assert said.json["account"]["lost"] == Loses.lost > 0
    assert said.json["alive"]
    assert not said.json["passed"]
    assert [row["kind"] for row in said.json["rows"]] == ["withhold"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--kinds", "kill,fire"], "--kinds must be one of kill, stop,"),
        (["--faults", "3", "--minutes", "1"], "--faults and --minutes both say how long the trial lasts"),
        (["--engine", "onnx"], "names no models"),
        (["--every-s", "0.1"], "--every-s must be a number of at least 0.5"),
    ],
)
def test_mistakes_are_told_in_a_sentence(call: Call, small: Path, words: list[str], sentence: str) -> None:
    assert sentence in call("chaos", str(small), *words).sentence
