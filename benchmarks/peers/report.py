"""What was measured, as JSON and as tables: medians over rounds, and ours over the peer's. Owns both forms."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import msgspec
from msgspec import Struct

from benchmarks.host import load_average
from benchmarks.peers.cases import Figures
from benchmarks.peers.contestants import OURS
from benchmarks.peers.duels import Row
from loki_rl.files.tables import ConfigError

# Figures of a table, with their unit and how many digits they have.
COLUMNS = {
    "offered_rps": ("offered [1/s]", 1),
    "rps": ("served in time [1/s]", 1),
    "exact_rps": ("x accuracy", 1),
    "accuracy": ("accuracy", 3),
    "p50_ms": ("p50 [ms]", 2),
    "p99_ms": ("p99 [ms]", 1),
    "cpu_us": ("CPU/req [us]", 0),
    "cores": ("cores", 3),
}


class Host(Struct):
    """Where and when."""

    system: str
    cores: int
    load: str


class Report(Struct):
    """Of one peer and work. versions: of what its environment has. layout: of our plane."""

    peer: str
    title: str
    work: str
    host: Host
    versions: dict[str, str]
    rounds: int
    seconds: float
    layout: str
    rows: list[Row]


def host() -> Host:
    return Host(platform.platform(), len(os.sched_getaffinity(0)), load_average())


def save(report: Report, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{report.peer}-{report.work}.json").write_bytes(msgspec.json.format(msgspec.json.encode(report)))


def load_all(folder: Path) -> list[Report]:
    """What was measured so far. Raises ConfigError for a file that is none of these."""
    found = []
    for file in sorted(folder.glob("*.json")):
        try:
            found.append(msgspec.json.decode(file.read_bytes(), type=Report))
        except msgspec.MsgspecError as error:
            raise ConfigError(f"{file} is no report of this benchmark: {error}; remove it") from error
    return found


def medians(rows: Sequence[Row]) -> dict[tuple[str, str, str], Figures]:
    """(work, case, contestant) -> the median of each figure over the rounds that have it; none where all failed."""
    found: dict[tuple[str, str, str], list[Figures]] = {}
    for row in rows:
        found.setdefault((row.work, row.case, row.contestant), []).append(row.figures)
    return {key: _medians(many) for key, many in found.items()}


def _medians(many: Sequence[Figures]) -> Figures:
    names = sorted({name for one in many for name in one})
    return {name: median(one[name] for one in many if name in one) for name in names}


def page(reports: Sequence[Report]) -> str:
    """Markdown: every row of every peer."""
    return "\n".join(_part(report) for report in reports)


def _part(report: Report) -> str:
    found = medians(report.rows)
    head = ["work, case", "server", *(title for title, _ in COLUMNS.values()), "ours / peer"]
    lines = [
        f"## {report.title}, {report.work}",
        "",
        f"{report.host.system}, {report.host.cores} cores, {report.host.load}; {report.rounds} rounds of "
        f"{report.seconds:g} s a case; layout {report.layout}; "
        + ", ".join(f"{name} {version}" for name, version in report.versions.items()),
        "",
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
    ]
    for work, case in dict.fromkeys(key[:2] for key in found):
        beside = {name: figures for (other, same, name), figures in found.items() if (other, same) == (work, case)}
        for name, figures in beside.items():
            cells = [_cell(figures, column, digits) for column, (_, digits) in COLUMNS.items()]
            ratios = _ratios(name, beside) if name.startswith(OURS) else ""
            lines.append(f"| {work}, {case} | {name} | {' | '.join(cells)} | {ratios} |")
    errors = [
        f"- {row.work}, {row.case}, {row.contestant}, round {row.round}: {row.error}" for row in report.rows if row.error
    ]
    return "\n".join([*lines, "", *errors, ""])


def _cell(figures: Figures, name: str, digits: int) -> str:
    return f"{figures[name]:,.{digits}f}" if name in figures else ""


def _ratios(name: str, beside: Mapping[str, Figures]) -> str:
    """Of what is served in time and, where the client waits for answers, of the median latency: ours over each peer's."""
    ours = beside[name]
    names = {"rps": "rate", "exact_rps": "x accuracy"} if "accuracy" in ours else {"rps": "rate", "p50_ms": "p50"}
    found = []
    for other, theirs in beside.items():
        ratios = [
            f"{title} {ours[key] / theirs[key]:.2f}x" for key, title in names.items() if key in ours and theirs.get(key)
        ]
        if not other.startswith(OURS) and ratios:
            found.append(f"{other}: {', '.join(ratios)}")
    return "; ".join(found)


def told(row: Row) -> str:
    """A line while it runs."""
    figures = row.error or "  ".join(f"{name} {value:.4g}" for name, value in row.figures.items())
    return f"{row.work:18}{row.case:30}{row.contestant:24}{row.round:3}  {figures}"
