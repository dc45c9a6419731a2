"""What users see: one JSON object, or tables and bars."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from math import isfinite
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from loki_rl.core.plan import Certificate, JointPlan, Plan

if TYPE_CHECKING:  # commands without runs need none of what makes them
    from loki_rl.runs.batch_runner import Progress as Runs


# Wider than any table [characters].
WIDEST = 1000
# What takes less than this needs no bar, and between two lines for people who read a log there is as much time [s].
MOMENT_S, LINE_S = 1.0, 10.0


def say(row: dict[str, Any], as_json: bool, show: Callable[[], None]) -> None:
    """One JSON object on stdout, or something for people."""
    if as_json:
        sys.stdout.write(json.dumps(finite(row), allow_nan=False) + "\n")
    else:
        show()


def finite(value: Any) -> Any:
    """The same with None for infinity and NaN, which JSON does not have."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return value


@contextmanager
def progress_bars() -> Iterator[Callable[[str, float], None]]:
    """Bars on stderr with rate and time left, one per kind of work, a line now and then where nobody looks at a terminal;
    what is over in a moment shows nothing, unless it says with a share of 0 that it begins. The function takes what is done
    and the share that is done, 0..1."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines()
        return
    columns = (TextColumn("{task.description:<28}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), _Rate())
    bars = Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console)
    known: dict[str, TaskID] = {}
    began = time.monotonic()

    def show(what: str, share: float) -> None:
        # What says that it begins may say nothing more until it ends.
        if share > 0 and not known and time.monotonic() - began < MOMENT_S:
            return
        bars.start()
        if what not in known:
            known[what] = bars.add_task(what, total=1.0)
        bars.update(known[what], completed=share)

    try:
        yield show
    finally:
        if known:  # without any bar it would leave an empty line
            bars.stop()


class _Rate(ProgressColumn):
    """How fast it goes."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{100 * task.speed:.2g} %/s")


def _lines() -> Callable[[str, float], None]:
    """A line every LINE_S, none for what is over by then, and one for what says that it begins."""
    began: dict[str, float] = {}
    told: dict[str, float] = {}

    def show(what: str, share: float) -> None:
        now = time.monotonic()
        begin = began.setdefault(what, now)
        if share == 0:
            note(f"{what} ...")
        if now - told.setdefault(what, now) >= LINE_S and share > 0:
            told[what] = now
            left_s = (now - begin) * (1 - share) / share
            note(f"{what}: {share:.0%}, {left_s:.0f} s left")

    return show


@contextmanager
def run_bar() -> Iterator[Callable[[Runs], None]]:
    """A bar on stderr over all runs, with what was reused; a line for each event where nobody looks at a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda step: note(str(step))
        return
    columns = (BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f} runs{task.fields[reused]}"))
    with Progress(*columns, TimeElapsedColumn(), TextColumn("{task.description}"), console=console) as bars:
        task = bars.add_task("", total=0, reused="")

        def show(step: Runs) -> None:
            reused = f", {step.reused} reused" if step.reused else ""
            bars.update(task, completed=step.ended, total=step.total, reused=reused, description=step.what)

        yield show


def shown(what: RenderableType, stderr: bool = False) -> None:
    """A table, or text with markup. Of a table that is too wide for the terminal the last columns are left out, and named: a
    figure that is cut would be another figure."""
    console = Console(stderr=stderr, highlight=False, soft_wrap=isinstance(what, str))
    dropped = _fit(what, console) if isinstance(what, Table) else []
    console.print(what)
    if dropped:
        console.print(f"not shown, for want of room: {', '.join(dropped)}", soft_wrap=True, markup=False)


def _fit(table: Table, console: Console) -> list[str]:
    """Leave columns out from the end until the others fit, and return their names."""
    title, caption = table.title, table.caption
    # These are wrapped, whatever the width.
    table.title = table.caption = None
    free, dropped = console.options.update(max_width=WIDEST), list[str]()
    while len(table.columns) > 1 and Measurement.get(console, free, table).minimum > console.width:
        dropped.insert(0, " ".join(str(table.columns.pop().header).split()))
    table.title, table.caption = title, caption
    return dropped


def live(again: Callable[[], RenderableType], first: RenderableType, interval_s: float) -> None:
    """A screen that is drawn anew every interval until Ctrl-C."""
    with suppress(KeyboardInterrupt), Live(first, screen=True, auto_refresh=False) as display:
        while True:
            time.sleep(interval_s)
            display.update(again(), refresh=True)


def line(text: str, stderr: bool = False) -> None:
    """Plain text, as it is."""
    Console(stderr=stderr, highlight=False, soft_wrap=True, markup=False).print(text)


def note(text: str) -> None:
    """To stderr: what is going on, not a result."""
    line(text, stderr=True)


def pairs(row: dict[str, Any]) -> None:
    """A name and a value a line."""
    width = max(map(len, row))
    for key, value in row.items():
        line(f"{key:<{width}}  {_shown(value)}")


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def plan(name: str, found: Plan) -> None:
    """A plan's placements, promises and reasons."""
    _placements(name, found)
    _proof(found.certificate, found.reasons)


