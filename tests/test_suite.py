"""The paper's evaluation as one command, on a pipeline so small that it takes seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loki_rl import studies
from loki_rl.cli.main import main
from loki_rl.core.options import DROPS
from loki_rl.runs import RunOptions
from loki_rl.studies import FLOORS, SLO_FACTORS, Study
from loki_rl.suite import markdown, paper_suite

PIPELINE = """
name: small
slo_ms: 400
provenance: {provenance}
servers: 4
tasks:
  find:
    variants:
      quick: {{accuracy: 0.8, load_s: 1, fanout: {{read: 1}}, latency_ms: {{1: 10, 2: 15, 4: 25}}}}
      sure: {{accuracy: 1, load_s: 1, fanout: {{read: 2}}, latency_ms: {{1: 40, 2: 60, 4: 100}}}}
  read:
    parent: find
    variants:
      quick: {{accuracy: 0.9, load_s: 1, latency_ms: {{1: 8, 2: 10, 4: 14}}}}
      sure: {{accuracy: 1, load_s: 1, latency_ms: {{1: 15, 2: 20, 4: 30}}}}
"""


def _pipeline(folder: Path, provenance: str = "assumed") -> str:
    (folder / "small.yaml").write_text(PIPELINE.format(provenance=provenance))
    return str(folder / "small.yaml")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, object], Path, list[str]]:
    folder = tmp_path_factory.mktemp("suite")
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studies, "COMPRESS", 40.0)
        patch.setattr(studies, "STEADY_S", 8)
        found = paper_suite(RunOptions(_pipeline(folder), "diurnal", "loki"), folder / "log", [0], 1, said.append)
    return found, folder / "log", said


def _rows(found: dict[str, object], title: str) -> list[list[float]]:
    every = found["studies"]
    assert isinstance(every, list)
    return next(list(study["rows"]) for study in every if study["title"] == title)


def test_the_files_hold_what_is_returned(made: tuple[dict[str, object], Path, list[str]]) -> None:
    found, folder, said = made
    written = json.loads((folder / "paper.json").read_text())
    assert written == json.loads(json.dumps({name: value for name, value in found.items() if name != "report"}))
    assert len(said) == 7
    report = (folder / "paper.md").read_text()
    for text in (
        "2.7x",
        "2.67x fewer",
        "up to 10x fewer",
        "Nobody measured them",
        "## Dropping",
    ):
        assert text in report


def test_every_claim_has_our_figure_and_both_definitions(made: tuple[dict[str, object], Path, list[str]]) -> None:
    claims = made[0]["claims"]
    assert isinstance(claims, list)
    assert [claim["name"] for claim in claims] == ["effective capacity", "servers off-peak", "violations"]
    for claim in claims:
        assert claim["ours"] is None or claim["ours"] > 0
        assert "published:" in claim["how"]
        assert "Ours:" in claim["how"]


def test_lower_floors_serve_more_and_the_twin_holds_what_is_planned(
    made: tuple[dict[str, object], Path, list[str]],
) -> None:
    rows = _rows(made[0], "Effective capacity")
    assert [row[0] for row in rows[1:]] == [100 * floor for floor in FLOORS]
    planned, held = [row[1] for row in rows], [row[3] for row in rows]
    assert planned == sorted(planned)
    assert planned[0] < planned[-1]
    assert all(0.5 * plan <= hold <= plan for plan, hold in zip(planned, held, strict=True))
    assert [row[-1] for row in rows] == [hold / held[0] for hold in held]


def test_low_demand_takes_few_servers(made: tuple[dict[str, object], Path, list[str]]) -> None:
    servers = [row[1] for row in _rows(made[0], "Servers off-peak")]
    assert servers == sorted(servers)
    assert servers[-1] <= 4


def test_each_run_stands_in_its_table(made: tuple[dict[str, object], Path, list[str]]) -> None:
    assert [str(row[0]) for row in _rows(made[0], "Dropping")] == list(DROPS)
    assert [row[0] for row in _rows(made[0], "SLO")] == [round(400 * factor) for factor in SLO_FACTORS]
    policies = [row[0] for row in _rows(made[0], "End to end, with load times")]
    assert {"hardware", "proteus", "loki", "exact"} <= set(policies)
    assert {"hardware", "proteus", "loki"} == {str(row[0]) for row in _rows(made[0], "End to end, as published")}
    for row in _rows(made[0], "End to end, with load times"):
        assert 0 <= row[1] <= 100
        assert 0 < row[4] <= 4
    assert all(row[1] > 0 for row in _rows(made[0], "Run time"))


def test_what_cannot_be_measured_is_said() -> None:
    study = Study("T", "About.", ("a", "b"), (("x", 1.0),), (studies.Claim("c", "3x", None, "how"),))
    text = markdown({"pipeline": "p", "provenance": "published", "source": ""}, [study])
    assert "| c | 3x | could not be reproduced | how |" in text
    assert "Nobody measured" not in text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--suite", "papers"), "--suite must be one of paper, not 'papers'"),
        (("--suite", "paper", "--mean-rps", "5"), "--suite brings its own runs; leave --mean-rps out"),
        (("--suite", "paper", "--policies", "loki"), "leave --policies out"),
    ],
)
def test_flags_that_would_not_be_heard_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, flags: tuple[str, ...], message: str
) -> None:
    words = ["loki-rl", "compare", _pipeline(tmp_path), *flags, "--logdir", str(tmp_path / "log")]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
