"""Many runs: which are there already, which share the cores, and what happens when one fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from loki_rl.control.policies.named import make_policy
from loki_rl.errors import UserError
from loki_rl.runs.options import RunOptions
from loki_rl.runs.result import RunResult
from loki_rl.runs.run import interval_of, prepare
from loki_rl.runs.run_folder import folder_of, load, load_current, save
from loki_rl.runs.spreading import cores, spread

log = logging.getLogger(__name__)

# Of options, and the run folder, where it records what can be played only once.
Runner = Callable[[RunOptions, Path | None], RunResult]
State = Literal["started", "done", "reused", "failed"]


class CasesError(UserError):
    """These runs cannot be made together; the message is one sentence that says why and what to do."""


class Case(Struct, frozen=True):
    """A run and the log folder that its own folder lies in."""

    options: RunOptions
    logdir: Path

    @property
    def folder(self) -> Path:
        """Raises TraceError if the trace cannot be read."""
        return folder_of(self.options, self.logdir)


class Progress(Struct, frozen=True):
    """Something happened to a case; ended of total cases are over, reused of these without a run. sentence: why it
    failed."""

    options: RunOptions
    state: State
    ended: int
    total: int
    reused: int
    sentence: str = ""

    def __str__(self) -> str:
        return f"[{self.ended}/{self.total}] {self.what}"

    @property
    def what(self) -> str:
        """The event itself."""
        return f"{label(self.options)}: {self.sentence or self.state}"


class Failure(Struct, frozen=True):
    """A case that gave no result, and why."""

    options: RunOptions
    sentence: str

    def __str__(self) -> str:
        return f"{label(self.options)}: {self.sentence}"


def label(options: RunOptions) -> str:
    """A case in a few words."""
    return f"{options.policy} on {Path(options.trace).name} ({options.driver}, seed {options.seed})"


def play(
    cases: Sequence[Case],
    run: Mapping[str, Runner],
    jobs: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    fresh: bool = False,
    cluster: str = "",
) -> Played:
    """Run all cases and write their folders. What was killed goes on where it stopped when it is asked for again.

    run: driver -> what makes a run, importable by another process. Cases of the twin share `jobs` processes (default: one
    for each core; 1 stays in this process), or the cores of the Ray cluster at the address `cluster`; then the others run
    here one after another, since each needs the machine for itself. A case whose folder holds exactly this run is read
    back, unless fresh. A failed case does not stop the others, but what is wrong with the options of any is raised before
    the first one runs: CasesError, ConfigError, TraceError, RequestError or ClusterError.
    """
    check(cases)
    work = Played(cases, run, progress)
    waiting = work.open(fresh)
    twins = [place for place in waiting if cases[place].options.driver == "twin"]
    work.afar(twins, cluster) if cluster else work.together(twins, jobs or cores())
    work.in_turn([place for place in waiting if cases[place].options.driver != "twin"])
    return work


def check(cases: Sequence[Case]) -> None:
    """Raise what would stop a case, as far as its options alone tell: nobody should learn of a typing error after hours."""
    if not cases:
        raise CasesError("there is nothing to compare; give at least one policy, trace, seed and driver")
    owners: dict[Path, RunOptions] = {}
    for case in cases:
        if owners.setdefault(case.folder, case.options) != case.options:
            what = label(case.options)
            raise CasesError(f"two runs would share the folder of {what}; give the traces different file names")
    # What neither policy nor driver changes is prepared once, whatever the seed; a name is right or wrong on any pipeline.
    scenes = {}
    for options in dict.fromkeys(replace(case.options, policy="static", driver="twin") for case in cases):
        scenes[options.pipeline] = prepare(options)
    asked = ((case.options.policy, case.options.pipeline, interval_of(case.options)) for case in cases)
    for policy, pipeline, interval_s in dict.fromkeys(asked):
        make_policy(policy, scenes[pipeline].pipeline, replace(scenes[pipeline].policy, interval_s=interval_s))


class Played:
    """What came of the cases so far, by their place in the list: a result or a failure each. reused: how many needed no
    run."""

    def __init__(
        self, cases: Sequence[Case], run: Mapping[str, Runner], progress: Callable[[Progress], None] | None
    ) -> None:
        self.cases, self.run, self.progress = cases, run, progress
        self.results: dict[int, RunResult] = {}
        self.failures: dict[int, Failure] = {}
        self.reused = 0

    def open(self, fresh: bool) -> list[int]:
        """Cases that must run; those with a current folder have ended."""
        waiting = []
        for place, case in enumerate(self.cases):
            found = None if fresh else load_current(case.folder, case.options)
            if found is None:
                waiting.append(place)
            else:
                self.reused += 1
                self._succeed(place, found, "reused")
        return waiting

    def together(self, places: Sequence[int], jobs: int) -> None:
        """Several at a time, each process taking the next."""
        if jobs == 1 or len(places) < 2:
            self.in_turn(places)
            return
        for place, end in spread({place: self._attempt(place) for place in places}, jobs):
            self._end(place, end)

    def afar(self, places: Sequence[int], cluster: str) -> None:
        """Wherever the cluster has room. Folders are written here: another host has others."""
        asked = {place: self.cases[place] for place in places}
        work = {place: partial(result, self.run[case.options.driver], case.options) for place, case in asked.items()}
        for place, end in spread(work, cores(), cluster):
            self._end(place, end if isinstance(end, str) else kept(end, asked[place].logdir))

    def in_turn(self, places: Sequence[int]) -> None:
        for place in places:
            self._tell(place, "started")
            self._end(place, self._attempt(place)())

    def _attempt(self, place: int) -> Callable[[], Path | str]:
        case = self.cases[place]
        return partial(attempt, self.run[case.options.driver], case.options, case.logdir)

    def _end(self, place: int, end: Path | str) -> None:
        if isinstance(end, str):
            self._fail(place, end)
        else:
            # Read back even when it was made here: a result is what its folder says.
            self._succeed(place, load(end), "done")

    def _succeed(self, place: int, found: RunResult, state: State) -> None:
        self.results[place] = found
        self._tell(place, state)

    def _fail(self, place: int, why: str) -> None:
        self.failures[place] = Failure(self.cases[place].options, why)
        self._tell(place, "failed", why)

    def _tell(self, place: int, state: State, why: str = "") -> None:
        if self.progress is not None:
            ended = len(self.results) + len(self.failures)
            self.progress(Progress(self.cases[place].options, state, ended, len(self.cases), self.reused, why))


def attempt(run: Runner, options: RunOptions, logdir: Path) -> Path | str:
    """The folder of a finished run, or one sentence."""
    end = result(run, options, folder_of(options, logdir))
    return end if isinstance(end, str) else kept(end, logdir)


def result(run: Runner, options: RunOptions, folder: Path | None = None) -> RunResult | str:
    """A finished run, or one sentence."""
    try:
        return run(options, folder)
    except Exception as error:
        return sentence(error)


def kept(done: RunResult, logdir: Path) -> Path | str:
    """The folder that it was written to, or one sentence."""
    try:
        return save(done, logdir)
    except Exception as error:
        return sentence(error)


def sentence(error: Exception) -> str:
    """What a user is told. Any other error than the user's is a fault of ours: its traceback is logged."""
    if isinstance(error, UserError | OSError):
        return " ".join(str(error).split())
    log.error("a run failed", exc_info=error)
    return f"{type(error).__name__}: {error}"
