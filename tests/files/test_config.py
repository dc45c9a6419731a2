"""Pipeline files: what the shipped ones say, and what a wrong one is told."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from loki_rl.core.pipeline import Latency
from loki_rl.files.config import ConfigError, find_pipeline, load_pipeline
from loki_rl.files.user_folders import models_folder

PROJECT = Path(__file__).resolve().parents[2]
REFERENCE = PROJECT / "tests" / "data" / "loki"

GOOD = """\
name: small
slo_ms: 200
provenance: published
servers: 3
leaf_weights: {read: 0.75, sort: 0.25}
tasks:
  find:
    entry: 2
    variants:
      quick: {accuracy: 0.5, load_s: 1, fanout: {read: 2, sort: 0.5}, latency_ms: {1: 10, 2: [16, 20], 4: [30, 40, 50]}}
      good: {accuracy: 1, load_s: 2, fanout: {read: 3, sort: 1}, latency_ms: {1: 20}}
  read:
    parent: find
    variants:
      r1: {accuracy: 0.9, latency_ms: {1: 5}}
  sort:
    parent: find
    variants:
      s1: {accuracy: 0.8, latency_ms: {1: 4}}
path_accuracy:
  - {path: [quick, r1], accuracy: 0.48}
"""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / "small.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_a_file_becomes_a_pipeline(write: Any) -> None:
    file = load_pipeline(write(GOOD))
    pipeline = file.pipeline
    assert (pipeline.name, pipeline.slo_s, pipeline.servers, pipeline.hop_s) == ("small", 0.2, 3, 0.0005)
    assert [task.name for task in pipeline.tasks] == ["find", "read", "sort"]
    assert [spec.entry for spec in file.tree] == [2.0, 0.0, 0.0]
    assert pipeline.variant("find", "quick").fanout == {"read": 2.0, "sort": 0.5}
    assert pipeline.leaf_weights == {"read": 0.75, "sort": 0.25}
    assert pipeline.accuracy(1, (0, 0)) == 0.48
    assert pipeline.accuracy(1, (1, 0)) == pytest.approx(0.9)
    assert file.repository == models_folder()
    assert file.models == {}


def test_one_two_or_three_percentiles(write: Any) -> None:
    latency = load_pipeline(write(GOOD)).pipeline.variant("find", "quick").latency
    assert latency == {1: Latency(0.01, 0.01, 0.01), 2: Latency(0.016, 0.02, 0.02), 4: Latency(0.03, 0.04, 0.05)}


def test_an_entry_is_one_item_and_a_single_leaf_has_all_the_weight_by_default(write: Any) -> None:
    text = "name: one\nslo_ms: 100\nprovenance: assumed\ntasks: {t: {variants: {v: {accuracy: 1, latency_ms: {1: 5}}}}}\n"
    pipeline = load_pipeline(write(text)).pipeline
    assert pipeline.tasks[0].entry == 1.0
    assert pipeline.leaf_weights == {"t": 1.0}
    assert pipeline.padded


def test_another_slo_can_be_asked_for(write: Any) -> None:
    assert load_pipeline(write(GOOD), slo_ms=90).pipeline.slo_s == 0.09
    with pytest.raises(ConfigError, match=r"an SLO of 10 ms cannot be met.*fastest path takes 18\.5 ms"):
        load_pipeline(write(GOOD), slo_ms=10)


WRONG = [
    ("servers: 3", "server: 3", r"small\.yaml: unknown key 'server'; did you mean 'servers'\?"),
    ("    entry: 2", "    entri: 2", r"task 'find': unknown key 'entri'; did you mean 'entry'\?"),
    ("{accuracy: 0.9,", "{acuracy: 0.9,", r"task 'read', variant 'r1': unknown key 'acuracy'; did you mean 'accuracy'\?"),
    ("[quick, r1], accuracy", "[quick, r1], acc", r"path_accuracy: unknown key 'acc'"),
    ("[quick, r1]", "[quik, r1]", r"unknown variant 'quik'; did you mean 'quick'\?"),
    ("[quick, r1]", "[quick]", r"must name one variant per task, from an entry task to a leaf"),
    ("accuracy: 0.48", "accuracy: 1.48", r"accuracy must lie in \[0, 1\], not 1\.48"),
    ("slo_ms: 200\n", "", r"the key 'slo_ms' is missing; add it"),
    ("slo_ms: 200", "slo_ms: soon", r"at 'slo_ms': expected a number, got text"),
    ("slo_ms: 200", "slo_ms: -5", r"the SLO must be above 0"),
    ("slo_ms: 200", "slo_ms: .nan", r"line 2: malformed YAML: \.nan is not a finite number"),
    ("servers: 3", "servers: 2.5", r"at 'servers': expected a whole number, got a number"),
    ("servers: 3", "servers: 0", r"servers must be at least 1, not 0"),
    ("servers: 3", "slo_ms: 3", r"line 4: malformed YAML: the key 'slo_ms' stands twice"),
    ("servers: 3", "servers: 3\nhop_ms: -1", r"hop_ms must be at least 0, not -1"),
    ("servers: 3", "servers: 3\nswap: brake", r"at 'swap': 'brake' is not one of break, make"),
    ("provenance: published", "provenance: guessed", r"'guessed' is not one of measured, published, assumed"),
    ("name: small", "name: so small", r"the name 'so small' must be one word"),
    ("tasks:", "tasks: [", r"small\.yaml, line \d+: malformed YAML"),
    ("  sort:\n", "  no:\n", r"line \d+: malformed YAML: the key 'no' is no text in YAML; put it in quotes"),
    ("  sort:\n", "  7:\n", r"at 'a key of tasks': expected text, got a whole number"),
    ("  sort:\n", "  [a]:\n", r"malformed YAML: a key must be text"),
    ("parent: find", "parent: fnd", r"task 'read': unknown parent 'fnd'; did you mean 'find'\?"),
    ("parent: find", "parent: read", r"task 'read': its parent 'read' must stand above it"),
    ("{read: 2, sort: 0.5}", "{read: 2}", r"task 'find', variant 'quick': fanout to 'sort' is missing; add it"),
    ("{read: 2, sort: 0.5}", "{read: 2, srt: 1}", r"unknown child task in fanout 'srt'; did you mean 'sort'\?"),
    ("{read: 2, sort: 0.5}", "{read: 2, sort: -1}", r"a fanout below 0"),
    ("latency_ms: {1: 5}", "load_s: 1", r"variant 'r1': latency_ms is missing; add it"),
    ("latency_ms: {1: 5}", "latency_ms: {2: 5}", r"the latency of batch 1 is missing"),
    ("latency_ms: {1: 5}", "latency_ms: {1: [5, 4]}", r"need 0 < p50 <= p95 <= p99"),
    ("latency_ms: {1: 5}", "latency_ms: {1: [1, 2, 3, 4]}", r"expected p50, \[p50, p95\].* got 4 numbers"),
    ("latency_ms: {1: 5}", "latency_ms: 5", r"at 'latency_ms': expected a table, got a whole number"),
    ("accuracy: 0.9, ", "", r"variant 'r1': accuracy is missing"),
    ("accuracy: 0.9", "accuracy: 90", r"accuracy must lie in \(0, 1\], not 90"),
    ("accuracy: 0.9", "model: m, accuracy: 0.9", r"a model needs the key 'adapter' in its task"),
    ("sort: 0.25}\n", "srt: 0.25}\n", r"unknown task in leaf_weights 'srt'; did you mean 'sort'\?"),
    ("sort: 0.25}\n", "sort: 0.5}\n", r"leaf_weights must sum to 1, not 1\.25"),
    ("servers: 3", "servers: 3\nprofile: p.json\npadded: true", r"'padded' is measured: leave it out"),
]


@pytest.mark.parametrize(("old", "new", "message"), WRONG, ids=[new.strip() or old.strip() for old, new, _ in WRONG])
def test_a_wrong_file_is_told_what_and_where(write: Any, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError, match=message) as caught:
        load_pipeline(write(GOOD.replace(old, new)))
    assert "\n" not in str(caught.value)
    assert "small.yaml" in str(caught.value)


@pytest.mark.parametrize("text", ["", "just text", "- a\n- b", "[" * 5000, "name: \x00", "name: 2026-13-45\n"])
def test_what_is_no_table_is_refused(write: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=r"small\.yaml.*(expected a table|malformed YAML)"):
        load_pipeline(write(text))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load_pipeline(tmp_path / "x.yaml")


def test_a_bare_name_is_looked_for_here_and_then_in_the_project(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_pipeline("traffic") == PROJECT / "pipelines" / "traffic.yaml"
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "traffic.yaml").write_text(GOOD, encoding="utf-8")
    assert load_pipeline("traffic").name == "small"
    with pytest.raises(ConfigError, match=r"no pipeline 'trafic'.*did you mean 'traffic'\?"):
        find_pipeline("trafic")
    with pytest.raises(ConfigError, match="no such pipeline file; check the path"):
        find_pipeline("pipelines/none.yaml")
    with pytest.raises(ConfigError, match="no such pipeline file"):
        find_pipeline(tmp_path)


# -- shipped files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [file.stem for file in sorted((PROJECT / "pipelines").glob("*.yaml"))])
def test_a_shipped_file_loads(name: str) -> None:
    file = load_pipeline(name, need_profile=False)
    assert file.name == name
    assert file.source
    assert file.repository == models_folder()
    measured = load_pipeline(name) if file.profile is None or file.profile.is_file() else None
    assert measured is None or measured.pipeline.slo_s > measured.pipeline.fastest_path_s


def test_reading_names_a_model_and_an_adapter_for_every_variant() -> None:
    file = load_pipeline("reading", need_profile=False)
    assert [spec.variants for spec in file.tree] == [
        ("d320", "d480", "d640", "d800"),
        ("rt96", "rt128", "rt160", "rs160q", "rs240q", "rs240"),
    ]
    assert set(file.models) == {(spec.name, variant) for spec in file.tree for variant in spec.variants}
    spec = file.models["recognition", "rs160q"]
    assert (spec.model, spec.options["width"]) == ("rec_small_int8", 160)
    assert spec.adapter == "loki_rl.reading.recognition:TextRecognition"


def test_traffic_has_the_two_swapped_accuracies_corrected() -> None:
    accuracy = {variant.name: variant.accuracy for variant in load_pipeline("traffic").pipeline.tasks[0].variants}
    assert accuracy["yolov5s"] == pytest.approx(0.7377, abs=1e-4)
    assert accuracy["yolov5m"] == pytest.approx(0.8955, abs=1e-4)
    assert list(accuracy) == sorted(accuracy, key=lambda name: accuracy[name])


def test_social_says_that_its_mix_is_assumed() -> None:
    pipeline = load_pipeline("social").pipeline
    assert pipeline.provenance == "assumed"
    assert [pipeline.tasks[entry].entry for entry in pipeline.entries] == [1.0, 0.5]
    slowest = max(variant.latency[1].p50 for task in pipeline.tasks for variant in task.variants)
    assert slowest < pipeline.slo_s / 2


def _reference(name: str) -> list[dict[str, str]]:
    with (REFERENCE / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", ["traffic", "traffic-published", "social"])
def test_figures_are_those_published(name: str) -> None:
    pipeline = load_pipeline(name).pipeline
    swapped = {} if name == "traffic-published" else {"yolov5s": "yolov5m", "yolov5m": "yolov5s"}
    rows = _reference("profiles_1080ti.csv")
    accuracy = {row["variant"]: float(row["accuracy_pct"]) / 100 for row in rows}
    seen = set()
    for row in rows:
        if row["task"] not in pipeline.index or (name, row["variant"]) == ("traffic-published", "yolov5s"):
            continue
        variant = pipeline.variant(row["task"], row["variant"])
        latency = variant.latency[int(row["batch"])]
        assert 1000 * latency.p50 == pytest.approx(float(row["p50_ms"]))
        assert 1000 * latency.p95 == 1000 * latency.p99 == pytest.approx(float(row["p95_ms"]))
        assert variant.accuracy == pytest.approx(accuracy[swapped.get(variant.name, variant.name)])
        seen.add((row["task"], variant.name, int(row["batch"])))
    shipped = {(task.name, one.name, batch) for task in pipeline.tasks for one in task.variants for batch in one.latency}
    assert shipped == seen


@pytest.mark.parametrize("name", ["traffic", "traffic-published"])
def test_fanouts_are_those_published(name: str) -> None:
    means = {row["variant"]: row for row in _reference("fanout.csv")}
    for variant in load_pipeline(name).pipeline.tasks[0].variants:
        for child, mean in variant.fanout.items():
            assert mean == float(means[variant.name][child])
