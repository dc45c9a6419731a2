"""The comparison of runs for people: a table in the terminal, a Markdown report with its plots."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import JustifyMethod
from rich.table import Table

from loki_rl.reports import page
from loki_rl.reports.cost_chart import costs_png
from loki_rl.reports.paired import Contrast, Estimate, contrasts
from loki_rl.reports.plots import PlotError, timeline_png
from loki_rl.reports.statistics import Interval
from loki_rl.reports.summary import ASSUMED, WEIGHTS, Average, Column, averages, columns, orders, weighted_cost
from loki_rl.runs.result import RunResult, row

REPORT, PAGE, RESULTS, COSTS = "report.md", "report.html", "results.csv", "costs.png"
LEFT = {"trace", "policy", "driver"}
DEFINITIONS = """\
- *violations*: share of the requests that arrived and were not answered in full and in time; late, dropped and rejected are
  its parts.
- *accuracy*: mean over the requests answered in time, 100 % = the best known models.
- *servers*: mean number in use (pulling work or loading a model). *switches*: model loads.
- *p50, p99*: latency from the intended arrival, of the requests answered in time or late.
- *J* = 5 x violations + accuracy lost by the answered (relative to the best path) + 0.1 x share of the servers used.
- Figures are means over *n* seeds; the seeds of all policies are the same requests.
- Intervals in brackets hold 95 % of the means of windows (a trace and a seed) drawn again with repetition; differences are
  of pairs, so what all policies meet alike does not widen them.
