"""Whether *reading* really runs on a device, and how well, as one JSON object: the provider of every session, outputs
against the CPU's, models that are swapped under load, a profile, and `serve` with a `replay` against it.

`make gpu-check` asks for the GPU; with --device cpu every step runs on the CPU, which checks the check. Exit code 1 if a
step fails; what failed says so in its own entry.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace

from loki_rl.core.options import ClusterOptions
from loki_rl.core.plan import Placement, Plan, Snapshot
from loki_rl.files.config import PipelineFile, load_pipeline
from loki_rl.reading.models import fetch_reading, font_files
from loki_rl.reading.quality import encoded, true_crops
from loki_rl.reading.scenes import render
from loki_rl.serving.engines.adapter import Array
from loki_rl.serving.engines.engine import EngineError
from loki_rl.serving.engines.onnx_engine import OnnxEngine
from loki_rl.serving.engines.sessions import choose_devices
from loki_rl.serving.load.replay import replay
from loki_rl.serving.process.launch import LocalPlane
from loki_rl.serving.profiling.profile import profile, quick_request
from loki_rl.serving.profiling.workload import entry_payloads
from loki_rl.serving.transport.listening import hold

TOLERANCE = 1e-2
SIZES = (1, 2, 4)
SWAP_RPS, SWAP_S, SWAP_EVERY_S = 4.0, 12.0, 3.0

Found = dict[str, Any]


class Check:
    """Everything that a step needs. device: as asked for; file: of the pipeline, with the profile that goes with it."""

    def __init__(self, device: str, seconds: float, folder: Path) -> None:
        self.device = device
        self.seconds = seconds
        self.folder = folder
        self.file: PipelineFile = load_pipeline("reading")
        self.chosen = choose_devices(device)
        sizes = dict.fromkeys(self.file.models, SIZES)
        padded = self.chosen[0].on_gpu
        self.engine = OnnxEngine(self.file.models, self.file.repository, self.chosen[0].name, sizes=sizes, padded=padded)
        self.reference = OnnxEngine(self.file.models, self.file.repository, "cpu", sizes=sizes)
        self.profile = folder / "profile.json"

    def payloads(self, task: str) -> list[Array]:
        scenes = [render(number, 3, font_files(self.file.repository)) for number in range(3)]
        return [encoded(scene) for scene in scenes] if task == "detection" else true_crops(scenes)[:3]


# -- the steps ------------------------------------------------------------------------------------------------------------


def provider(check: Check) -> Found:
    """Every variant's session runs where it was asked to; ONNX Runtime falls back without a word."""
    wanted = check.chosen[0].provider
    loads, elsewhere = {}, {}
    for task, variant in check.file.models:
        loads[f"{task}/{variant}"] = round(1000 * check.engine.load(task, variant), 1)
        got = check.engine.residents[task, variant].session.get_providers()
        if got[0] != wanted:
            elsewhere[f"{task}/{variant}"] = got
    return {"ok": not elsewhere, "wanted": wanted, "elsewhere": elsewhere, "load_ms": loads}


def outputs(check: Check) -> Found:
    """Raw outputs for the same inputs, padded batches too."""
    worst = {}
    for task, variant in check.file.models:
        pair = [_raw(engine, task, variant, check.payloads(task)) for engine in (check.reference, check.engine)]
        worst[f"{task}/{variant}"] = max(float(np.max(np.abs(a - b))) for a, b in zip(*pair, strict=True))
        check.reference.unload(task, variant)
    return {"ok": max(worst.values()) <= TOLERANCE, "tolerance": TOLERANCE, "largest_difference": worst}


def _raw(engine: OnnxEngine, task: str, variant: str, payloads: list[Array]) -> list[Array]:
    """What the session gives for each payload, before the adapter makes boxes or text of it."""
    engine.load(task, variant)
    resident = engine.residents[task, variant]
    items = [resident.adapter.prepare(payload).inputs for payload in payloads]
    found = engine.infer(resident, items, engine.padded_size(task, variant, len(items)))
    return [row for rows in found for row in rows.values()]


def profiled(check: Check) -> Found:
    """Times of every variant and batch; also what serving goes by below."""
    known = check.file.measured
    if known is None:
        raise EngineError("pipeline 'reading' names no profile whose accuracies could be taken")
    made = profile(check.file, quick_request(check.file, known, check.chosen[0].name), lambda *_: None)
    made.save(check.profile)
    rows = {f"{row.task}/{row.variant} b{row.batch}": round(row.p50_ms, 3) for row in made.variants}
    return {"ok": bool(rows), "device": made.device, "ort": made.ort_version, "p50_ms": rows}


class Alternating:
    """Plans in turn, one at each question."""

    def __init__(self, plans: list[Plan]) -> None:
        self._plans = plans
        self._asked = 0

    def decide(self, _: Snapshot) -> Plan:
        self._asked += 1
        return self._plans[self._asked % len(self._plans)]


def alternating(_name: str, _cluster: object, options: dict[str, Any]) -> Alternating:
    """The policy factory that the controller's process calls."""
    return Alternating(msgspec.convert(options["plans"], list[Plan]))


