"""A plane of real models works at its limit for some seconds, and its profile as served follows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from loki_rl.files.config import PipelineFile, load_pipeline
from loki_rl.files.profile_file import ProfileFile
from loki_rl.serving.profiling import as_served
from loki_rl.serving.profiling.worker_log import WorkerLog, read_workers

ROOT = Path(__file__).resolve().parents[3]


PAYLOADS = 12


@pytest.fixture
def small(reading: PipelineFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Reading with the fastest variants alone, as a pipeline file beside its profile; two rounds."""
    text = reading.path.read_text(encoding="utf-8")
    gone = ("d640:", "d800:", "rt160:", "rs160q:", "rs240q:", "rs240:")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith(gone)]
    text = "\n".join(lines).replace("profiles/", str(ROOT / "pipelines/profiles") + "/")
    path = tmp_path / "reading.yaml"
    path.write_text(text, encoding="utf-8")
    with TemporaryDirectory(prefix="lt-") as folder:  # a socket's path must be short
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        monkeypatch.setattr(as_served, "PAYLOADS", PAYLOADS)
        yield path


def test_reading_as_served(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = load_pipeline(small)
    assert file.profile is not None
    logs: list[WorkerLog] = []

    def read(folder: Path) -> WorkerLog:
        logs.append(read_workers(folder))
        return logs[-1]

    monkeypatch.setattr(as_served, "read_workers", read)
    steps: list[tuple[str, float]] = []
    made = as_served.rescale(small, file.profile, "cpu", lambda *step: steps.append(step))
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
    rounds = as_served.make_rounds(file.pipeline)
    assert len(rounds) == 2
    assert 1 <= len(logs) <= as_served.TRIES
    assert len(steps) == len(logs) * (len(rounds) + 1)
    served = {(batch.task, batch.variant) for batch in logs[0].batches}
    assert served == {choice for one in rounds for choice in enumerate(one.variants)}, "a round has not served its variants"