"""


def table(results: Sequence[RunResult]) -> Table:
    """Policies side by side: violations, accuracy and servers together, plane beside twin; 80 characters wide."""
    rows = averages(results)
    shown = [column for column in columns(rows)[1:] if column.short]
    traces = list(dict.fromkeys(one.trace for one in rows))
    found = Table(
        title=traces[0] if len(traces) == 1 else None,
        caption="\n".join([*_provenance(rows), *_arrivals(results), *_order_lines(rows)]),
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=0,
        title_justify="left",
        caption_justify="left",
    )
    for column in shown:
        # Where space is short a long name is broken, never a figure.
        name = column.title == "policy"
        justify: JustifyMethod = "left" if column.title in LEFT else "right"
        found.add_column(column.short, justify=justify, no_wrap=not name, overflow="fold", vertical="bottom")
    for trace in traces:
        if len(traces) > 1:
            found.add_section()
            found.add_row(trace, style="bold")
        for one in rows:
            if one.trace == trace:
                found.add_row(*(_cell(column, one) for column in shown))
    return found


def _cell(column: Column, one: Average) -> str:
    """One mark at the name stands for the whole row."""
    marked = column.title == "policy" and one.provenance == "assumed"
    return column.text(one) + ASSUMED * marked


def _provenance(rows: Sequence[Average]) -> list[str]:
    known = list(dict.fromkeys(one.provenance for one in rows))
    lines = [f"Latencies and accuracies of the models: {name}." for name in known if name not in ("", "assumed")]
    return lines + [f"{ASSUMED} assumed: made with figures that nobody measured." for name in known if name == "assumed"]


def _arrivals(results: Sequence[RunResult]) -> list[str]:
    """What about the requests was not observed."""
    made = dict.fromkeys((done.trace, done.synthetic) for done in results if done.synthetic)
    return [f"Arrivals of {trace}: {text}." for trace, text in made]


def summary_lines(results: Sequence[RunResult]) -> list[str]:
    """A line for each policy and driver over all traces and seeds, from the lowest cost to the highest."""
    found = contrasts(results)
    return [
        _summary_line(one, contrast.driver if len(found) > 1 else "") for contrast in found for one in contrast.estimates
    ]


def _summary_line(one: Estimate, driver: str) -> str:
    return (
        f"{one.policy}{f' ({driver})' if driver else ''}: violations {one.violations:.2%}, accuracy {one.accuracy:.2%}, "
        f"servers {one.servers:.1f} of {one.of_servers:g}, J {_with_interval(one.cost, one.n)}"
    )


def _with_interval(value: Interval, n: int, scale: float = 1.0, sign: str = "", digits: int = 3) -> str:
    form = f"{sign}.{digits}f"
    text = format(scale * value.value, form)
    return text if n < 2 else f"{text} [{format(scale * value.low, form)}, {format(scale * value.high, form)}]"


def _order_lines(rows: Sequence[Average]) -> list[str]:
    """Does the winner depend on what a violation costs? A line for each driver where it does not."""
    found = orders(rows)
    lines = []
    for trace, driver, order in found:
        where = f"{driver}{f' on {trace}' if len({one[0] for one in found}) > 1 else ''}, by J"
        names = {weight: " < ".join(policy for policy, _ in order[weight]) for weight in WEIGHTS}
        if len(set(names.values())) == 1:
            lines.append(f"{where}: {names[WEIGHTS[0]]} (violations x {', '.join(f'{weight:g}' for weight in WEIGHTS)})")
        else:
            lines += [f"{where} with violations x {weight:g}: {names[weight]}" for weight in WEIGHTS]
    return lines


# -- files ----------------------------------------------------------------------------------------------------------------


def result_row(done: RunResult) -> dict[str, object]:
    """The JSON and CSV of one run: as `simulate` prints it, and its cost for other violation weights."""
    return {**row(done), "cost_j_2": weighted_cost(done, 2.0), "cost_j_10": weighted_cost(done, 10.0)}


def write_report(results: Sequence[RunResult], logdir: Path, failures: Sequence[str] = ()) -> Path:
    """results.csv, report.md with its pictures, and the same as one page in the log folder. Without matplotlib the report
    says so."""
    logdir.mkdir(parents=True, exist_ok=True)
    rows = [result_row(done) for done in results]
    with (logdir / RESULTS).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else ["trace"])
        writer.writeheader()
        writer.writerows(rows)
    path = logdir / REPORT
    text = "\n".join(_report(results, logdir, failures)) + "\n"
    path.write_text(text, encoding="utf-8")
    page.write_page(text, logdir / PAGE)
    return path


def _report(results: Sequence[RunResult], logdir: Path, failures: Sequence[str]) -> list[str]:
    rows = averages(results)
    parts = ["# Comparison", ""]
    if lines := summary_lines(results):
        parts += ["Over all traces and seeds:", "", *(f"- {line}" for line in lines), ""]
    notes = [f"- {note}" for note in (*_provenance(rows), *_arrivals(results))]
    parts += ["## By trace", "", *_markdown(rows), "", *notes, "", "What the columns mean:", "", DEFINITIONS]
    if failures:
        parts += ["## Runs that failed", "", *(f"- {sentence}" for sentence in failures), ""]
    if lines := _costs(rows):
        parts += ["## Policies by cost J", "", *lines, "", *_contrasts(contrasts(results), logdir), ""]
    return [*parts, "## Over time", "", *_timelines(results, logdir), "", "## Options", "", *_options(results)]


def _markdown(rows: Sequence[Average]) -> list[str]:
    shown = columns(rows)
    heads = [column.title if column.title in LEFT else f"{column.title}>" for column in shown]
    return page.table(heads, ([column.of(one) for column in shown] for one in rows))


def _costs(rows: Sequence[Average]) -> list[str]:
    return [
        f"- {trace}, {driver}, violations x {weight:g}: {' < '.join(f'{policy} {value:.3f}' for policy, value in costs)}"
        for trace, driver, order in orders(rows)
        for weight, costs in order.items()
    ]


def _contrasts(found: Sequence[Contrast], logdir: Path) -> list[str]:
    """The picture of costs, and a table of what every policy has more than the cheapest."""
    lines = []
    try:
        costs_png(found, logdir / COSTS, "Cost by policy")
        lines += [f"![Cost of every policy with its interval, and paired differences from the cheapest]({COSTS})", ""]
    except PlotError as error:
        lines += [f"No picture: {error}.", ""]
    heads = ["driver", "policies", "pairs>", "J>", "violations, points>", "accuracy, points>", "servers>"]
    rows = [
        (
            contrast.driver,
            f"{one.policy} less {one.reference}",
            str(one.n),
            _with_interval(one.cost, one.n, sign="+"),
            *(_with_interval(share, one.n, 100, "+", 2) for share in (one.violations, one.accuracy)),
            _with_interval(one.servers, one.n, sign="+", digits=2),
        )
        for contrast in found
        for one in contrast.differences
    ]
    return [*lines, *page.table(heads, rows)]


def _timelines(results: Sequence[RunResult], logdir: Path) -> list[str]:
    lines = []
    for trace in dict.fromkeys(done.trace for done in results):
        name = f"timeline-{trace}.png"
        try:
            timeline_png([done for done in results if done.trace == trace], logdir / name)
        except PlotError as error:
            return [f"No plots: {error}."]
        lines += [f"![Demand, servers, accuracy and violations over time: {trace}](<{name}>)", ""]
    return lines


def _options(results: Sequence[RunResult]) -> list[str]:
    """What all runs have in common; what differs is in the table and in each run's run.json."""
    given = [msgspec.to_builtins(done.options) for done in results]
    common = {name: value for name, value in given[0].items() if all(one[name] == value for one in given)} if given else {}
    lines = [f"- {name}: {value}" for name, value in common.items() if value is not None]
    rest = "What is not listed is as the pipeline file says, or the policy's own choice."
    repeat = "Every run folder has a run.json; `loki-rl simulate --config run.json` repeats the run."
    return [*lines, "", rest, repeat, "Curves of all runs: `tensorboard --logdir` with this folder."]
