"""A plane of real models works at its limit for some seconds, and its profile as served follows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from loki_rl.config import load_pipeline
from loki_rl.profile_file import ProfileFile
from loki_rl.serving.as_served import make_rounds, rescale, serve_rounds
from loki_rl.serving.worker_log import read_workers

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def small(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Reading with the fastest variants alone, as a pipeline file beside its profile; two rounds."""
    text = (ROOT / "pipelines" / "reading.yaml").read_text(encoding="utf-8")
    gone = ("d640:", "d800:", "rt160:", "rs160q:", "rs240q:", "rs240:")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith(gone)]
    text = (
        "\n".join(lines).replace("../models", str(repository)).replace("profiles/", str(ROOT / "pipelines/profiles") + "/")
    )
    path = tmp_path / "reading.yaml"
    path.write_text(text, encoding="utf-8")
    with TemporaryDirectory(prefix="lt-") as folder:  # a socket's path must be short
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield path


def test_reading_as_served(small: Path, tmp_path: Path) -> None:
    file = load_pipeline(small)
    assert file.profile is not None
    steps: list[tuple[str, float]] = []
    made = rescale(small, file.profile, "cpu", lambda *step: steps.append(step))
    assert made.as_served
    assert made.capacity is not None
    assert made.capacity.servers == 2
    kept = {"d320", "d480", "rt96", "rt128"}
    before = ProfileFile.load(file.profile).variants
    assert [(row.variant, row.batch) for row in made.variants] == [
        (row.variant, row.batch) for row in before if row.variant in kept
    ]
    assert all(0 < row.p50_ms <= row.p95_ms <= row.p99_ms for row in made.variants)
    assert steps[-1][1] == 1.0
    made.save(tmp_path / "served.json")
    assert load_pipeline(small, profile=tmp_path / "served.json").measured == made


def test_every_round_serves_its_own_variants(small: Path, tmp_path: Path) -> None:
    file = load_pipeline(small)
    rounds = make_rounds(file.pipeline)
    spans = serve_rounds(file, rounds, "cpu", tmp_path / "journals", lambda *_: None, round_s=1.0)
    assert len(spans) == len(rounds) == 2
    log = read_workers(tmp_path / "journals")
    for served in rounds:
        for task, variant in enumerate(served.variants):
            assert any((one.task, one.variant) == (task, variant) for one in log.batches)
