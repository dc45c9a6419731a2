"""What determines a run. Flags of commands, run.json and the reference are made of these fields."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from loki_rl.control.formulation.request import Queueing, Solver
from loki_rl.core.options import DropPolicy, Routing
from loki_rl.env.faults import NO_FAULTS, Faults
from loki_rl.files.config import PipelineFile, load_pipeline
from loki_rl.options import (
    MOST_HEADROOM,
    CalibrationFile,
    Fraction,
    Help,
    Interval,
    LoadTime,
    NotNegative,
    PipelineName,
    Rate,
    Seed,
    Servers,
    Slo,
)
from loki_rl.traces.trace import TraceOptions

Driver = Literal["twin", "emulated", "onnx"]
PoolName = Annotated[
    str | None, Help("Pool file of server types, or the name of one in pipelines/pools/, instead of a number of servers.")
]
QueueingName = Annotated[Queueing | None, Help("Latency model (default: the policy's own; tail where there is none).")]
SolverName = Annotated[Solver, Help("Who plans: our own search, or HiGHS on the model written down in PuLP.")]
Headroom = Annotated[
    Annotated[float, Meta(ge=0, le=MOST_HEADROOM)] | None,
    Help("Share of demand added before planning (default: the policy's own)."),
]
ProfileName = Annotated[str | None, Help("Profile to use instead of the one that the pipeline file names.")]
Device = Annotated[
    str,
    Help("auto, cpu, cpu+4 (threads a worker), cuda, cuda:0,1, cuda+graphs:0 (CUDA graphs), tensorrt:0 or tensorrt+fp16:0."),
]
POLICY_NAMES = "static, hardware, proteus, loki, exact, forecast, learned, ppo, clairvoyant"


class RunOptions(TraceOptions, frozen=True, forbid_unknown_fields=True):
    """Everything that determines a run; `run.json` holds exactly this, and repeats it. faults: what goes wrong in the
    twin."""

    pipeline: PipelineName
    trace: Annotated[str, Help("Trace file, or the name of one that ships (flash_crowd, diurnal, mmpp).")] = "flash_crowd"
    policy: Annotated[str, Help(f"One of {POLICY_NAMES}.")] = "exact"
    driver: Annotated[Driver, Help("Where it is played: in the event twin, or on a plane of this host.")] = "twin"
    seed: Seed = 0
    servers: Servers = None
    pool: PoolName = None
    slo_ms: Annotated[Slo | None, Help("End-to-end deadline [ms] (default: as in the pipeline file).")] = None
    interval_s: Annotated[
        Interval | None,
        Help("Time between plans [s] (default: the policy's own, 1 for exact, learned, ppo and clairvoyant, else 10)."),
    ] = None
    drop: Annotated[DropPolicy, Help("Which tasks drop what cannot be in time any more.")] = "reroute"
    routing: Annotated[
        Routing, Help("Workers pull from their task's queue (pull), or a table deals to each worker's own (table).")
    ] = "pull"
    load_s: LoadTime = None
    queueing: QueueingName = None
    solver: SolverName = "search"
    headroom: Headroom = None
    min_accuracy: Annotated[Fraction, Help("Least mean accuracy of what is served.")] = 0.0
    initial_rps: Annotated[
        Rate | None,
        Help("Demand of the first plan [1/s] (default: the rate of the first 10 s of the trace; without a trace 1)."),
    ] = None
    caution: Annotated[
        NotNegative,
        Help("Room for crowds never seen here, times what they are likely to cost (0: believe only what was seen)."),
    ] = 1.0
    history: Annotated[str | None, Help("File of what demand was like before, for policy exact (see loki-rl history).")] = (
        None
    )
    demand_rps: Annotated[
        Rate | None, Help("Demand that policy static plans for [1/s] (default: that of the trace's busiest 10 s).")
    ] = None
    parallel_loads: Annotated[
        Annotated[int, Meta(ge=0)], Help("Servers that may leave their model at once (0: as many as can be spared).")
    ] = 0
    device: Device = "auto"
    faults: Faults = NO_FAULTS
    calibration: CalibrationFile = None
    profile: ProfileName = None
    model: Annotated[str | None, Help("Trained agent (agent.npz) for the policies learned and ppo; none is shipped.")] = None

    @property
    def file(self) -> PipelineFile:
        """The pipeline as these options want it. Raises ConfigError."""
        profile = None if self.profile is None else Path(self.profile)
        return load_pipeline(self.pipeline, profile=profile, slo_ms=self.slo_ms)


def read_options(text: bytes) -> RunOptions:
    """Options from a run.json. Raises what decoding.UNREADABLE has, and names the key at fault."""
    return msgspec.json.decode(text, type=RunOptions)
