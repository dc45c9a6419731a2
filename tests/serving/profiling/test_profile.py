from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from loki_rl.files.config import ModelSpec, PipelineFile, load_pipeline
from loki_rl.files.profile_file import PathAccuracy, ProfileFile, StageAccuracy
from loki_rl.reading.pictures import Crop, pack, unpack
from loki_rl.reading.quality import measure_quality
from loki_rl.reading.recognition import Reading
from loki_rl.reading.scenes import Scene, render
from loki_rl.serving.engines.adapter import Array, Produced
from loki_rl.serving.engines.engine import EngineError
from loki_rl.serving.profiling.profile import Request, batch_sizes, profile, quick_request
from loki_rl.serving.profiling.timing import Effort, measure_latencies

QUICK = Effort(budget_s=0.0, least=3, most=3, warmup=1)
Spec = Callable[..., ModelSpec]


def ignore(_what: str, _share: float) -> None:
    """A progress that nobody sees."""


# -- timing -----------------------------------------------------------------------------------------------------------------


def test_percentiles_come_from_the_measured_runs_alone() -> None:
    now = 0.0
    seen: list[int] = []

    def run(batch: list[Array]) -> None:
        nonlocal now
        seen.append(len(batch))
        now += 5.0 if len(seen) <= 2 else 0.1 * len(batch)  # a slow warm-up

    payloads = [np.zeros(1)] * 3
    rows = measure_latencies(run, payloads, (1, 4), Effort(budget_s=1.05, least=2, most=50, warmup=2), lambda: now)
    assert rows[1].p50 == pytest.approx(0.1)
    assert rows[1].p99 == pytest.approx(0.1)
    assert rows[4].p50 == pytest.approx(0.4)
    assert seen.count(1) == 2 + 11
    assert seen.count(4) == 2 + 3


def test_effort_is_bounded_on_both_sides() -> None:
    calls: list[int] = []
    now = iter(float(tick) for tick in range(1000))
    measure_latencies(lambda b: calls.append(len(b)), [np.zeros(1)], (1,), Effort(0.0, 5, 9, 0), lambda: next(now))
    assert len(calls) == 5
    measure_latencies(lambda b: calls.append(len(b)), [np.zeros(1)], (1,), Effort(1e9, 5, 9, 0), lambda: next(now))
    assert len(calls) == 5 + 9


# -- the whole --------------------------------------------------------------------------------------------------------------


def test_profile_of_any_model(doubling: Spec, tmp_path: Path) -> None:
    (tmp_path / "double.yaml").write_text(
        "name: double\nslo_ms: 100\nprovenance: measured\nrepository: .\nprofile: double.json\ntasks:\n"
        "  double:\n    entry: 1\n    adapter: doubling:Doubling\n    variants:\n"
        f"      only: {{model: {doubling().model}, accuracy: 0.9}}\n",
        encoding="utf-8",
    )
    file = load_pipeline(tmp_path / "double.yaml", need_profile=False)
    steps: list[tuple[str, float]] = []
    made = profile(file, Request("cpu", effort=QUICK, sizes={"double": (1, 3)}), lambda *step: steps.append(step))
    assert [(row.variant, row.batch) for row in made.variants] == [("only", 1), ("only", 3)]
    assert (made.accuracies, made.fanouts, made.paths) == ((), (), ())
    assert (made.provider, made.padded, made.as_served) == ("CPUExecutionProvider", False, False)
    assert steps[-1] == ("measure variants", 1.0)
    assert file.profile is not None
    made.save(file.profile)
    assert ProfileFile.load(file.profile) == made
    assert load_pipeline(tmp_path / "double.yaml").pipeline.variant("double", "only").accuracy == 0.9


def test_a_pipeline_without_models_has_nothing_to_measure() -> None:
    with pytest.raises(EngineError, match="names no models"):
        profile(load_pipeline("traffic", need_profile=False), Request("cpu"), ignore)


def test_a_profile_without_payloads(reading: PipelineFile) -> None:
    with pytest.raises(EngineError, match="at least 1 payload, not 0"):
        profile(reading, Request("cpu", samples=0), ignore)


def test_batch_sizes_by_place_and_device(reading: PipelineFile) -> None:
    cpu, gpu = (batch_sizes(reading, Request(), padded) for padded in (False, True))
    assert cpu["detection", "d320"] == (1, 2, 4)
    assert cpu["recognition", "rt96"] == (1, 2, 3, 4, 6, 8, 12, 16)
    assert set(gpu.values()) == {(1, 2, 4, 8, 16, 32)}


