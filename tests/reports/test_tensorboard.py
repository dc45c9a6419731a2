"""What a browser finds in TensorBoard's pages of a comparison. `make screenshots` keeps what it sees, for the docs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import loki_rl
from tests.serving.driving import eventually, held_port

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# Where screenshots are kept; else they go with the test.
KEPT = os.environ.get("LOKI_SCREENSHOTS")
PAGES = {"custom_scalars": "tensorboard.png", "hparams": "tensorboard_hparams.png"}

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")


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


def _browse(*words: str, folder: Path) -> str:
    """What the browser prints."""
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder / 'profile'}")
    command = [str(BROWSER), *flags, "--virtual-time-budget=25000", "--window-size=1400,1000", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def test_violations_have_their_cards(board: str, tmp_path: Path) -> None:
    """By second, of the run, and three of the seeds."""
    page = _browse("--dump-dom", f"{board}/?tagFilter=slo_violation#timeseries", folder=tmp_path)
    assert re.search(r"Tags matching filter.*?\b5 cards\b", page, re.DOTALL)


def test_runs_are_named_by_what_they_are_of(board: str, tmp_path: Path) -> None:
    page = _browse("--dump-dom", f"{board}/#timeseries", folder=tmp_path)
    for run in ("twin/hardware/flash_crowd/seed0", "twin/loki/flash_crowd/seed1", "seeds/twin/loki/flash_crowd"):
        assert run in page
    assert 'title="final/accuracy"' in page


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_drawn(board: str, name: str, tmp_path: Path) -> None:
    file = Path(KEPT or tmp_path) / PAGES[name]
    _browse(f"--screenshot={file}", f"{board}/#{name}", folder=tmp_path)
    with Image.open(file) as picture:
        seen = picture.convert("RGB").crop((350, 120, 1400, 1000)).getcolors(1 << 20)
    assert seen is not None
    assert len(seen) > 100, "the page is empty"
