"""The paper's evaluation as one command. Owns its order, how its runs share the cores, and its report; must not know what a
study is about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import msgspec

from loki_rl.config import PipelineFile
from loki_rl.runs import RunOptions, RunResult, prepare, run_twin
from loki_rl.studies import STUDIES, Study, Subject

REPORT, RESULTS = "paper.md", "paper.json"
NOTHING = "could not be reproduced"


def paper_suite(
    options: RunOptions, logdir: Path, seeds: Sequence[int], jobs: int, progress: Callable[[str], None]
) -> dict[str, object]:
    """Make every study for the pipeline of these options, and write paper.md and paper.json into the log folder.

    Returns what paper.json holds. Raises as `prepare` does.
    """
    logdir.mkdir(parents=True, exist_ok=True)
    scene = prepare(options)
    made: list[Study] = []
    with _pool(jobs) as pool:

        def play(cases: Sequence[RunOptions]) -> list[RunResult]:
            return list(map(run_twin, cases) if pool is None else pool.map(run_twin, cases))

        subject = Subject(options, scene.pipeline, scene.cluster.servers, tuple(seeds), logdir, play)
        for number, study in enumerate(STUDIES, 1):
            progress(f"[{number}/{len(STUDIES)}] {study.__name__.replace('_', ' ')}")
            made.append(study(subject))
    found = _document(scene.file, made)
    (logdir / RESULTS).write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    (logdir / REPORT).write_text(markdown(found, made), encoding="utf-8")
    return {**found, "report": str(logdir / REPORT)}


class _Here:
    """No pool: runs stay in this process."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


def _pool(jobs: int) -> _Here | ProcessPoolExecutor:
    return _Here() if jobs == 1 else ProcessPoolExecutor(jobs, mp_context=get_context("spawn"))


def _document(file: PipelineFile, made: Sequence[Study]) -> dict[str, object]:
    return {
        "suite": "paper",
        "pipeline": file.name,
        "provenance": file.provenance,
        "source": file.source,
        "claims": [msgspec.to_builtins(claim) for study in made for claim in study.claims],
        "studies": [msgspec.to_builtins(study) for study in made],
    }


def markdown(found: dict[str, object], made: Sequence[Study]) -> str:
    """The report: claims first, then a table a study."""
    lines = [
        f"# The paper's evaluation on *{found['pipeline']}*",
        "",
        f"Figures of the models: {found['provenance']}. {found['source']}",
    ]
    if found["provenance"] == "assumed":
        lines.append("**Nobody measured them: what follows shows how the system behaves, not how fast it is.**")
    lines += ["", "| claim | published | ours | how each is defined |", "| :-- | --: | --: | :-- |"]
    for claim in [claim for study in made for claim in study.claims]:
        ours = NOTHING if claim.ours is None else f"{claim.ours:.2f}x"
        lines.append(f"| {claim.name} | {claim.published} | {ours} | {claim.how} |")
    for study in made:
        lines += ["", f"## {study.title}", "", study.about, "", *_table(study)]
    return "\n".join(lines) + "\n"


def _table(study: Study) -> list[str]:
    rows = [[_cell(value) for value in row] for row in study.rows]
    head = [list(study.columns), [":--", *["--:"] * (len(study.columns) - 1)]]
    return [f"| {' | '.join(cells)} |" for cells in [*head, *rows]]


def _cell(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
