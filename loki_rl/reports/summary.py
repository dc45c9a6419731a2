"""Means over seeds, and the order of policies by cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from msgspec import Struct

from loki_rl.core.requests.ledger import VIOLATION_WEIGHT, Summary, cost
from loki_rl.runs.result import RunResult

WEIGHTS = (2.0, VIOLATION_WEIGHT, 10.0)
DRIVERS = ("twin", "emulated", "onnx")
ASSUMED = "†"
NOTHING = "-"


class Average(Summary, kw_only=True):
    """Means over the n seeds of one policy on one trace; None where no run counted it. cost_j_2, cost_j_10: the cost with a
    violation weight of 2 or 10 instead of 5."""

    trace: str
    policy: str
    driver: str
    provenance: str
    n: int
    cost_j_2: float | None
    cost_j_10: float | None

    def share(self, count: float) -> float:
        """Of the arrivals."""
        return count / self.arrivals if self.arrivals else 0.0


Groups = dict[tuple[str, str, str], list[RunResult]]


def weighted_cost(done: RunResult, weight: float) -> float | None:
    """The cost of a run with another violation weight; None where the servers were not counted."""
    found = done.summary
    if found.servers_mean is None or found.accuracy is None:
        return None
    share = found.servers_mean / done.servers
    return cost(found.arrivals, found.ok, found.ok * found.accuracy, done.best_accuracy, share, weight)


def groups(results: Iterable[RunResult]) -> Groups:
    """(trace, policy, driver) -> its seeds: traces and policies in the order in which they first appear, a policy's drivers
    side by side."""
    found: Groups = {}
    for done in results:
        found.setdefault((done.trace, done.options.policy, done.options.driver), []).append(done)
    traces = list(dict.fromkeys(trace for trace, _, _ in found))
    policies = list(dict.fromkeys(policy for _, policy, _ in found))
    keys = sorted(found, key=lambda key: (traces.index(key[0]), policies.index(key[1]), DRIVERS.index(key[2])))
    return {key: found[key] for key in keys}


def averages(results: Iterable[RunResult]) -> list[Average]:
    """One line for each (trace, policy, driver)."""
    return [_average(*key, seeds) for key, seeds in groups(results).items()]


def _average(trace: str, policy: str, driver: str, seeds: Sequence[RunResult]) -> Average:
    return Average(
        trace=trace,
        policy=policy,
        driver=driver,
        provenance=max((done.provenance for done in seeds), key=lambda name: name == "assumed"),
        n=len(seeds),
        cost_j_2=_mean([weighted_cost(done, 2.0) for done in seeds]),
        cost_j_10=_mean([weighted_cost(done, 10.0) for done in seeds]),
        **means([done.summary for done in seeds]),
    )


def means(summaries: Sequence[Summary]) -> dict[str, Any]:
    """The mean of every figure over those that know it."""
    # Any: a mean is None only where the figure itself may be, and that of a count is no whole number.
    return {name: _mean([getattr(one, name) for one in summaries]) for name in Summary.__struct_fields__}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


Order = list[tuple[str, float]]


def orders(rows: Sequence[Average]) -> list[tuple[str, str, dict[float, Order]]]:
    """(trace, driver, violation weight -> (policy, cost) from the lowest cost to the highest), where costs are known."""
    found = []
    for trace, driver in dict.fromkeys((row.trace, row.driver) for row in rows):
        here = [row for row in rows if (row.trace, row.driver) == (trace, driver) and row.cost_j is not None]
        if len(here) > 1:
            found.append((trace, driver, {weight: _order(here, weight) for weight in WEIGHTS}))
    return found


def _order(rows: Sequence[Average], weight: float) -> Order:
    costs = {2.0: "cost_j_2", VIOLATION_WEIGHT: "cost_j", 10.0: "cost_j_10"}
    known = [(row.policy, float(getattr(row, costs[weight]))) for row in rows]
    return sorted(known, key=lambda one: one[1])


# -- columns --------------------------------------------------------------------------------------------------------------


class Column(Struct, frozen=True):
    """A column of the comparison. short: its title where space is short, empty for one that is left out there. figure:
    whether it was made with the pipeline's figures, so that an assumption shows."""

    title: str
    short: str
    text: Callable[[Average], str]
    figure: bool = True

    def of(self, row: Average) -> str:
        """The text, marked where it rests on an assumption."""
        text = self.text(row)
        return text + ASSUMED if self.figure and row.provenance == "assumed" and text != NOTHING else text


def columns(rows: Sequence[Average]) -> list[Column]:
    """Violations, accuracy and servers always stand together. Cancelled and failed requests have a column where there are
    any: what is printed adds up."""
    rare = any(row.cancelled + row.failed for row in rows)
    other = Column("other %", "other\n%", lambda row: _percent(row.share(row.cancelled + row.failed), 1))
    return [
        Column("trace", "trace", lambda row: row.trace, figure=False),
        Column("policy", "policy", lambda row: row.policy, figure=False),
        Column("driver", "driver", lambda row: row.driver, figure=False),
        Column("n", "n", lambda row: str(row.n), figure=False),
        Column("arrivals", "arri-\nvals", lambda row: f"{row.arrivals:.0f}", figure=False),
        Column("violations %", "viol.\n%", lambda row: _percent(row.slo_violation_ratio)),
        Column("accuracy %", "acc.\n%", _accuracy),
        Column("servers", "ser-\nvers", lambda row: _number(row.servers_mean, 1)),
        Column("late %", "late\n%", lambda row: _percent(row.share(row.late), 1)),
        Column("dropped %", "drop.\n%", lambda row: _percent(row.share(row.dropped), 1)),
        Column("rejected %", "rej.\n%", lambda row: _percent(row.share(row.rejected), 1)),
        *([other] if rare else []),
        Column("p50 ms", "", lambda row: _number(row.p50_ms, 0)),
        Column("p99 ms", "p99\nms", lambda row: _number(row.p99_ms, 0)),
        Column("switches", "loads", lambda row: _number(row.switches, 0)),
        Column("J", "J", lambda row: _number(row.cost_j, 3)),
    ]


def _accuracy(row: Average) -> str:
    return NOTHING if row.accuracy is None or not row.ok else _percent(row.accuracy)


def _percent(share: float, digits: int = 2) -> str:
    return f"{100 * share:.{digits}f}"


def _number(value: float | None, digits: int) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"
