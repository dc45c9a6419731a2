from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Thread

import msgspec
import numpy as np
import pytest

from loki_rl.files.config import ModelSpec, PipelineFile, load_pipeline
from loki_rl.files.profile_file import PathAccuracy, ProfileFile, StageAccuracy
from loki_rl.reading.pictures import Crop, pack, unpack
from loki_rl.reading.quality import measure_quality
from loki_rl.reading.recognition import Reading
from loki_rl.reading.scenes import Scene, render
from loki_rl.serving.engines import core_time
from loki_rl.serving.engines.adapter import Array, Produced
from loki_rl.serving.engines.core_time import Schedstat, ThreadTime, busy_time_of_now, thread_time_of_now, waits_are_told
from loki_rl.serving.engines.engine import EngineError
from loki_rl.serving.profiling.profile import Request, batch_sizes, profile, quick_request
from loki_rl.serving.profiling.timing import Effort, Measurement, measure_latencies

QUICK = Effort(budget_s=0.0, least=3, most=3, warmup=1, rounds=3)
Spec = Callable[..., ModelSpec]


def ignore(_what: str, _share: float) -> None:
    """A progress that nobody sees."""


# -- timing -----------------------------------------------------------------------------------------------------------------


class Bench:
    """Runs that take as long as a test wants, and the thread's time as they leave it. seconds: wall and waited [s] of
    a run, by how many were before it and the size of its batch."""

    def __init__(self, seconds: Callable[[int, int], tuple[float, float]]) -> None:
        self.seconds = seconds
        self.sizes: list[int] = []
        self.now = ThreadTime(0.0, 0.0)

    def run(self, batch: list[Array]) -> None:
        wall, waited = self.seconds(len(self.sizes), len(batch))
        self.sizes.append(len(batch))
        self.now = ThreadTime(self.now.wall + wall, self.now.waited + waited)

    def measured(self, sizes: Sequence[int], effort: Effort) -> dict[int, Measurement]:
        return measure_latencies(self.run, [np.zeros(1)] * 3, sizes, effort, lambda: self.now)


def percentiles(row: Measurement) -> list[float]:
    return [row.latency.p50, row.latency.p95, row.latency.p99]


def test_percentiles_come_from_the_measured_runs_alone() -> None:
    bench = Bench(lambda run, size: (5.0 if run < 2 else 0.1 * size, 0.0))  # a slow warm-up
    rows = bench.measured((1, 4), Effort(budget_s=2.1, least=2, most=50, warmup=2, rounds=2))
    assert percentiles(rows[1]) == [pytest.approx(0.1)] * 3
    assert percentiles(rows[4]) == [pytest.approx(0.4)] * 3
    assert bench.sizes.count(1) == 2 + 1 + 2 * 11
    assert bench.sizes.count(4) == 2 + 1 + 2 * 3
    assert bench.sizes != sorted(bench.sizes), "each size has its turn in each round"


def test_effort_is_bounded_on_both_sides() -> None:
    for budget_s, runs in ((0.0, 6), (1e9, 9)):
        bench = Bench(lambda _run, _size: (1.0, 0.0))
        bench.measured((1,), Effort(budget_s, 6, 9, warmup=0, rounds=3))
        assert len(bench.sizes) == runs + 2  # and what warms up later rounds


def test_what_was_waited_for_a_core_is_not_the_models_and_is_told() -> None:
    bench = Bench(lambda run, _size: (0.3, 0.2) if run % 2 else (0.1, 0.0))
    row = bench.measured((1,), Effort(0.0, 40, 40, warmup=0))[1]
    assert percentiles(row) == [pytest.approx(0.1)] * 3
    assert row.waited == pytest.approx(0.5, abs=0.01)
    assert row.error == pytest.approx(0.0, abs=1e-9)


def test_rounds_beside_a_neighbour_count_for_the_error_and_not_for_the_time() -> None:
    """Half of the rounds take longer; within each, one run of ten does."""
    bench = Bench(lambda run, _size: ((1.5 if run // 41 % 2 else 1.0) * (2.0 if run % 10 == 3 else 1.0), 0.0))
    row = bench.measured((1,), Effort(0.0, 160, 160, warmup=1))[1]
    assert row.latency.p50 == pytest.approx(1.0)
    assert row.latency.p99 == pytest.approx(2.0)
    assert row.error == pytest.approx(np.std([1.0, 1.5, 1.0, 1.5], ddof=1) / 2 / 1.25)


def test_this_thread_waits_for_a_core_beside_others_or_nobody_tells() -> None:
    before = thread_time_of_now()
    sum(range(100_000))
    took = thread_time_of_now().since(before)
    assert 0.0 <= took.waited <= took.wall
    assert took.own == pytest.approx(took.wall - took.waited)
    assert busy_time_of_now().since(busy_time_of_now()).own >= 0.0


@pytest.mark.parametrize("text", [None, "0 0 0\n", ""])
def test_a_kernel_that_does_not_tell_is_believed(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "schedstat").write_text(text)
    assert Schedstat(str(tmp_path / "schedstat")).waited_s() is None
    (tmp_path / "schedstat").write_text("5000000 2000000000 7\n")
    assert Schedstat(str(tmp_path / "schedstat")).waited_s() == 2.0


def test_where_the_kernel_does_not_tell_nothing_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_time, "_waited_s", lambda: None)
    assert not waits_are_told()
    assert thread_time_of_now().waited == 0.0


def test_threads_that_end_leave_no_file_open() -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = open_files()
    for _ in range(3):
        thread = Thread(target=thread_time_of_now)
        thread.start()
        thread.join()
    assert open_files() <= before + 1, "that of this thread"


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
    assert all(row.load_s > 0 and row.memory_mb >= 0 and row.sample_ms for row in made.loads)
    assert all(row.error is not None and row.waited is not None for row in made.variants)
    assert made.neighbours is not None
    assert made.steal is not None
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

    def look(self, _task: str, _variant: str, _count: int, _budget_s: float) -> list[float]:
        return []

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
