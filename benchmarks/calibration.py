"""How near a twin is to a plane, with a calibration and without: planes are recorded and a twin fitted to them, then both
play what was not recorded: another policy, seed and load. Real models are played where they are there."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from benchmarks.host import load_average
from loki_rl.calibration.fit import calibrate, read_recordings
from loki_rl.cli.results import need_models
from loki_rl.control.policies.named import make_policy
from loki_rl.env.simulate import simulate
from loki_rl.errors import UserError
from loki_rl.flight.columns import Collector, Flight, read_flight
from loki_rl.flight.sifter import Sifter
from loki_rl.runs.options import RunOptions
from loki_rl.runs.recorded.recording import RECORDING
from loki_rl.runs.run import prepare, run_plane

LEVELS = {"p50 ms": 0.5, "p95 ms": 0.95, "p99 ms": 0.99}


class Case(Struct):
    """learned: runs that the calibration is fitted to. judged: what is compared."""

    name: str
    learned: list[RunOptions]
    judged: list[RunOptions]


class Seen(Struct):
    """Of one run."""

    what: str
    violations: float
    accuracy: float
    servers: float
    latencies_ms: list[float]


def cases(seconds: float) -> list[Case]:
    """Emulated workers, and real models."""
    traffic = RunOptions("traffic", "flash_crowd", "exact", "emulated", from_s=100.0 - seconds, to_s=100.0)
    reading = RunOptions("reading", "flash_crowd", "exact", "onnx", from_s=100.0 - seconds, to_s=100.0, device="cpu")
    return [
        Case(
            "traffic, 20 emulated workers",
            [replace(traffic, mean_rps=150.0, seed=1)],
            [replace(traffic, policy=policy, mean_rps=200.0, seed=2) for policy in ("exact", "loki")],
        ),
        Case(
            "reading, 2 workers with real models",
            [replace(reading, mean_rps=3.0, seed=1), replace(reading, policy="loki", mean_rps=6.0, seed=3)],
            [replace(reading, policy=policy, mean_rps=4.0, seed=2) for policy in ("exact", "hardware")],
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of every run")
    parser.add_argument("--only", default="", help="pipeline")
    asked = parser.parse_args()
    for case in cases(asked.seconds):
        first = case.learned[0]
        if asked.only not in ("", first.pipeline):
            continue
        try:
            need_models(first, first.driver)
        except UserError as error:
            print(f"{case.name}: {error}")
            continue
        print(f"{case.name}; {load_average()}")
        with TemporaryDirectory() as folder:
            play(case, Path(folder))


def play(case: Case, folder: Path) -> None:
    """Record, fit, and compare."""
    for number, options in enumerate(case.learned):
        run_plane(options, folder / f"learned-{number}")
    files = [folder / f"learned-{number}" / RECORDING for number in range(len(case.learned))]
    found = calibrate(read_recordings(files), "benchmarks/calibration.py")
    found.save(folder / "calibration.json")
    speeds, mood = ", ".join(f"{speed:.2f}" for speed in dict.fromkeys(found.contention.speeds)), found.mood
    print(f"speed of each beside others: {speeds}; in common: {mood.share:.0%} for {mood.memory_s:.1f} s")
    for number, options in enumerate(case.judged):
        run_plane(options, folder / f"judged-{number}")
        print(f"policy {options.policy}, {options.mean_rps:g} requests/s, seed {options.seed}")
        plain = replace(options, driver="twin")
        plane = read_flight(folder / f"judged-{number}" / RECORDING)[1]
        tell(
            [
                seen("plane", plane),
                seen("twin", flown(plain)),
                seen("twin, calibrated", flown(replace(plain, calibration=str(folder / "calibration.json")))),
            ]
        )


def flown(options: RunOptions) -> Flight:
    """A run of the twin as a recording shows it."""
    scene, collector = prepare(options), Collector()
    sifter = Sifter(lambda row: collector.add([row]), scene.pipeline)
    policy = make_policy(options.policy, scene.pipeline, scene.policy)
    simulate(scene.cluster, policy.decide, scene.times, scene.duration_s, record=sifter.record, habits=scene.habits)
    return collector.flight()


def seen(what: str, flight: Flight) -> Seen:
    """What the gateway saw from time 0 on."""
    assert flight.origin is not None
    answers = flight.answers[flight.answers["at"] - flight.answers["latency_s"] >= flight.origin - 1e-6]
    ok = answers[answers["outcome"] == 0]
    used = flight.usage[flight.usage["second"] >= 0]["servers"]
    quantiles = np.quantile(ok["latency_s"], list(LEVELS.values())) * 1000
    return Seen(what, 1 - len(ok) / len(answers), float(ok["accuracy"].mean()), float(used.mean()), quantiles.tolist())


def tell(rows: Sequence[Seen]) -> None:
    print(f"{'':18}{'violations':>12}{'accuracy':>10}{'servers':>9}" + "".join(f"{name:>9}" for name in LEVELS))
    for row in rows:
        latencies = "".join(f"{latency:>9.1f}" for latency in row.latencies_ms)
        print(f"{row.what:18}{row.violations:>12.2%}{row.accuracy:>10.2%}{row.servers:>9.2f}{latencies}", flush=True)


if __name__ == "__main__":
    main()
