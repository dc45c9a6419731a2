"""The paper's evaluation as one command, on a pipeline so small that it takes seconds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from loki_rl.cli.main import main
from loki_rl.core.options import DROPS
from loki_rl.paper import studies, suite
from loki_rl.paper.studies import BY_TABLE, FLOORS, PUBLISHED, SLO_FACTORS
from loki_rl.paper.study import Claim, Study
from loki_rl.paper.suite import Made, markdown, paper_suite
from loki_rl.runs.batch_runner import Case, Played, Progress, play
from loki_rl.runs.options import RunOptions
from loki_rl.runs.run import RUNNERS

PNG = b"\x89PNG"
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


def _short(patch: pytest.MonkeyPatch) -> None:
    """Fewer and shorter runs of every study; how pictures look is tested elsewhere."""
    patch.setattr(studies, "COMPRESS", 60.0)
    patch.setattr(studies, "STEADY_S", 8)
    patch.setattr(studies, "LOADS", (1.0, 0.8, 0.6))
    patch.setattr(studies, "COMPARED", ("hardware", "proteus", "loki", "exact"))
    patch.setattr(suite, "timeline_png", lambda _, path: path.write_bytes(PNG))
    patch.setattr(suite, "study_png", lambda _, path: path.write_bytes(PNG))


def playing(said: list[Progress]) -> Callable[[Sequence[Case]], Played]:
    """All in this process; what happens is kept."""
    return partial(play, run=RUNNERS, jobs=1, progress=said.append)


Found = tuple[dict[str, object], Path, list[Progress]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("suite")
    said: list[Progress] = []
    with pytest.MonkeyPatch.context() as patch:
        _short(patch)
        found = paper_suite(RunOptions(_pipeline(folder), "diurnal", "loki"), folder / "log", [0], playing(said))
    return found, folder / "log", said


def _rows(found: dict[str, object], title: str) -> list[list[float]]:
    every = found["studies"]
    assert isinstance(every, list)
    return next(list(study["rows"]) for study in every if study["title"] == title)


def test_the_files_hold_what_is_returned(made: Found) -> None:
    found, folder, said = made
    written = json.loads((folder / "paper.json").read_text())
    assert written == json.loads(json.dumps({name: value for name, value in found.items() if name != "report"}))
    assert said[-1].ended == said[-1].total == len(list(folder.glob("paper/*/*/twin/*/*/seed0/summary.json")))
    report = (folder / "paper.md").read_text()
    for text in (
        "2.7x",
        "2.67x fewer",
        "up to 10x fewer",
        "Nobody measured them",
        "## Dropping",
        "| not reproduced: ",
        "Arrivals of *diurnal*: times inside the bins of",
    ):
        assert text in report


def test_a_second_call_runs_nothing_again_and_says_the_same(made: Found) -> None:
    found, folder, _ = made
    said: list[Progress] = []
    pipeline = str(folder.parent / "small.yaml")
    with pytest.MonkeyPatch.context() as patch:
        _short(patch)
        again = paper_suite(RunOptions(pipeline, "diurnal", "loki"), folder, [0], playing(said))
    assert {step.state for step in said} == {"reused"}
    assert said[-1].reused == said[-1].total
    assert again["claims"] == found["claims"]


def test_every_picture_of_the_report_is_there_and_inside_the_page(made: Found) -> None:
    folder = made[1]
    pictures = re.findall(r"\]\(([^)]+\.png)\)", (folder / "paper.md").read_text())
    assert "paper-slo.png" in pictures
    assert "paper-end-to-end-as-published-over-time.png" in pictures
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    page = (folder / "paper.html").read_text()
    assert page.count("data:image/png;base64,") == len(pictures)
    assert 'src="paper' not in page


def test_every_claim_has_our_figure_and_both_definitions(made: Found) -> None:
    claims = made[0]["claims"]
    assert isinstance(claims, list)
    assert [claim["name"] for claim in claims] == ["effective capacity", "violations", "servers off-peak"]
    for claim in claims:
        assert claim["ours"] is None or claim["ours"] > 0
        assert "published:" in claim["how"]
        assert "Ours:" in claim["how"]


def test_lower_floors_serve_more_and_the_twin_holds_what_is_planned(
    made: Found,
) -> None:
    rows = _rows(made[0], "Effective capacity")
    assert [str(row[0]) for row in rows[1:]] == [f"{100 * floor:.1f}" for floor in FLOORS]
    planned, held = [row[1] for row in rows], [row[3] for row in rows]
    assert planned == sorted(planned)
    assert planned[0] < planned[-1]
    assert all(0.5 * plan <= hold <= plan for plan, hold in zip(planned, held, strict=True))
    assert [row[-1] for row in rows] == [hold / held[0] for hold in held]


def test_low_demand_takes_few_servers(made: Found) -> None:
    servers = [row[1] for row in _rows(made[0], "Servers off-peak")]
    assert servers == sorted(servers)
    assert servers[-1] <= 4


def test_each_run_stands_in_its_table(made: Found) -> None:
    assert [str(row[0]) for row in _rows(made[0], "Dropping")] == list(DROPS)
    assert [row[0] for row in _rows(made[0], "SLO")] == [round(400 * factor) for factor in SLO_FACTORS]
    policies = [row[0] for row in _rows(made[0], "End to end, with load times")]
    assert {"hardware", "proteus", "loki", "exact"} <= set(policies)
    published = [str(row[0]) for row in _rows(made[0], "End to end, as published")]
    assert published == [*PUBLISHED, *(name + BY_TABLE for name in PUBLISHED)]
    for row in _rows(made[0], "End to end, with load times"):
        assert 0 <= row[1] <= 100
        assert 0 < row[4] <= 4
    assert all(row[1] > 0 for row in _rows(made[0], "Run time"))


def test_what_cannot_be_reproduced_is_said(tmp_path: Path) -> None:
    claims = tuple(Claim("c", "3x", 3.0, ours, "how") for ours in (None, 1.5, 2.8))
    study = Study("T", "About.", ("a", "b"), (("x", 1.0),), claims)
    text = markdown({"pipeline": "p", "provenance": "published", "source": ""}, [Made(study, {})], tmp_path)
    assert "| c | 3x | - | could not be measured | how |" in text
    assert "| c | 3x | 1.50x | not reproduced: 50% of it | how |" in text
    assert "| c | 3x | 2.80x | reproduced | how |" in text
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
