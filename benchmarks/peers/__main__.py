"""Our plane beside what others would pick, on this host and its cores: the same ONNX models, the same client, in turns.

Each peer gets a virtual environment of its own from PyPI below build/peers, made at the first call. What was measured is
kept in build/peers/report, a file for each peer and work, with a table (report.md) and a picture (report.png) of all.
Whatever else runs on the host counts too, so leave it alone meanwhile; `taskset -c 0,1` before the command holds both sides
and the client to some cores.
"""

from __future__ import annotations

import argparse
import signal
import sys
from functools import partial
from pathlib import Path
from typing import get_args

from benchmarks.peers.catalog import PEERS, Peer
from benchmarks.peers.contestants import FOLDER
from benchmarks.peers.duels import Plan, Row, WorkLoad, null_duel, reading_duel
from benchmarks.peers.environment import environment, versions
from benchmarks.peers.plot import draw
from benchmarks.peers.report import Report, host, load_all, page, save, told
from loki_rl.errors import UserError

NAMED = ("onnxruntime", "numpy")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("peers", nargs="+", choices=[*PEERS, "all"], help="whom to measure")
    parser.add_argument("--work", nargs="+", choices=get_args(WorkLoad), default=list(get_args(WorkLoad)))
    parser.add_argument("--rounds", type=at_least_one, default=3)
    parser.add_argument(
        "--seconds", type=at_least_one, default=10, help="of one case; the flash crowd takes six times as long"
    )
    parser.add_argument("--layout", choices=("compact", "spread"), help="of our plane's processes (default: its own)")
    parser.add_argument("--out", type=Path, default=FOLDER / "report")
    args = parser.parse_args()
    # Servers that were started are stopped then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    plan = Plan(tuple(args.work), args.rounds, args.seconds, args.layout)
    try:
        for name in PEERS if "all" in args.peers else args.peers:
            _measure(PEERS[name], plan, args.out)
        reports = load_all(args.out)
        (args.out / "report.md").write_text(page(reports))
        draw(reports, args.out / "report.png")
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
    print(page([report for report in reports if "all" in args.peers or report.peer in args.peers]))


def at_least_one(word: str) -> int:
    number = int(word)
    if number < 1:
        raise ValueError
    return number


def _measure(peer: Peer, plan: Plan, out: Path) -> None:
    """What there is so far is kept after every row. Raises PeerError."""
    there = versions(environment(FOLDER / peer.name, peer.name, peer.requirements))
    packages = [requirement.partition(">")[0].partition("[")[0] for requirement in peer.requirements]
    found = {package: there.get(package, "") for package in (*packages, *NAMED)}
    duels = {"null": null_duel} if "null" in plan.loads else {}
    duels |= {"reading": reading_duel} if set(plan.loads) - {"null"} else {}
    for work, duel in duels.items():
        layout = plan.layout or "default"
        report = Report(peer.name, peer.title, work, host(), found, plan.rounds, plan.seconds, layout, [])
        duel(peer, plan, partial(_keep, report, out))


def _keep(report: Report, out: Path, row: Row) -> None:
    print(told(row), flush=True)
    report.rows.append(row)
    save(report, out)


if __name__ == "__main__":
    main()
