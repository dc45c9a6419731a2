"""What a check of a device tells: one JSON object of known shape (docs/gpu-report.schema.json), and the rows for
docs/results.md.

    python -m benchmarks.gpu_report REPORT.json     # as a table
    python -m benchmarks.gpu_report --schema        # the schema
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Generic, TypeVar

import msgspec
from msgspec import Struct

from loki_rl.decoding import UNREADABLE
from loki_rl.fidelity.verdict import Answer

VERSION = 1
# Outputs of a device may differ by so much from the CPU's.
TOLERANCE = 1e-2


class Provider(Struct, forbid_unknown_fields=True):
    """Where sessions run. elsewhere: TASK/VARIANT -> the providers of those that ONNX Runtime took away from `wanted`."""

    wanted: str
    elsewhere: dict[str, list[str]]
    load_ms: dict[str, float]

    @property
    def ok(self) -> bool:
        return bool(self.load_ms) and not self.elsewhere


class Equality(Struct, forbid_unknown_fields=True):
    """TASK/VARIANT -> the largest difference of any output from the CPU's, padded batches too."""

    largest_difference: dict[str, float]
    tolerance: float = TOLERANCE

    @property
    def ok(self) -> bool:
        return bool(self.largest_difference) and max(self.largest_difference.values()) <= self.tolerance


class Profile(Struct, forbid_unknown_fields=True):
    """TASK/VARIANT bN -> median time of a batch of N [ms]."""

    device: str
    p50_ms: dict[str, float]

    @property
    def ok(self) -> bool:
        return bool(self.p50_ms)


class Swap(Struct, forbid_unknown_fields=True):
    """Requests while both workers change their models again and again."""

    requests: int
    answered: int
    answered_in_time: int
    model_loads: int
    p50_ms: float
    p99_ms: float

    @property
    def ok(self) -> bool:
        return self.requests == self.answered == self.answered_in_time and self.model_loads > 0


class Serve(Struct, forbid_unknown_fields=True):
    """`serve` with `replay` against it: what the client counted, and what the plane accounted for."""

    sent: int
    sent_ok: int
    accuracy: float
    p50_ms: float
    p99_ms: float
    arrivals: int
    outcomes: dict[str, int]

    @property
    def ok(self) -> bool:
        """Not how many were in time: a busy host decides that."""
        adds_up = self.arrivals == self.sent == sum(self.outcomes.values())
        return adds_up and self.sent_ok > 0 == self.outcomes["failed"]


class Figure(Struct, forbid_unknown_fields=True):
    """One of plane and twin: its difference with the interval of it, and what it may be."""

    name: str
    unit: str
    plane: float | None
    twin: float | None
    difference: float | None
    low: float | None
    high: float | None
    bar: float | None
    verdict: Answer | None


class Twin(Struct, forbid_unknown_fields=True):
    """A plane beside a twin that is calibrated to another run of it. tries: runs that were made until one told something."""

    answer: Answer
    tries: int
    figures: list[Figure]

    @property
    def ok(self) -> bool:
        return self.answer == "within"


Found = TypeVar("Found", Provider, Equality, Profile, Swap, Serve, Twin)


class Step(Struct, Generic[Found], forbid_unknown_fields=True):
    """seconds: that it took. error: why nothing was found."""

    ok: bool
    seconds: float
    found: Found | None = None
    error: str | None = None


class Report(Struct, forbid_unknown_fields=True, kw_only=True):
    """device: as it was asked for; hardware: its name. created: ISO 8601. error: why no step could be made."""

    version: int = VERSION
    created: str
    commit: str
    device: str
    hardware: str = ""
    cores: int
    python: str
    onnxruntime: str
    ok: bool = False
    error: str | None = None
    provider: Step[Provider] | None = None
    equality: Step[Equality] | None = None
    profile: Step[Profile] | None = None
    swap: Step[Swap] | None = None
    serve: Step[Serve] | None = None
    twin: Step[Twin] | None = None


STEPS = ("provider", "equality", "profile", "swap", "serve", "twin")


def rows(report: Report) -> list[str]:
    """A report as lines of Markdown."""
    title = (
        f"{report.hardware or report.device}, {report.cores} cores, ONNX Runtime {report.onnxruntime}, {report.created[:10]}"
    )
    lines = [
        f"{title} (commit {report.commit}): {'ok' if report.ok else 'NOT ok'}",
        "",
        "| step | | figures |",
        "| :-- | :-- | :-- |",
    ]
    for name in STEPS:
        step: Step[Provider] | None = getattr(report, name)
        if step is None:
            lines.append(f"| {name} | not made | {report.error or ''} |")
        else:
            told = step.error if step.found is None else _said(step.found)
            lines.append(f"| {name} | {'ok' if step.ok else 'NOT ok'} | {told} |")
    return lines


def _said(found: Provider | Equality | Profile | Swap | Serve | Twin) -> str:
    match found:
        case Provider():
            return f"{found.wanted}: {len(found.load_ms)} models, slowest load {max(found.load_ms.values()):.0f} ms"
        case Equality():
            return f"outputs within {max(found.largest_difference.values()):.1e} of the CPU's"
        case Profile():
            return ", ".join(f"{name} {ms:.2f} ms" for name, ms in sorted(found.p50_ms.items()))
        case Swap():
            in_time = f"{found.answered_in_time} of {found.requests} in time"
            return f"{in_time} over {found.model_loads} loads, p99 {found.p99_ms:.0f} ms"
        case Serve():
            return f"{found.sent_ok} of {found.sent} in time, accuracy {found.accuracy:.3f}, p99 {found.p99_ms:.0f} ms"
        case Twin():
            beyond = [
                f"{row.name}: {row.plane} beside {row.twin} {row.unit}"
                for row in found.figures
                if row.verdict not in (None, "within")
            ]
            return f"{found.answer}; {'; '.join(beyond) or 'all figures within their bars'}"


def schema() -> bytes:
    return msgspec.json.format(msgspec.json.encode(msgspec.json.schema(Report)), indent=1) + b"\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", nargs="?", type=Path)
    parser.add_argument("--schema", action="store_true")
    given = parser.parse_args()
    if given.schema or given.report is None:
        sys.stdout.buffer.write(schema())
        return 0
    try:
        report = msgspec.json.decode(given.report.read_bytes(), type=Report)
    except (OSError, *UNREADABLE) as error:
        print(f"{given.report}: {error}; make it with 'make gpu-check'", file=sys.stderr)
        return 1
    print("\n".join(rows(report)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
