"""The report of a device check: its schema is the one that is documented, and it passes only what is so."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from msgspec import Struct
from msgspec.structs import replace

from benchmarks.gpu_report import Equality, Figure, Profile, Provider, Report, Serve, Step, Swap, Twin, rows, schema

ROOT = Path(__file__).parents[2]
GOOD: list[Struct] = [
    Provider("CPUExecutionProvider", {}, {"detection/d320": 12.0}),
    Equality({"detection/d320": 1e-6}),
    Profile("a processor", {"detection/d320 b1": 8.0}),
    Swap(48, 48, 48, 6, 40.0, 90.0),
    Serve(32, 30, 0.9, 40.0, 90.0, 32, {"ok": 30, "late": 2, "dropped": 0, "rejected": 0, "cancelled": 0, "failed": 0}),
    Twin("within", 1, [Figure("p50", "ms", 40.0, 41.0, 1.0, -1.0, 3.0, 5.0, "within")]),
]
# A change to one of them -> not ok.
WRONG: list[Struct] = [
    Provider("CUDAExecutionProvider", {"detection/d320": ["CPUExecutionProvider"]}, {"detection/d320": 12.0}),
    Provider("CUDAExecutionProvider", {}, {}),
    Equality({"detection/d320": 1e-6, "recognition/rt96": 0.5}),
    Profile("a processor", {}),
    Swap(48, 47, 47, 6, 40.0, 90.0),
    Swap(48, 48, 47, 6, 40.0, 90.0),
    Swap(48, 48, 48, 0, 40.0, 90.0),
    Serve(32, 30, 0.9, 40.0, 90.0, 31, {"ok": 30, "late": 1, "failed": 0}),
    Serve(32, 30, 0.9, 40.0, 90.0, 32, {"ok": 30, "late": 1, "failed": 0}),
    Serve(32, 30, 0.9, 40.0, 90.0, 32, {"ok": 30, "late": 1, "failed": 1}),
    Serve(32, 0, 0.0, 0.0, 0.0, 32, {"ok": 0, "late": 32, "failed": 0}),
    Twin("inconclusive", 3, []),
]


def report() -> Report:
    made = Report(
        created="2026-01-02T03:04:05+00:00", commit="abc", device="cpu", cores=2, python="3.11", onnxruntime="1.22", ok=True
    )
    for name, found in zip(("provider", "equality", "profile", "swap", "serve", "twin"), GOOD, strict=True):
        setattr(made, name, Step(True, 1.0, found))
    return made


def test_the_schema_in_the_docs_is_current() -> None:
    assert (ROOT / "docs" / "gpu-report.schema.json").read_bytes() == schema(), "python -m benchmarks.gpu_report --schema"


def test_a_report_is_read_as_it_was_written() -> None:
    made = report()
    assert msgspec.json.decode(msgspec.json.encode(made), type=Report) == made


@pytest.mark.parametrize("found", GOOD, ids=lambda found: type(found).__name__)
def test_what_is_so_is_ok(found: Struct) -> None:
    assert found.ok  # type: ignore[attr-defined]


@pytest.mark.parametrize("found", WRONG, ids=repr)
def test_what_is_not_so_is_not_ok(found: Struct) -> None:
    assert not found.ok  # type: ignore[attr-defined]


def test_a_report_is_told_by_step() -> None:
    told = rows(report())
    assert told[0] == "cpu, 2 cores, ONNX Runtime 1.22, 2026-01-02 (commit abc): ok"
    assert [line.split(" | ")[0] for line in told[4:]] == [
        f"| {name}" for name in ("provider", "equality", "profile", "swap", "serve", "twin")
    ]
    assert "outputs within 1.0e-06 of the CPU's" in told[5]
    assert "48 of 48 in time over 6 loads" in told[7]
    lost = replace(report(), ok=False, serve=Step[Serve](False, 2.0, error="EngineError: no port"), twin=None)
    assert rows(lost)[-2:] == ["| serve | NOT ok | EngineError: no port |", "| twin | not made |  |"]
