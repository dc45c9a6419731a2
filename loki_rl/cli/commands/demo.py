"""The main job, end to end, on this machine."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from loki_rl.cli import terminal
from loki_rl.cli.flags import Json
from loki_rl.demo.reading import reading
from loki_rl.demo.stage import Stage
from loki_rl.demo.traffic import traffic
from loki_rl.files.user_folders import writable
from loki_rl.options import Help
from loki_rl.runs.options import Device
from loki_rl.runs.result import RunResult, row


def demo(
    folder: Annotated[Path, Help("Where to write.")] = Path("demo"),
    device: Device = "auto",
    part: Annotated[Literal["both", "a", "b"], Help("Only real models (a), or only emulated servers (b).")] = "both",
    as_json: Json = False,
) -> None:
    """The main job: real models and 20 emulated workers meet a flash crowd, in plane and twin."""
    writable(folder)
    stage = Stage(folder, device, partial(terminal.shown, stderr=as_json), terminal.progress_bars)
    results: list[RunResult] = []
    if part != "b":
        stage.show("[bold]Part A: reading.[/] Real models find and read text in pictures; 2 ONNX workers.")
        results += reading(stage).results
    if part != "a":
        stage.show("\n[bold]Part B: traffic.[/] 20 emulated workers with published service times.")
        results += traffic(stage)
    stage.show(f"\nCurves of all runs, plane over twin: tensorboard --logdir {folder}")
    terminal.say({"results": [row(done) for done in results]}, as_json, lambda: None)
