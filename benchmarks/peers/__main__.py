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
from collections.abc import Sequence
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
    names = list(PEERS) if "all" in args.peers else args.peers
    try:
        errors = [error for name in names for error in _measure(PEERS[name], plan, args.out)]
        _show(names, args.out)
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
    if errors:
        sys.exit("\n".join(f"error: {error}" for error in errors))


def at_least_one(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"'{word}' is no whole number of at least 1")
    return int(word)


def _show(names: Sequence[str], out: Path) -> None:
    """All that was ever measured goes into the files, these peers on the screen. Raises ConfigError, OSError."""
    reports = load_all(out)
    if reports:
        (out / "report.md").write_text(page(reports))
        draw(reports, out / "report.png")
    print(page([report for report in reports if report.peer in names]))


def _measure(peer: Peer, plan: Plan, out: Path) -> list[UserError]:
    """What there is so far is kept after every row. What keeps a peer from being measured costs no other peer its turn."""
    duels = {"null": null_duel} if "null" in plan.loads else {}
    duels |= {"reading": reading_duel} if set(plan.loads) - {"null"} else {}
    errors: list[UserError] = []
    for work, duel in duels.items():
        try:
            found = _versions(peer)
            layout = plan.layout or "default"
            report = Report(peer.name, peer.title, work, host(), found, plan.rounds, plan.seconds, layout, [])
            duel(peer, plan, partial(_keep, report, out))
        except UserError as error:
            errors.append(error)
    return errors


def _versions(peer: Peer) -> dict[str, str]:
    """Of what the peer's environment, which is made if need be, has. Raises PeerError."""
    there = versions(environment(FOLDER / peer.name, peer.name, peer.requirements))
    packages = [requirement.partition(">")[0].partition("[")[0] for requirement in peer.requirements]
    return {package: there.get(package, "") for package in (*packages, *NAMED)}


def _keep(report: Report, out: Path, row: Row) -> None:
    print(told(row), flush=True)
    report.rows.append(row)
    save(report, out)


if __name__ == "__main__":
    main()
