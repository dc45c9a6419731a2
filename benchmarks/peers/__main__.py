"""Our plane beside what others would pick, on this host and its cores: the same ONNX models, the same client, in turns.

Each peer gets a virtual environment of its own from PyPI below build/peers, made at the first call. What was measured is
kept a peer each in build/peers/report, with a table (report.md) and a picture (report.png) of all that are there. Whatever
else runs on the host counts too, so leave it alone meanwhile; `taskset -c 0,1` before the command holds both sides and the
client to some cores.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

from benchmarks.peers.catalog import PEERS, Peer
from benchmarks.peers.contestants import FOLDER
from benchmarks.peers.duels import Plan, Row, WorkLoad, duel
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
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="of one case; the flash crowd takes six times as long")
    parser.add_argument("--layout", choices=("compact", "spread"), help="of our plane's processes (default: its own)")
    parser.add_argument("--out", type=Path, default=FOLDER / "report")
    args = parser.parse_args()
    plan = Plan(tuple(args.work), args.rounds, args.seconds, args.layout)
    try:
        for name in PEERS if "all" in args.peers else args.peers:
            save(_measured(PEERS[name], plan), args.out)
        reports = load_all(args.out)
    except UserError as error:
        sys.exit(f"error: {error}")
    (args.out / "report.md").write_text(page(reports))
    draw(reports, args.out / "report.png")
    print(page([report for report in reports if "all" in args.peers or report.peer in args.peers]))


def _measured(peer: Peer, plan: Plan) -> Report:
    python = environment(FOLDER / peer.name, peer.name, peer.requirements)
    where = host()
    rows = duel(peer, plan, _tell)
    there = versions(python)
    packages = [requirement.partition(">")[0].partition("[")[0] for requirement in peer.requirements]
    found = {package: there.get(package, "") for package in (*packages, *NAMED)}
    return Report(peer.name, peer.title, where, found, plan.rounds, plan.seconds, plan.layout or "default", rows)


def _tell(row: Row) -> None:
    print(told(row), flush=True)


if __name__ == "__main__":
    main()