def test_profile_of_reading(reading: PipelineFile) -> None:
    small = msgspec.structs.replace(
        reading,
        tree=(
            msgspec.structs.replace(reading.tree[0], variants=("d320", "d640")),
            msgspec.structs.replace(reading.tree[1], variants=("rt96", "rs160q")),
        ),
    )
    sizes = {"detection": (1,), "recognition": (1, 2)}
    made = profile(small, Request("cpu", samples=5, effort=QUICK, sizes=sizes), ignore)
    assert len(made.variants) == 2 + 2 * 2
    assert all(0 < row.p50_ms <= row.p95_ms <= row.p99_ms for row in made.variants)
    accuracy = {row.variant: row.accuracy for row in made.accuracies}
    assert 0.2 < accuracy["d320"] < accuracy["d640"] <= 1.0
    assert 0.2 < accuracy["rt96"] < accuracy["rs160q"] <= 1.0
    paths = {row.path: row.accuracy for row in made.paths}
    assert paths["d320", "rt96"] < paths["d640", "rs160q"] <= accuracy["d640"]
    assert all(1.0 < row.mean < 10.0 for row in made.fanouts)
    assert all(row.load_s > 0 and row.memory_mb >= 0 for row in made.loads)
    assert "5 rendered scenes" in made.provenance


def test_a_quick_profile_measures_times_and_takes_the_rest_from_a_known_one(reading: PipelineFile) -> None:
    known = load_pipeline("reading").measured
    assert known is not None
    request = quick_request(reading, known, "cpu")
    small = msgspec.structs.replace(
        reading,
        tree=(
            msgspec.structs.replace(reading.tree[0], variants=("d320",)),
            msgspec.structs.replace(reading.tree[1], variants=("rt96", "rt128")),
        ),
    )
    made = profile(small, msgspec.structs.replace(request, samples=2, effort=QUICK), ignore)
    assert (made.accuracies, made.fanouts, made.paths) == (known.accuracies, known.fanouts, known.paths)
    assert {(row.variant, row.batch) for row in made.variants} == {("d320", 1), ("d320", 2)} | {
        (variant, size) for variant in ("rt96", "rt128") for size in (1, 2, 4, 8)
    }
    assert "as measured on" in made.provenance
    assert made.command == "loki-rl profile reading --quick --device cpu"


class Scripted:
    """An engine whose detector finds the first line of every scene, shifted by `shift` of its height, and one box of
    nothing; its recogniser reads lines of more than six signs right and calls others "?"."""

    def __init__(self, shown: list[Scene]) -> None:
        self.scene = {scene.jpeg: scene for scene in shown}
        self.text = {line.box[2]: line.text for scene in shown for line in scene.lines}

    def load(self, _task: str, _variant: str) -> float:
        return 0.0

    def unload(self, _task: str, _variant: str) -> None:
        """Nothing is resident."""

    def run(self, task: str, variant: str, payloads: Sequence[Array]) -> list[Produced]:
        return [self._find(payload, variant) if task == "detection" else self._read(payload) for payload in payloads]

    def _find(self, payload: Array, variant: str) -> Produced:
        x0, y0, x1, y1 = self.scene[payload.tobytes()].lines[0].box
        shift = {"d320": 0.6, "d640": 0.1}[variant] * (y1 - y0)
        pixels = np.zeros((4, 4, 3), np.uint8)
        boxes = [(x0, y0 + shift, x1, y1 + shift), (0.0, 0.0, 1.0, 1.0)]
        return Produced(children=([pack(Crop(box, pixels)) for box in boxes],))

    def _read(self, payload: Array) -> Produced:
        box = unpack(payload).box
        right = next(text for edge, text in self.text.items() if abs(edge - box[2]) < 0.01)
        reading = Reading(right if len(right) > 6 else "?", 1.0, box)
        return Produced(output=np.frombuffer(msgspec.json.encode(reading), np.uint8))


def test_a_line_counts_when_it_is_found_and_read(reading: PipelineFile, fonts: tuple[Path, ...]) -> None:
    shown = [render(number, 1, fonts) for number in range(6)]
    tree = (
        msgspec.structs.replace(reading.tree[0], variants=("d320", "d640")),
        msgspec.structs.replace(reading.tree[1], variants=("rt96",)),
    )
    found = measure_quality(msgspec.structs.replace(reading, tree=tree), Scripted(shown), shown, ignore)
    lines = [line for scene in shown for line in scene.lines]
    long = sum(len(line.text) > 6 for line in lines)
    both = sum(len(scene.lines[0].text) > 6 for scene in shown)
    assert 0 < both < long < len(lines)
    assert found.accuracies == (
        StageAccuracy("detection", "d320", 0.0),  # too far off
        StageAccuracy("detection", "d640", 6 / len(lines)),
        StageAccuracy("recognition", "rt96", long / len(lines)),
    )
    assert [row.mean for row in found.fanouts] == [2.0, 2.0]
    assert found.paths == (PathAccuracy(("d320", "rt96"), 0.0), PathAccuracy(("d640", "rt96"), both / len(lines)))
