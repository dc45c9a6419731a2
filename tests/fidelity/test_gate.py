"""The gate: what decides, what is tried again, and when it is given up."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from loki_rl.fidelity import gate
from loki_rl.fidelity.gate import TRIES, Attempt, held, record
from loki_rl.fidelity.measure import Fidelity, measure
from loki_rl.fidelity.twin import read_run
from loki_rl.fidelity.verdict import Answer, Bars
from loki_rl.runs.options import RunOptions
from tests.fidelity.conftest import Record


@pytest.fixture(scope="module")
def found(record: Record) -> Fidelity:
    return measure(record()[1], plays=1)


class Alone:
    """A host on which others take a share of the cores."""

    taken = 0.0

    def share(self) -> float:
        return self.taken


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Alone:
    one = Alone()
    monkeypatch.setattr(gate, "HostLoad", lambda: one)
    return one


@pytest.mark.parametrize(
    ("answers", "is_held", "tries"),
    [
        (["within"], True, 1),
        (["inconclusive", "within"], True, 2),
        (["outside"], False, 1),
        (["inconclusive", "outside"], False, 2),
        (["inconclusive"] * 3, False, 3),
    ],
)
def test_the_first_that_tells_decides(
    found: Fidelity, host: Alone, answers: list[Answer], is_held: bool, tries: int
) -> None:
    told: list[Attempt] = []
    assert held(lambda number: replace(found, verdict=answers[number]), told.append) == is_held
    assert len(told) == tries <= TRIES
    assert [one.answer for one in told] == answers[:tries]
    assert host.share() == 0.0


def test_others_on_the_host_are_to_blame_first(found: Fidelity, host: Alone) -> None:
    host.taken = 0.5
    told: list[Attempt] = []
    outside = replace(found, verdict="outside")
    assert not held(lambda _: outside, told.append)
    assert [one.answer for one in told] == ["inconclusive"] * TRIES
    assert held(lambda _: replace(found, verdict="within"), told.append)


def test_a_plane_is_recorded_once_and_set_beside_its_twin(small: Path, crowd: Path, tmp_path: Path) -> None:
    options = RunOptions(str(small), str(crowd), "exact", "emulated", 5, interval_s=1.0)
    folder = record(options, tmp_path)
    written = (folder / "flight").stat()
    assert record(options, tmp_path) == folder
    assert (folder / "flight").stat().st_mtime_ns == written.st_mtime_ns
    found = measure(read_run(folder), Bars(), plays=2)
    rows = {row.name: row for row in found.rows}
    assert rows["violations"].plane < 100
    assert 0 < rows["servers"].plane <= 4
    assert rows["batch read"].plane >= 1
    assert rows["p50"].plane > 0