def joint_plan(names: Sequence[str], joint: JointPlan) -> None:
    """Several pipelines' plans and what they cost together."""
    for name, found in zip(names, joint.plans, strict=True):
        _placements(name, found)
    line(f"together: {joint.mode} mode  servers {joint.servers}  price {joint.price:g}")
    _proof(joint.certificate, joint.reasons)


def _placements(name: str, found: Plan) -> None:
    typed = any(place.server_type for place in found.placements)
    columns = ["task", "variant", *(["server type"] if typed else []), "batch>", "replicas>"]
    table = new_table(f"{name}: {found.mode} mode at {found.demand_rps:g} requests/s", *columns)
    for place in found.placements:
        kind = [place.server_type] if typed else []
        table.add_row(place.task, place.variant, *kind, str(place.batch), str(place.replicas))
    shown(table)
    price = f"  price {found.price:g}" if typed else ""
    line(
        f"servers {found.servers}{price}  accuracy {found.accuracy:.4f}  served {found.served_fraction:.1%}  "
        f"capacity {found.capacity_rps:.1f}/s"
    )


def _proof(proof: Certificate, reasons: Sequence[str]) -> None:
    line(f"gap {proof.gap:.1e}  solved in {proof.build_ms + proof.solve_ms:.0f} ms")
    for reason in reasons:
        line(f"- {reason}")


def ladder(name: str, plans: list[Plan]) -> None:
    """One row per demand."""
    table = new_table(f"{name}: optimal plans by demand", "demand/s>", "mode", "servers>", "accuracy>", "served>", "gap>")
    for one in plans:
        served, gap = f"{one.served_fraction:.1%}", f"{one.certificate.gap:.0e}"
        table.add_row(f"{one.demand_rps:g}", one.mode, str(one.servers), f"{one.accuracy:.4f}", served, gap)
    shown(table)


def profile(row: dict[str, Any]) -> None:
    """A profile's service times."""
    line(f"{row['file']}: {row['device']} ({row['provider']}, ONNX Runtime {row['ort_version']})")
    table = new_table("service times", "task", "variant", "batch>", "p50 ms>", "error>", "p95 ms>", "p99 ms>", "waited>")
    for one in row["variants"]:
        p50, p95, p99 = (f"{one[key]:.2f}" for key in ("p50_ms", "p95_ms", "p99_ms"))
        error, waited = ("" if one[key] is None else f"{one[key]:.1%}" for key in ("error", "waited"))
        table.add_row(one["task"], one["variant"], str(one["batch"]), p50, error, p95, p99, waited)
    shown(table)
    _accuracies(row)
    if (found := row["capacity"]) is not None:
        best, fastest = f"{found['most_accurate_rps']:.1f}/s", f"{found['cheapest_rps']:.1f}/s"
        line(f"a plane of {found['servers']} servers on this host completed at its limit")
        line(f"{best} with the most accurate variants, {fastest} with the fastest ones")


def _accuracies(row: dict[str, Any]) -> None:
    """Of variants on their own, and of whole paths, the best first; none are measured without data or a workload."""
    if not row["accuracies"]:
        line("accuracies and fan-outs stay as the pipeline file has them; --data and --scorer measure them")
        return
    fanouts: dict[tuple[str, str], list[str]] = {}
    for one in row["fanouts"]:
        fanouts.setdefault((one["task"], one["variant"]), []).append(f"{one['child']} {one['mean']:.2f}")
    accuracies = new_table("accuracies, and items made for each next task", "task", "variant", "accuracy %>", "makes")
    for one in row["accuracies"]:
        made = ", ".join(fanouts.get((one["task"], one["variant"]), []))
        accuracies.add_row(one["task"], one["variant"], f"{100 * one['accuracy']:.1f}", made)
    shown(accuracies)
    paths = new_table("accuracy end to end", "path", "accuracy %>")
    for one in sorted(row["paths"], key=lambda one: -float(one["accuracy"])):
        paths.add_row(", ".join(one["path"]), f"{100 * one['accuracy']:.1f}")
    shown(paths)


def new_table(title: str, *columns: str) -> Table:
    """Columns whose name ends in > are set flush right."""
    line(title)  # not the table's own title, which would be wrapped to its width
    table = Table()
    for column in columns:
        table.add_column(column.rstrip(">"), justify="right" if column.endswith(">") else "left")
    return table
