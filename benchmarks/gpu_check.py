"""Whether *reading* really runs on a device, and how well, as one JSON object (benchmarks/gpu_report.py): the provider of
every session, outputs against the CPU's, a profile, models that are swapped under load, `serve` with a `replay` against it,
and the plane beside its twin.

`make gpu-check` asks for the GPU; with --device cpu every step runs on the CPU, which checks the check. Exit code 1 if a
step fails; what failed says so in its own entry.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort
from msgspec.structs import replace

from benchmarks.gpu_report import Equality, Figure, Profile, Provider, Report, Serve, Step, Swap, Twin
from benchmarks.parity import real
from loki_rl.core.options import ClusterOptions
from loki_rl.core.plan import Placement, Plan, Snapshot
from loki_rl.fidelity.comparison import Told
from loki_rl.fidelity.gate import Attempt, held
from loki_rl.files.config import PipelineFile, load_pipeline
from loki_rl.reading.models import fetch_reading, font_files
from loki_rl.reading.quality import encoded, true_crops
from loki_rl.reading.scenes import render
from loki_rl.runs.options import RunOptions
from loki_rl.serving.engines.adapter import Array
from loki_rl.serving.engines.engine import EngineError
from loki_rl.serving.engines.hardware import device_name
from loki_rl.serving.engines.onnx_engine import OnnxEngine
from loki_rl.serving.engines.sessions import choose_devices
from loki_rl.serving.load.replay import replay
from loki_rl.serving.process.launch import LocalPlane
from loki_rl.serving.profiling.profile import profile, quick_request
from loki_rl.serving.profiling.workload import entry_payloads
from loki_rl.serving.transport.listening import hold

SIZES = (1, 2, 4)
SWAP_RPS, SWAP_S, SWAP_EVERY_S = 4.0, 12.0, 3.0

Json = dict[str, Any]


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


def provider(check: Check) -> Provider:
    """Every variant's session runs where it was asked to; ONNX Runtime falls back without a word."""
    wanted = check.chosen[0].provider
    loads, elsewhere = {}, {}
    for task, variant in check.file.models:
        loads[f"{task}/{variant}"] = round(1000 * check.engine.load(task, variant), 1)
        got = check.engine.residents[task, variant].session.get_providers()
        if got[0] != wanted:
            elsewhere[f"{task}/{variant}"] = got
    return Provider(wanted, elsewhere, loads)


def equality(check: Check) -> Equality:
    """Raw outputs for the same inputs, padded batches too."""
    worst = {}
    for task, variant in check.file.models:
        pair = [_raw(engine, task, variant, check.payloads(task)) for engine in (check.reference, check.engine)]
        worst[f"{task}/{variant}"] = max(float(np.max(np.abs(a - b))) for a, b in zip(*pair, strict=True))
        check.reference.unload(task, variant)
    return Equality(worst)


def _raw(engine: OnnxEngine, task: str, variant: str, payloads: list[Array]) -> list[Array]:
    """What the session gives for each payload, before the adapter makes boxes or text of it."""
    engine.load(task, variant)
    resident = engine.residents[task, variant]
    items = [resident.adapter.prepare(payload).inputs for payload in payloads]
    found = engine.infer(resident, items, engine.padded_size(task, variant, len(items)))
    return [row for rows in found for row in rows.values()]


def profiled(check: Check) -> Profile:
    """Times of every variant and batch; also what serving goes by below."""
    known = check.file.measured
    if known is None:
        raise EngineError("pipeline 'reading' names no profile whose accuracies could be taken")
    made = profile(check.file, quick_request(check.file, known, check.chosen[0].name), lambda *_: None)
    made.save(check.profile)
    rows = {f"{row.task}/{row.variant} b{row.batch}": round(row.p50_ms, 3) for row in made.variants}
    return Profile(made.device, rows)


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


def swapped(check: Check) -> Swap:
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
    return Swap(len(times), seen.arrivals, seen.ok, seen.switches or 0, round(seen.p50_ms, 1), round(seen.p99_ms, 1))


def alternating_plan(detector: str, recogniser: str) -> Plan:
    placed = (Placement("detection", detector, 1, 1), Placement("recognition", recogniser, 4, 1))
    flows = {"detection": {detector: 1.0}, "recognition": {recogniser: 1.0}}
    split = {"detection": 0.5, "recognition": 1.0}
    return Plan("accuracy", placed, 2, 0.5, 1.0, SWAP_RPS, 2 * SWAP_RPS, split, flows)


