"""The command that hurts a plane and tells what it did to its clients."""

from __future__ import annotations

from typing import Annotated, cast

import click
from msgspec.structs import asdict
from rich.table import Table

from loki_rl.cli import terminal
from loki_rl.cli.flags import Fields, Json, split_names
from loki_rl.cli.provenance import tell_profile
from loki_rl.cli.results import need_models
from loki_rl.runs.options import RunOptions
from loki_rl.runs.trials import TrialOptions, try_plane
from loki_rl.serving.chaos.account import Account
from loki_rl.serving.chaos.recovery import Row
from loki_rl.serving.chaos.schedule import KINDS, Kind
from loki_rl.serving.chaos.trial import Verdict

OF_RUN = ("pipeline", "policy", "servers", "seed", "slo_ms", "load_s", "device", "profile")


def chaos(
    run: Annotated[RunOptions, Fields(only=OF_RUN, flags={"servers": "--workers"})],
    options: TrialOptions,
    as_json: Json = False,
) -> None:
    """Start a plane of its own, send requests, and hurt it on a schedule: killed, stopped and hanging processes, models that
    crash, are slow, damaged or missing, a full disk, messages that do not arrive. Ends with 1 if a request was lost,
    answered twice or cannot be explained, or the plane is not whole at the end."""
    kinds = cast("tuple[Kind, ...]", tuple(split_names("--kinds", options.kinds, KINDS)) if options.kinds else KINDS)
    need_models(run, options.engine)
    tell_profile(run.file)
    with terminal.progress_bars() as bar:
        found = try_plane(run, options, kinds, lambda done, of: bar("faults", done / of))
    terminal.say(document(found), as_json, lambda: show(found))
    if not found.passed:
        raise click.exceptions.Exit(1)


def document(found: Verdict) -> dict[str, object]:
    return {
        **asdict(found),
        "rows": [asdict(row) for row in found.rows],
        "account": asdict(found.account),
        "passed": found.passed,
    }


def show(found: Verdict) -> None:
    terminal.shown(table(found.rows))
    for sentence in sentences(found):
        terminal.line(sentence)


def table(rows: list[Row]) -> Table:
    """A row per kind of fault. cost: how many cost any request more than the usual share."""
    made = Table()
    for name in ("fault", "times", "noticed", "in [s]", "worst", "cost", "back [s]", "worst", "affected"):
        made.add_column(name, justify="left" if name == "fault" else "right")
    for row in rows:
        noticed, back = ((f"{one:.2f}", f"{worst:.2f}") if one else ("-", "-") for one, worst in (row.noticed_s, row.back_s))
        made.add_row(row.kind, str(row.count), str(row.noticed), *noticed, str(row.cost), *back, str(row.affected))
    return made


def sentences(found: Verdict) -> list[str]:
    """What all faults did together."""
    mine = found.account
    not_back = sum(row.not_back for row in found.rows)
    said = [
        f"{found.faults} faults in {found.wall_s:.0f} s ({found.skipped} found nobody to hurt); "
        f"{found.usual:.1%} in time before them; "
        + (f"after {not_back} of them the share in time did not come back before the end; " if not_back else "")
        + f"sends were late by {found.lag_ms:.1f} ms (p99)",
        f"clients: {mine.requests} requests = {_counts(mine.told)}, {mine.cut} cut off, {mine.refused} not sent, "
        f"{mine.lost} lost; {mine.twice} answered twice",
        f"plane: {sum(mine.plane.values())} requests = {_counts(mine.plane)}",
        f"{mine.unexplained} unexplained" + _unknown(mine),
    ]
    said += [f"does not add up: {fault}" for fault in mine.faults]
    said += [f"a process ended by itself: {crash}" for crash in found.crashes]
    said.append(f"the plane is not whole: {found.alive}" if found.alive else "the plane is alive and whole")
    return said


def _counts(counts: dict[str, int]) -> str:
    return " + ".join(f"{count} {outcome}" for outcome, count in counts.items() if count) or "none"


def _unknown(mine: Account) -> str:
    return f" (a gateway that was killed had not written down up to {mine.unknown})" if mine.unknown else ""
