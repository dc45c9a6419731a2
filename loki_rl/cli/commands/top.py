"""The command `top`, and its screen: a plane's figures as tables in a terminal."""

from __future__ import annotations

from math import isinf
from typing import Annotated

import msgspec
from msgspec import Meta
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from loki_rl.cli import terminal
from loki_rl.cli.flags import Json
from loki_rl.options import Help
from loki_rl.serving.controlling.control_log import missing, sentence
from loki_rl.serving.gateway.remote_state import source
from loki_rl.serving.observe.watch import View, Watch
from loki_rl.serving.security.credentials import Credentials
from loki_rl.serving.state import Control, Stage, Trouble, WorkerState

# Share of violations that is worth a look.
ALARMING = 0.01
BARS = " ▁▂▃▄▅▆▇█"


def top(
    credentials: Credentials,
    url: Annotated[str, Help("http://HOST:PORT (or https), tcp://HOST:PORT or ipc://PATH.")] = "http://127.0.0.1:8000",
    interval_s: Annotated[Annotated[float, Meta(ge=0.1)], Help("Time between two looks [s].")] = 1.0,
    once: Annotated[bool, Help("Show the figures since the start, and end.")] = False,
    as_json: Json = False,
) -> None:
    """Watch a running plane: demand, plan, queues, violations, accuracy and workers, until Ctrl-C."""
    watch = Watch()
    with source(url, credentials) as ask:
        seen = watch.see(ask())
        if once or as_json:
            terminal.say(msgspec.to_builtins(seen), as_json, lambda: terminal.shown(screen(seen)))
            return
        terminal.live(lambda: screen(watch.see(ask())), screen(seen), interval_s)


def screen(view: View) -> RenderableType:
    """80 characters wide."""
    parts: list[RenderableType] = [_head(view), _requests(view), _quality(view)]
    control = view.state.control
    parts.append(_plan(control))
    parts += [_stages(view), _variants(view)]
    if control is not None:
        parts += [_workers(control), *(Text(sentence(drift), "yellow") for drift in control.drift)]
        parts += [Text(f"planned without: {missing(one)}", "yellow") for one in control.excluded]
        parts += [Text(failure, "red") for failure in control.failures]
    parts += [Text(f"stage '{task}' does not answer", "red") for task in view.state.silent]
    parts += [Text(_trouble(one, view.state.uptime_s), "red") for one in view.state.troubles]
    return Group(*parts)


def _trouble(one: Trouble, uptime_s: float) -> str:
    times = f"{one.count} times, " if one.count > 1 else ""
    return f"{one.process}: {one.said} ({times}{_duration(max(0.0, uptime_s - one.at_s))} ago)"


def _head(view: View) -> Text:
    state = view.state
    ready = ("ready", "green") if state.ready else ("not ready", "bold red")
    text = Text.assemble((state.pipeline, "bold"), f" ({state.engine}, SLO {1000 * state.slo_s:g} ms) ", ready)
    text.append(f": {state.unready}" if state.unready else "", "red")
    text.append(f", up {_duration(state.uptime_s)}, {state.requests.in_flight} in flight\n")
    text.append(f"demand {view.demand[-1] if view.demand else 0.0:6.1f}/s ")
    return text.append(sparkline(view.demand), "cyan")


def sparkline(values: list[float]) -> str:
    top = max(values, default=0.0)
    return "".join(BARS[round((len(BARS) - 1) * value / top)] if top else BARS[0] for value in values)


def _requests(view: View) -> Table:
    table = _table(f"requests per second, last {view.seconds:.0f} s")
    for name in ("arrived", *view.outcomes_rps):
        table.add_column(name, justify="right")
    table.add_row(f"{view.arrivals_rps:.1f}", *(f"{rate:.1f}" for rate in view.outcomes_rps.values()))
    return table


def _quality(view: View) -> Text:
    bad = f"{100 * view.violation_ratio:.1f} %"
    text = Text.assemble("violations ", (bad, "bold red" if view.violation_ratio > ALARMING else "green"), ", accuracy ")
    text.append(f"{100 * view.accuracy:.1f} %" if view.accuracy else "-", "bold")
    return text.append(f", p50 <= {_milliseconds(view.p50_s)}, p99 <= {_milliseconds(view.p99_s)}")


def _plan(control: Control | None) -> Text:
    if control is None:
        return Text("the controller does not answer; its last plan stays in force", "red")
    busy = sum(bool(worker.serving or worker.loading) for worker in control.workers)
    loading = sum(bool(worker.loading) for worker in control.workers)
    servers = f"\nservers {busy} of {len(control.workers)} in use, {loading} loading"
    plan = control.plan
    if plan is None:
        return Text(f"no plan yet{servers}")
    figures = f"for {plan.demand_rps:.1f}/s of {plan.capacity_rps:.1f}/s, accuracy {100 * plan.accuracy:.1f} %"
    spare = f", some stand by up to {plan.standby_rps:.1f}/s" if plan.standby_rps else ""
    return Text(f"plan {plan.epoch}: {plan.mode}, {figures}{servers}{spare}")


def _stages(view: View) -> Table:
    table = _table("queues")
    table.add_column("task")
    for name in ("queued", "drain", "workers", "lost"):
        table.add_column(name, justify="right")
    for stage in view.state.stages:
        table.add_row(stage.task, str(stage.queued), _drain(stage), str(sum(stage.pulling.values())), _lost(stage))
    return table


def _drain(stage: Stage) -> str:
    return "never" if stage.drain_s is None else _milliseconds(stage.drain_s)


def _lost(stage: Stage) -> str:
    return ", ".join(f"{items} {outcome}" for outcome, items in sorted(stage.lost.items())) or "-"


def _variants(view: View) -> Table:
    table = _table("variants (times per item)")
    table.add_column("task")
    table.add_column("variant")
    for name in ("plan", "pull", "items/s", "batch", "queue", "run"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in view.variants:
        table.add_row(
            row.stage,
            row.variant,
            str(row.planned),
            str(row.workers),
            f"{row.items_rps:.1f}",
            f"{row.batch:.1f}" if row.batch else "-",
            _milliseconds(row.queue_s) if row.batch else "-",
            _milliseconds(row.compute_s) if row.batch else "-",
        )
    return table


def _workers(control: Control) -> Table:
    """Workers in the same state share a line: there may be more of them than lines."""
    alike: dict[tuple[str, str, int, str], list[WorkerState]] = {}
    for worker in control.workers:
        key = (worker.server_type, worker.serving, worker.batch, worker.loading)
        alike.setdefault(key, []).append(worker)
    typed = any(worker.server_type for worker in control.workers)
    table = _table("workers (models loaded so far)")
    if typed:
        table.add_column("type")
    table.add_column("serves")
    table.add_column("batch", justify="right")
    table.add_column("loads now")
    table.add_column("workers")
    for (kind, serving, batch, loading), workers in sorted(alike.items()):
        numbers = " ".join(f"{worker.number}({worker.loads})" for worker in workers)
        table.add_row(*([kind] if typed else []), serving or "parked", str(batch), loading or "-", numbers)
    return table


def _table(title: str) -> Table:
    """Without a box, which would take two more characters a column."""
    return Table(
        title=f"\n{title}",
        title_style="bold",
        title_justify="left",
        header_style="dim",
        box=None,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )


def _milliseconds(seconds: float) -> str:
    return "long" if isinf(seconds) else f"{1000 * seconds:.3g} ms"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
