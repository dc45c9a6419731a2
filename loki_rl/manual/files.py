"""The page of all files that users write or commands leave: every key, from the structs that read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from loki_rl.env.faults import Crash, FaultsTable, Slow, Unloadable
from loki_rl.files import calibration_file, profile_file
from loki_rl.files.pipeline_yaml import FileTable, PathTable, TaskTable, VariantTable
from loki_rl.files.pool_file import PoolTable, TypeTable
from loki_rl.manual.keys import section
from loki_rl.reports.page import table
from loki_rl.traces.sources import FORMATS
from loki_rl.traces.trace import OWN, WISHES

Part = tuple[str, type[Struct]]

HEAD = """\
# Files

Made by `make reference` from the code that reads them. Files that people write are YAML, those that commands write are JSON;
an unknown key, a wrong type or a value out of range is one sentence that names the place. Paths start at the folder of the
file in which they stand. Names of commands' flags are in [reference.md](reference.md).
"""
PIPELINE = """\
What a pipeline is made of; YAML, no aliases and no tags, at most 256 KB. A bare name stands for `pipelines/NAME.yaml` of the
working folder, then for one that ships. [models.md](models.md#3-the-pipeline-file) has an example with models,
[traffic.yaml](../pipelines/traffic.yaml) one with figures alone.
"""
POOL = """\
Servers of several types for `--pool`; YAML. A bare name stands for one in `pipelines/pools/`:
[three-types.yaml](../pipelines/pools/three-types.yaml).
"""
FAULTS = "What goes wrong in a run of the twin, for `--faults`; YAML. An example: [faults.md](faults.md#in-the-twin)."
PROFILE = """\
What `loki-rl profile` measured on one device; JSON. Times replace what the pipeline file leaves out. Of a variant there is a
row for each batch size.
"""
LEVELS = ", ".join(f"{level:g}" for level in calibration_file.LEVELS)
CALIBRATION = f"""\
What `loki-rl calibrate` found in recordings of a plane; JSON, for `--calibration`
([evaluation.md](evaluation.md#a-twin-of-this-host)). Distributions are kept as quantiles, at the levels
{LEVELS}.
"""
TRACES = """\
Requests over time; CSV, packed where the name ends in `.gz`. The header says which format it is. Commands scale the demand
(`--mean-rps`, `--rate-scale`) and the clock (`--compress`); times inside a bin are drawn. A recording of a plane is a trace,
too.
"""
WISH_MEANINGS = {
    "priority": "as a client sends it: 1 is the highest, 0 none",
    "min_accuracy": "least accuracy that the request asks for",
    "retries": "how often its client comes again when told when (in the twin; each time is another arrival)",
}


PIPELINE_PARTS = (
    ("The file", FileTable),
    ("A task", TaskTable),
    ("A variant", VariantTable),
    ("A path's accuracy", PathTable),
)
POOL_PARTS = (("The pool", PoolTable), ("A type", TypeTable))
FAULTS_PARTS = (("All faults", FaultsTable), ("crashes", Crash), ("slow", Slow), ("unloadable", Unloadable))
PROFILE_PARTS = (
    ("The profile", profile_file.ProfileFile),
    ("variants", profile_file.Timing),
    ("loads", profile_file.Load),
    ("accuracies", profile_file.StageAccuracy),
    ("fanouts", profile_file.Fanout),
    ("paths", profile_file.PathAccuracy),
    ("capacity", profile_file.Capacity),
)
CALIBRATION_PARTS = (
    ("The calibration", calibration_file.Calibration),
    ("recordings", calibration_file.Recorded),
    ("services", calibration_file.ServiceTimes),
    ("profiled", calibration_file.Median),
    ("loads of a calibration", calibration_file.LoadTimes),
    ("fanouts of a calibration", calibration_file.Fanouts),
    ("delays", calibration_file.DelayTimes),
    ("plans", calibration_file.PlanTimes),
    ("contention", calibration_file.Contention),
    ("mood", calibration_file.Mood),
)


def files_page() -> str:
    """The whole page."""
    lines = [
        HEAD,
        *_chapter("Pipeline", PIPELINE, PIPELINE_PARTS),
        *_chapter("Pool", POOL, POOL_PARTS),
        *_traces(),
        *_chapter("Faults", FAULTS, FAULTS_PARTS),
        *_chapter("Profile", PROFILE, PROFILE_PARTS),
        *_chapter("Calibration", CALIBRATION, CALIBRATION_PARTS),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


def _chapter(title: str, text: str, parts: Sequence[Part]) -> Iterator[str]:
    yield from (f"## {title}", "", text.rstrip("\n"), "")
    for name, kind in parts:
        yield from section(name, kind)


def _traces() -> Iterator[str]:
    yield from ("## Traces", "", TRACES)
    yield from table(("header", "format"), ((f"`{one.header}`", one.title) for one in (*OWN, *FORMATS)))
    yield from ("", "Beside `t_ms` (one arrival a line, in order of time) may stand any of:", "")
    rows = ((f"`{name}`", f"{'whole ' if kind is int else ''}number from 0 to {most}", WISH_MEANINGS[name])
            for name, (kind, most) in WISHES.items())  # fmt: skip
    yield from table(("column", "type", "meaning"), rows)
    yield ""
