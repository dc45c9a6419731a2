"""What TensorBoard serves of a comparison, and what a browser finds in its pages. `make screenshots` keeps what it sees, for
the docs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import loki_rl
from loki_rl.runs.tensorboard.tags import DESCRIPTIONS, FIGURES, FINAL
from tests.serving.driving import eventually, held_port

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# Where screenshots are kept; else they go with the test.
KEPT = os.environ.get("LOKI_SCREENSHOTS")
PAGES = {"custom_scalars": "tensorboard.png", "hparams": "tensorboard_hparams.png"}

browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
RUNS = [f"twin/{policy}/flash_crowd/seed{seed}" for policy in ("hardware", "loki") for seed in (0, 1)]
BANDS = ["seeds/twin/hardware/flash_crowd", "seeds/twin/loki/flash_crowd"]


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """TensorBoard on the runs of two policies; its address."""
    folder, port = tmp_path_factory.mktemp("board") / "runs", held_port()
    end = 100.0 if KEPT else 60.0
    loki_rl.compare(
        "traffic", "flash_crowd", ["hardware", "loki"], seeds=2, logdir=folder, rate_scale=10.0, from_s=40.0, to_s=end
    )
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", folder.name, "--port", str(port)]
    log = (folder.parent / "log").open("wb")
    with log, subprocess.Popen(command, stdout=log, stderr=log, cwd=folder.parent) as server:
        try:
            eventually(lambda: "seed1" in _read(f"http://127.0.0.1:{port}/data/runs"), "TensorBoard shows no runs")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def _read(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=10.0) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def _asked(board: str, route: str, question: object = None) -> Any:
    """What TensorBoard's own pages are made of. question: of what is asked by POST."""
    body = None if question is None else json.dumps(question).encode()
    asked = urllib.request.Request(f"{board}/data/plugin/{route}", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=30.0) as answer:
        return json.load(answer)


def test_a_tag_is_where_it_is_meant_to_be(board: str) -> None:
    eventually(lambda: len(_asked(board, "scalars/tags")) == 6, "a run shows no curves")
    tags = _asked(board, "scalars/tags")
    assert sorted(tags) == sorted(RUNS + BANDS)
    for run in RUNS:
        assert tags[run].keys() <= DESCRIPTIONS.keys()
        assert tags[run].keys() >= {f"final/{name}" for name in FINAL}
        assert {tag: told["description"] for tag, told in tags[run].items()} == {
            tag: f"<p>{DESCRIPTIONS[tag]}</p>" for tag in tags[run]
        }
    for run in BANDS:
        assert len(tags[run]) == 12
        assert all(tags[run][f"seeds/{what}"]["description"] for what in ("accuracy", "servers_used"))


def test_custom_scalars_has_a_chart_of_each_and_all_its_tags_are_there(board: str) -> None:
    tags = _asked(board, "scalars/tags")
    side, over = _asked(board, "custom_scalars/layout")["category"]
    assert (side["title"], over["title"]) == ("policies side by side", "over seeds")
    assert {tag for chart in side["chart"] for tag in chart["multiline"]["tag"]} <= tags[RUNS[0]].keys()
    bands = [series for chart in over["chart"] for series in chart["margin"]["series"]]
    assert {tag for series in bands for tag in series.values()} == tags[BANDS[0]].keys()


def test_hparams_has_a_row_a_run(board: str) -> None:
    said = _asked(board, "hparams/experiment", {})
    assert [one["name"] for one in said["hparamInfos"]] == ["driver", "policy", "seed", "servers", "trace"]
    metrics = [one["name"]["tag"] for one in said["metricInfos"]]
    assert metrics == [f"final/{name}" for name in FIGURES]
    any_status = [f"STATUS_{word}" for word in ("UNKNOWN", "SUCCESS", "FAILURE", "RUNNING")]
    question = {"startIndex": 0, "sliceSize": 100, "colParams": [], "allowedStatuses": any_status}
    rows = _asked(board, "hparams/session_groups", question)["sessionGroups"]
    assert sorted(row["name"] for row in rows) == RUNS
    for row in rows:
        asked = row["hparams"]
        assert row["name"] == f"{asked['driver']}/{asked['policy']}/{asked['trace']}/seed{asked['seed']:g}"
        assert sorted(value["name"]["tag"] for value in row["metricValues"]) == sorted(metrics)


def test_pictures_and_cards_are_there(board: str) -> None:
    assert _asked(board, "text/tags") == {run: ["run/card"] for run in RUNS}
    assert sorted(_asked(board, "images/tags")["comparison"]) == ["comparison/costs", "comparison/timeline-flash_crowd"]


def _browse(*words: str, folder: Path) -> str:
    """What the browser prints."""
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder / 'profile'}")
    command = [str(BROWSER), *flags, "--virtual-time-budget=25000", "--window-size=1400,1000", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@browser
def test_violations_have_their_cards(board: str, tmp_path: Path) -> None:
    """By second, of the run, and three of the seeds."""
    page = _browse("--dump-dom", f"{board}/?tagFilter=slo_violation#timeseries", folder=tmp_path)
    assert re.search(r"Tags matching filter.*?\b5 cards\b", page, re.DOTALL)


@browser
def test_runs_are_named_by_what_they_are_of(board: str, tmp_path: Path) -> None:
    page = _browse("--dump-dom", f"{board}/#timeseries", folder=tmp_path)
    for run in ("twin/hardware/flash_crowd/seed0", "twin/loki/flash_crowd/seed1", "seeds/twin/loki/flash_crowd"):
        assert run in page
    assert 'title="final/accuracy"' in page


@browser
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_drawn(board: str, name: str, tmp_path: Path) -> None:
    file = Path(KEPT or tmp_path) / PAGES[name]
    _browse(f"--screenshot={file}", f"{board}/#{name}", folder=tmp_path)
    with Image.open(file) as picture:
        seen = picture.convert("RGB").crop((350, 120, 1400, 1000)).getcolors(1 << 20)
    assert seen is not None
    assert len(seen) > 100, "the page is empty"
