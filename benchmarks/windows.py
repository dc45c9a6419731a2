"""What policies cost on windows of real and generated demand, in the event twin: *traffic*, 20 servers, loads of 5 s, at a
mean the best models can serve and at 60 % of what the cheapest can. Writes one line of JSON a run and goes on where it
stopped; prints a table per family, and what each policy saves against `exact` on the same windows.
benchmarks/windows.jsonl holds the costs at commit 12d835f, to compare with.

    python -m benchmarks.windows --traces FOLDER --out costs.jsonl [--windows N] [--levels 131] [--policies exact]
    python -m benchmarks.windows --traces FOLDER --out costs.jsonl --policies learned --model agent.npz
    python -m benchmarks.windows --table costs.jsonl
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np

from loki_rl.agents.evaluate.families import Window, cut, generated
from loki_rl.agents.evaluate.judge import Run, run, verdicts
from loki_rl.runs.options import RunOptions

WINDOWS = 6
OF = RunOptions("traffic", servers=20, load_s=5.0)
LEVELS = (131.0, 1070.0)
POLICIES = ("exact", "forecast", "clairvoyant", "loki", "static", "hardware")
# File -> the most that its time is compressed; less where six windows would overlap.
REAL = {
    "twitter_2021_day01": 10.0,
    "twitter_2021_day06": 10.0,
    "nasa_http_1995_jul10-14": 96.0,
    "worldcup98_may25-jun19": 288.0,
    "azure_functions_2019_500f": 60.0,
    "azure_llm_code_2023.arrivals": 8.0,
    "servegen_m-large_2025": 120.0,
    "servegen_mm-image_2025": 120.0,
    "nab_elb_requests_2014": 300.0,
    "alibaba_genai_2024_nov": 3000.0,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, help="folder of the real traces: NAME.csv.gz, also of those that ship")
    parser.add_argument("--out", type=Path, default=Path("costs.jsonl"))
    parser.add_argument("--windows", type=int, default=WINDOWS, help="of each family and level")
    parser.add_argument("--levels", nargs="+", type=float, default=LEVELS, help="mean requests/s")
    parser.add_argument("--policies", nargs="+", default=POLICIES)
    parser.add_argument("--model", help="agent.npz of the policies that take one")
    parser.add_argument("--table", type=Path, help="only print the table of this file")
    given = parser.parse_args()
    if given.table is None:
        with TemporaryDirectory() as folder:
            found = windows(given.traces, Path(folder), given.levels, given.windows)
            play(found, given.policies, given.model, given.out)
    show(msgspec.convert(rows(given.table or given.out), list[Run]))


def windows(traces: Path | None, folder: Path, levels: Iterable[float], most: int) -> Iterator[Window]:
    files = {} if traces is None else {traces / f"{name}.csv.gz": faster for name, faster in REAL.items()}
    for level in levels:
        for number in range(most):
            yield from generated(folder, OF, level, number)
            yield from cut(files, OF, level, number, WINDOWS)


def play(found: Iterable[Window], policies: Iterable[str], model: str | None, out: Path) -> None:
    known = {(row["family"], row["window"], row["level"], row["policy"]) for row in rows(out)}
    for window in found:
        for policy in policies:
            if (window.family, window.number, window.level, policy) not in known:
                done = run(window, policy, policy, model)
                with out.open("ab") as file:
                    file.write(msgspec.json.encode(done) + b"\n")


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def show(found: list[Run]) -> None:
    """Mean J and share lost per level, family and policy, then the verdicts against `exact`."""
    for level in dict.fromkeys(row.level for row in found):
        mine = [row for row in found if row.level == level]
        names = list(dict.fromkeys(row.policy for row in mine))
        print(f"\n{level:g} requests/s: J; lost [%]\n{'family':<29}" + "".join(f"{name:>16}" for name in names))
        for family in dict.fromkeys(row.family for row in mine):
            cells = (cell([row for row in mine if (row.family, row.policy) == (family, name)]) for name in names)
            print(f"{family:<29}" + "".join(cells))
        for one in verdicts(mine) if "exact" in names else ():
            saved, share = one.saved, one.share
            print(
                f"{one.policy} on {one.family or 'all'}: saves {saved.value:+.4f} [{saved.low:+.4f}, {saved.high:+.4f}] J, "
                f"{100 * share.value:.0f} % [{100 * share.low:.0f}, {100 * share.high:.0f}] of the gap; loses "
                f"{100 * one.more_lost.value:+.3f} points; trusted {100 * one.trusted:.0f} %"
            )


def cell(seen: Sequence[Run]) -> str:
    if not seen:
        return f"{'-':>16}"
    return f"{np.mean([row.cost_j for row in seen]):>9.4f} {100 * np.mean([row.violations for row in seen]):>6.2f}"


if __name__ == "__main__":
    main()