def swapped(check: Check) -> Found:
    """Both workers change their models every few seconds while requests come: none is lost, all are answered in time."""
    pipeline = replace(load_pipeline("reading", profile=check.profile).pipeline, slo_s=5.0)
    # Three: a server keeps two models, so between two it would not have to load.
    plans = [alternating_plan(*names) for names in (("d320", "rt96"), ("d480", "rt128"), ("d640", "rt160"))]
    times = np.arange(0.0, SWAP_S, 1 / SWAP_RPS)
    with LocalPlane(
        ClusterOptions(pipeline, 2, interval_s=SWAP_EVERY_S),
        engine="onnx",
        pipeline_file=str(check.file.path),
        device=check.device,
        policy="alternating",
        policy_factory="benchmarks.gpu_check:alternating",
        policy_options={"plans": msgspec.to_builtins(plans)},
    ) as plane:
        seen = replay(plane.front, pipeline.name, times, entry_payloads(check.file, 60, 1, "cpu"), pipeline.slo_s).figures
    lost = len(times) - seen.arrivals
    return {
        "ok": lost == 0 and seen.ok == seen.arrivals and bool(seen.switches),
        "requests": len(times),
        "answered_in_time": seen.ok,
        "model_loads": seen.switches,
        "p50_ms": round(seen.p50_ms, 1),
        "p99_ms": round(seen.p99_ms, 1),
    }


def alternating_plan(detector: str, recogniser: str) -> Plan:
    placed = (Placement("detection", detector, 1, 1), Placement("recognition", recogniser, 4, 1))
    flows = {"detection": {detector: 1.0}, "recognition": {recogniser: 1.0}}
    split = {"detection": 0.5, "recognition": 1.0}
    return Plan("accuracy", placed, 2, 0.5, 1.0, SWAP_RPS, 2 * SWAP_RPS, split, flows)


def served(check: Check) -> Found:
    """The commands as a user types them."""
    held = hold("127.0.0.1", 0)
    port = held.getsockname()[1]
    trace = check.folder / "steady.csv"
    trace.write_text("t_seconds,requests\n" + "".join(f"{s},4\n" for s in range(round(check.seconds))))
    with _serving(check, port) as process:
        replayed = _loki("replay", "--url", f"http://127.0.0.1:{port}", "--pipeline", "reading", "--trace", str(trace))
        process.send_signal(signal.SIGTERM)
        account = json.loads(process.communicate(timeout=120)[0])
    adds_up = account["arrivals"] == sum(
        account[name] for name in ("ok", "late", "dropped", "rejected", "cancelled", "failed")
    )
    return {
        # Not how many were in time: a busy host decides that.
        "ok": adds_up and replayed["arrivals"] == account["arrivals"] and replayed["ok"] > 0 == account["failed"],
        "replay": {name: replayed[name] for name in ("arrivals", "ok", "accuracy", "p50_ms", "p99_ms")},
        "serve": {name: account[name] for name in ("arrivals", "ok", "accuracy", "servers_mean")},
    }


@contextmanager
def _serving(check: Check, port: int) -> Iterator[subprocess.Popen[str]]:
    flags = ["--device", check.device, "--workers", "2", "--profile", str(check.profile), "--http-port", str(port)]
    command = [sys.executable, "-m", "loki_rl", "serve", "reading", *flags, "--drain-s", "0", "--any-profile", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        _wait_for(port, process)
        yield process
    finally:
        process.kill()
        process.wait()


def _wait_for(port: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise EngineError(f"'loki-rl serve' does not listen on port {port}")


def _loki(*arguments: str) -> Found:
    command = [sys.executable, "-m", "loki_rl", *arguments, "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise EngineError(f"loki-rl {arguments[0]} failed: {done.stderr.strip().splitlines()[-1]}")
    found: Found = json.loads(done.stdout)
    return found


STEPS: dict[str, Callable[[Check], Found]] = {
    "provider": provider, "outputs": outputs, "profile": profiled, "swap": swapped, "serve": served,
}  # fmt: skip


def run(device: str, seconds: float) -> Found:
    """All steps; one that cannot be done is a failure with its reason, and the others go on."""
    report: Found = {"device": device, "cores": os.cpu_count()}
    with TemporaryDirectory() as folder:
        try:
            fetch_reading(load_pipeline("reading", need_profile=False).repository, lambda *_: None)
            check = Check(device, seconds, Path(folder))
        except Exception as error:
            return report | {"ok": False, "error": str(error)}
        for name, step in STEPS.items():
            began = time.monotonic()
            try:
                report[name] = step(check)
            except Exception as error:
                report[name] = {"ok": False, "error": f"{type(error).__name__}: {error}"}
            report[name]["seconds"] = round(time.monotonic() - began, 1)
    report["ok"] = all(report[name]["ok"] for name in STEPS)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, cuda:0,1, or cpu to check the check")
    parser.add_argument("--seconds", type=float, default=8.0, help="of requests against 'serve'")
    chosen = parser.parse_args()
    report = run(chosen.device, chosen.seconds)
    print(json.dumps(report, indent=1))
    sys.exit(0 if report["ok"] else 1)


if __name__ == "__main__":
    main()