def served(check: Check) -> Serve:
    """The commands as a user types them."""
    held = hold("127.0.0.1", 0)
    port = held.getsockname()[1]
    trace = check.folder / "steady.csv"
    trace.write_text("t_seconds,requests\n" + "".join(f"{s},4\n" for s in range(round(check.seconds))))
    with _serving(check, port) as process:
        replayed = _loki("replay", "--url", f"http://127.0.0.1:{port}", "--pipeline", "reading", "--trace", str(trace))
        process.send_signal(signal.SIGTERM)
        account = json.loads(process.communicate(timeout=120)[0])
    return Serve(
        replayed["arrivals"],
        replayed["ok"],
        replayed["accuracy"],
        replayed["p50_ms"],
        replayed["p99_ms"],
        account["arrivals"],
        {name: account[name] for name in ("ok", "late", "dropped", "rejected", "cancelled", "failed")},
    )


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


def _loki(*arguments: str) -> Json:
    command = [sys.executable, "-m", "loki_rl", *arguments, "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise EngineError(f"loki-rl {arguments[0]} failed: {done.stderr.strip().splitlines()[-1]}")
    found: Json = json.loads(done.stdout)
    return found


def twinned(check: Check) -> Twin:
    """As `make parity` asks, of this device."""
    options = RunOptions("reading", "", "static", "onnx", device=check.device, profile=str(check.profile))
    tries: list[Attempt | str] = []
    held(lambda number: real(options, check.folder, 10 * number), tries.append)
    latest = tries[-1]
    if isinstance(latest, str):
        raise EngineError(f"the twin cannot be calibrated: {latest}")
    return Twin(latest.answer, len(tries), [_figure(row) for row in latest.found.rows])


def _figure(row: Told) -> Figure:
    between = row.difference
    return Figure(row.name, row.unit, row.plane, row.twin, between.value, between.low, between.high, row.bar, row.verdict)


STEPS: dict[str, Callable[[Check], Provider | Equality | Profile | Swap | Serve | Twin]] = {
    "provider": provider, "equality": equality, "profile": profiled, "swap": swapped, "serve": served, "twin": twinned,
}  # fmt: skip


def run(device: str, seconds: float, steps: Sequence[str]) -> Report:
    """These steps; one that cannot be made is a failure with its reason, and the others go on."""
    report = Report(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=_commit(),
        device=device,
        cores=os.cpu_count() or 0,
        python=platform.python_version(),
        onnxruntime=ort.__version__,
    )
    with TemporaryDirectory() as folder:
        try:
            fetch_reading(load_pipeline("reading", need_profile=False).repository, lambda *_: None)
            check = Check(device, seconds, Path(folder))
            report.hardware = device_name(check.chosen[0])
        except Exception as error:
            report.error = str(error)
            return report
        made = [_made(check, name) for name in steps]
        for name, step in zip(steps, made, strict=True):
            setattr(report, name, step)
        report.ok = all(step.ok for step in made)
    return report


def _made(check: Check, name: str) -> Step[Any]:
    print(f"{name} ...", file=sys.stderr, flush=True)
    began = time.monotonic()
    try:
        found = STEPS[name](check)
    except Exception as error:
        return Step(False, round(time.monotonic() - began, 1), error=f"{type(error).__name__}: {error}")
    return Step(found.ok, round(time.monotonic() - began, 1), found)


def _commit() -> str:
    """Of the sources, with a + where they differ from it; empty where git does not tell."""
    told = subprocess.run(["git", "describe", "--always", "--dirty=+"], check=False, capture_output=True, text=True)
    return told.stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, cuda:0,1, or cpu to check the check")
    parser.add_argument("--seconds", type=float, default=8.0, help="of requests against 'serve'")
    parser.add_argument("--steps", default=",".join(STEPS), help="which, separated by commas; profile before what serves")
    parser.add_argument("--out", type=Path, help="write the report here too")
    chosen = parser.parse_args()
    unknown = set(chosen.steps.split(",")) - STEPS.keys()
    if unknown:
        parser.error(f"there is no step {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
    report = run(chosen.device, chosen.seconds, chosen.steps.split(","))
    text = msgspec.json.format(msgspec.json.encode(report), indent=1).decode() + "\n"
    if chosen.out is not None:
        chosen.out.write_text(text)
    print(text, end="")
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
