"""One training for each of several seeds, on this host or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from loki_rl.agents.commands import TrainFlags, run_train
from loki_rl.runs.batch_runner import sentence
from loki_rl.runs.spreading import cores, spread


class SeedRun(Struct):
    """How the training of one seed ended. row: the JSON of the command, None where it failed and sentence says why."""

    seed: int
    row: dict[str, Any] | None = None
    sentence: str = ""


# Path in the folder of a training -> what the file holds.
Files = dict[str, bytes]


def train_seeds(
    flags: TrainFlags, seeds: int, jobs: int | None = None, cluster: str = "", tell: Callable[[SeedRun], None] | None = None
) -> list[SeedRun]:
    """As many trainings with seeds from that of the flags on, each in a folder seedN of its own; a second call goes on
    where these stand. jobs: at once on this host (default: one for each core); cluster: address of a Ray cluster that
    trains instead. A training that fails does not stop the others. Raises ClusterError."""
    each = {seed: _of_seed(flags, seed) for seed in range(flags.seed, flags.seed + seeds)}
    made = (
        _far(each, cluster)
        if cluster
        else spread({seed: partial(_trained, one) for seed, one in each.items()}, jobs or cores())
    )
    ended = {}
    for seed, end in made:
        ended[seed] = SeedRun(seed, sentence=end) if isinstance(end, str) else SeedRun(seed, row=end)
        if tell is not None:
            tell(ended[seed])
    return [ended[seed] for seed in each]


def best_of(runs: list[SeedRun]) -> SeedRun | None:
    """Of those that were exported, the one that gains most on its validation windows."""
    exported = [one for one in runs if one.row is not None and one.row["model"] is not None]
    return max(exported, key=lambda one: one.row["validation_gain"], default=None)  # type: ignore[index]


def _of_seed(flags: TrainFlags, seed: int) -> TrainFlags:
    return replace(flags, seed=seed, out=str(Path(flags.out) / f"seed{seed}"))


def _trained(flags: TrainFlags) -> dict[str, Any] | str:
    try:
        return run_train(flags, quiet=True)
    except Exception as error:
        return sentence(error)


def _far(each: dict[int, TrainFlags], cluster: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Another host has other folders: what a training has so far goes there with it, and all that it has then comes back."""
    work = {seed: partial(_trained_far, one, _read(Path(one.out))) for seed, one in each.items()}
    for seed, end in spread(work, cores(), cluster):
        yield seed, end if isinstance(end, str) else _brought(each[seed], *end)


def _trained_far(flags: TrainFlags, files: Files) -> tuple[dict[str, Any], Files] | str:
    with TemporaryDirectory() as folder:
        _write(Path(folder), files)
        row = _trained(replace(flags, out=folder))
        return row if isinstance(row, str) else (_moved(row, folder, flags.out), _read(Path(folder)))


def _brought(flags: TrainFlags, row: dict[str, Any], files: Files) -> dict[str, Any] | str:
    try:
        _write(Path(flags.out), files)
    except OSError as error:
        return sentence(error)
    return row


def _moved(row: dict[str, Any], before: str, after: str) -> dict[str, Any]:
    """The same where it names files of a folder that is elsewhere now."""
    return {name: value.replace(before, after) if isinstance(value, str) else value for name, value in row.items()}


def _read(folder: Path) -> Files:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def _write(folder: Path, files: Files) -> None:
    """Each at once, or not at all; raises OSError."""
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_name(f".{file.name}.new")
        new.write_bytes(content)
        new.replace(file)
