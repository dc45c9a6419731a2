"""What shadows of a plane say at its end: a file of figures beside the curves of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from loki_rl.core.requests.ledger import Summary, Tally
from loki_rl.decoding import UNREADABLE
from loki_rl.runs.options import RunOptions
from loki_rl.runs.result import RunResult
from loki_rl.runs.run_folder import folder_for

FIGURES = "figures.json"

_figures = msgspec.json.Decoder(Summary)


class Beside(Struct):
    """What shadows would have done with the requests that a plane served. done: of those that tell; missing: the others."""

    done: list[RunResult]
    missing: list[str]

    def notes(self, arrivals: int) -> list[str]:
        """Sentences on what cannot be compared with a plane that so many requests came to."""
        notes = [
            f"{one.options.policy} fell behind and met {one.summary.arrivals} of the {arrivals} requests"
            for one in self.done
            if one.summary.arrivals != arrivals
        ]
        if self.missing:
            notes.append(
                f"what {', '.join(self.missing)} would have done is not known: the process of shadows left no figures"
            )
        return notes


def shadow_folder(recorded: RunOptions, policy: str, logdir: Path) -> Path:
    """recorded: how the plane was run."""
    return folder_for(replace(recorded, policy=policy, driver="twin"), "live", logdir)


def write_figures(folder: Path, figures: Summary) -> None:
    """Whole or not at all. Raises OSError."""
    own = folder / f".{FIGURES}"
    own.write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=2) + b"\n")
    own.replace(folder / FIGURES)


def forget_figures(recorded: RunOptions, policies: Sequence[str], logdir: Path) -> None:
    """Those of an earlier plane that was run so."""
    for policy in policies:
        (shadow_folder(recorded, policy, logdir) / FIGURES).unlink(missing_ok=True)


def read_figures(served: RunResult, policies: Sequence[str], logdir: Path) -> Beside:
    """Of the shadows of a plane that has stopped."""
    beside = Beside([], [])
    for policy in policies:
        options = replace(served.options, policy=policy, driver="twin")
        try:
            figures = _figures.decode((shadow_folder(options, policy, logdir) / FIGURES).read_bytes())
        except (OSError, *UNREADABLE):
            beside.missing.append(policy)
        else:
            beside.done.append(replace(served, options=options, summary=figures, tally=Tally()))
    return beside
