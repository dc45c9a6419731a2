"""Whether a plane of this host behaves as its twin, asked until it is told: a run whose own interval is wider than a bar
says nothing, and is made again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from loki_rl.fidelity.measure import Fidelity
from loki_rl.fidelity.verdict import Answer
from loki_rl.runs.options import RunOptions
from loki_rl.runs.recording import RECORDING
from loki_rl.runs.run import RUNNERS
from loki_rl.runs.run_folder import folder_of, load_current, save
from loki_rl.serving.engines.hardware import HostLoad

TRIES = 3
# Where other programs took more of the cores than this share, a run that is outside its bars says nothing either.
DISTURBED = 0.05


class Attempt(Struct):
    """What one try told. neighbours: share of all cores that other programs took meanwhile."""

    found: Fidelity
    neighbours: float

    @property
    def answer(self) -> Answer:
        """Outside only where nobody else is to blame."""
        found = self.found.verdict
        return "inconclusive" if found == "outside" and self.neighbours > DISTURBED else found


def held(compare: Callable[[int], Fidelity], tell: Callable[[Attempt], None], tries: int = TRIES) -> bool:
    """Whether plane and twin are within their bars. compare: makes and compares the runs of a try, by its number. tell: of
    every try. The first that is within or outside decides; where none is, they are not."""
    for number in range(tries):
        others = HostLoad()
        found = compare(number)
        attempt = Attempt(found, others.share())
        tell(attempt)
        if attempt.answer != "inconclusive":
            return attempt.answer == "within"
    return False


def record(options: RunOptions, logdir: Path) -> Path:
    """Play a run on a plane of this host, unless its folder holds just this run; the folder, with the recording in it."""
    folder = folder_of(options, logdir)
    if load_current(folder, options) is None or not (folder / RECORDING).is_file():
        save(RUNNERS[options.driver](options, folder), logdir)
    return folder
