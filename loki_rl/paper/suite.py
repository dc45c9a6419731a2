"""The paper's evaluation as one command."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from loki_rl.errors import UserError
from loki_rl.files.config import PipelineFile
from loki_rl.paper.studies import STUDIES
from loki_rl.paper.study import Making, Runs, Study, Subject
from loki_rl.paper.study_chart import study_png
from loki_rl.reports.page import table, write_page
from loki_rl.reports.plots import PlotError, timeline_png
from loki_rl.runs.batch_runner import Case, Played
from loki_rl.runs.options import RunOptions
from loki_rl.runs.result import RunResult
from loki_rl.runs.run import prepare

REPORT, PAGE, RESULTS, RUNS = "paper.md", "paper.html", "paper.json", "paper"
NOTHING = "-"

Play = Callable[[Sequence[Case]], Played]


class SuiteError(UserError):
    """The evaluation cannot be finished; the message is one sentence that says which run failed and why."""


class Made(Struct, frozen=True):
    """A study with the runs that it came of."""

    study: Study
    runs: Runs


def paper_suite(options: RunOptions, logdir: Path, seeds: Sequence[int], play: Play) -> dict[str, object]:
    """Make every study for the pipeline of these options; write paper.md, paper.json and a page into the log folder.

    play: as batch_runner's, told how many at once. All runs of all studies are played together, each into a folder of its
    own. Returns what paper.json holds. Raises SuiteError if a run fails, and as `play` does.
    """
    logdir.mkdir(parents=True, exist_ok=True)
    scene = prepare(options)
    subject = Subject(options, scene.pipeline, scene.cluster.servers, logdir)
    making = {study.__name__: study(subject) for study in STUDIES}
    found = _played({name: next(one) for name, one in making.items()}, logdir, seeds, play)
    made = [Made(_finished(one, found[name]), found[name]) for name, one in making.items()]
    document = _document(scene.file, made)
    (logdir / RESULTS).write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
    text = markdown(document, made, logdir)
    (logdir / REPORT).write_text(text, encoding="utf-8")
    write_page(text, logdir / PAGE)
    return {**document, "report": str(logdir / REPORT)}


def _played(wanted: dict[str, dict[str, RunOptions]], logdir: Path, seeds: Sequence[int], play: Play) -> dict[str, Runs]:
    """Study -> name of the case -> its seeds."""
    keys = [(study, name, seed) for study, named in wanted.items() for name in named for seed in seeds]
    cases = [
        Case(replace(wanted[study][name], seed=seed), logdir / RUNS / study / _folder(name)) for study, name, seed in keys
    ]
    played = play(cases)
    for failure in played.failures.values():
        raise SuiteError(f"{failure}; the others are kept, run it again to go on")
    runs: dict[str, dict[str, list[RunResult]]] = {study: {} for study in wanted}
    for place, (study, name, _) in enumerate(keys):
        runs[study].setdefault(name, []).append(played.results[place])
    return dict(runs)


def _folder(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name.lower())


def _finished(making: Making, runs: Runs) -> Study:
    try:
        making.send(runs)
    except StopIteration as end:
        study: Study = end.value
        return study
    raise AssertionError("a study asks for runs once")


def _document(file: PipelineFile, made: Sequence[Made]) -> dict[str, object]:
    claims = [claim for one in made for claim in one.study.claims]
    return {
        "suite": "paper",
        "pipeline": file.name,
        "provenance": file.provenance,
        "source": file.source,
        "claims": [{**msgspec.to_builtins(claim), "verdict": claim.verdict} for claim in claims],
        "studies": [msgspec.to_builtins(one.study) for one in made],
    }


# -- the report -------------------------------------------------------------------------------------------------------------


def markdown(found: dict[str, object], made: Sequence[Made], logdir: Path) -> str:
    """The report: claims first, then a table and its pictures a study; the pictures are drawn into the log folder."""
    lines = [
        f"# The paper's evaluation on *{found['pipeline']}*",
        "",
        f"Figures of the models: {found['provenance']}. {found['source']}",
    ]
    if found["provenance"] == "assumed":
        lines.append("**Nobody measured them: what follows shows how the system behaves, not how fast it is.**")
    lines += ["", *_arrivals(made)]
    claims = (
        (claim.name, claim.published, NOTHING if claim.ours is None else f"{claim.ours:.2f}x", claim.verdict, claim.how)
        for one in made
        for claim in one.study.claims
    )
    lines += ["", *table(("claim", "published>", "ours>", "", "how each is defined"), claims)]
    for one in made:
        study = one.study
        heads = (study.columns[0], *(f"{column}>" for column in study.columns[1:]))
        rows = ([_cell(value) for value in row] for row in study.rows)
        lines += ["", f"## {study.title}", "", study.about, "", *table(heads, rows), "", *_pictures(one, logdir)]
    return "\n".join(lines) + "\n"


def _arrivals(made: Sequence[Made]) -> list[str]:
    """What about the requests of the traces was not observed."""
    runs = [done for one in made for seeds in one.runs.values() for done in seeds]
    seeds = len({done.options.seed for done in runs})
    told = dict.fromkeys((done.trace, done.synthetic.partition(";")[0]) for done in runs if done.synthetic)
    lines = [f"Arrivals of *{trace}*: {text}." for trace, text in told]
    return [f"Means over {seeds} seed{'s'[: seeds > 1]}. " + " ".join(lines)] if runs else []


def _cell(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def _pictures(one: Made, logdir: Path) -> list[str]:
    """The table as a chart, and its runs over time. Without matplotlib the report says so."""
    study, stem, lines = one.study, f"paper-{_folder(one.study.title)}", list[str]()
    try:
        if study.chart is not None:
            study_png(study, logdir / f"{stem}.png")
            lines += [f"![{study.title}]({stem}.png)", ""]
        if study.over_time:
            timeline_png([done for name in study.over_time for done in one.runs[name]], logdir / f"{stem}-over-time.png")
            lines += [f"![{study.title}, over time]({stem}-over-time.png)"]
    except PlotError as error:
        lines.append(f"No picture: {error}.")
    return lines
