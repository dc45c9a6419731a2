"""Plays fixed-seed runs of the twin and prints a digest of every ledger and journal, to compare before and after moves.

    cd CHECKOUT && .venv/bin/python ledgers.py > before.txt      (ledgers.py [PIPELINE ...] plays these alone)
    ... the moves ...
    .venv/bin/python ledgers.py > after.txt && diff before.txt after.txt && echo identical

4 pipelines x 8 policies on 120 s of flash_crowd, at a rate that lies between what the best and the fastest models serve.
Names are looked up in the sources, so that the same file runs on both layouts. The time limit of solves is 600 s, so that
another load of the machine cannot change a plan; times of solves are taken out of plans. A line is: pipeline, policy,
requests, events of the twin, plans, digest of the ledger (Tally), digest of the journal (every event and effect of every
actor), or the error that the pair ends with.
"""

import hashlib
import importlib
import re
import sys
from pathlib import Path

import msgspec
from msgspec.structs import replace

PIPELINES = {"traffic": 300.0, "reading": 60.0, "social": 200.0, "traffic-published": 400.0}
POLICIES = ("static", "hardware", "proteus", "loki", "exact", "forecast", "ppo", "clairvoyant")
SOUGHT = (r"class RunOptions\b", r"def prepare\(options: RunOptions", r"def make_policy\b", r"def simulate\(\s*options: ClusterOptions")
ROOT = Path.cwd()
sys.path.insert(0, str(ROOT))


def find(pattern: str):
    """The class or function whose definition begins so, wherever it lives outside the command line."""
    name = re.search(r"\w+", pattern.split(" ", 1)[1]).group()
    where = []
    for top in ("loki_rl", "env"):
        for file in sorted((ROOT / top).rglob("*.py")):
            if "cli" in file.parts or not re.search("^" + pattern, file.read_text(), re.M):
                continue
            parts = file.relative_to(ROOT).with_suffix("").parts
            where.append(".".join(parts if parts[0] == "loki_rl" else ("loki_rl", *parts)))
    found = {getattr(importlib.import_module(one), name) for one in where}
    assert len(found) == 1, (pattern, where)
    return found.pop()


def timeless(plan):
    """Without what depends on the clock of this machine."""
    return replace(plan, certificate=replace(plan.certificate, solve_ms=0.0, build_ms=0.0))


def main() -> None:
    options_of, prepare, make_policy, simulate = map(find, SOUGHT)
    wanted = sys.argv[1:] or list(PIPELINES)
    for pipeline in wanted:
        for number, policy in enumerate(POLICIES):
            options = options_of(
                pipeline=pipeline, trace="flash_crowd", policy=policy, seed=7 + number, from_s=30.0, to_s=150.0,
                mean_rps=PIPELINES[pipeline],
            )
            try:
                print(f"{pipeline:18}{policy:12}", played(options, prepare, make_policy, simulate), flush=True)
            except ValueError as error:
                print(f"{pipeline:18}{policy:12}", type(error).__name__, error, flush=True)


def played(options, prepare, make_policy, simulate) -> str:
    scene = prepare(options)
    policy = make_policy(options.policy, scene.pipeline, replace(scene.policy, time_limit_s=600.0))
    journal, encode = hashlib.sha256(), msgspec.msgpack.Encoder().encode

    def record(address, now, event, effects) -> None:
        journal.update(encode((address, now, event, effects)))

    done = simulate(scene.cluster, lambda seen: timeless(policy.decide(seen)), scene.times, scene.duration_s, record=record)
    ledger = hashlib.sha256(encode(done.tally)).hexdigest()
    return f"{len(scene.times):6} {done.events:8} {len(done.tally.plans):4} {ledger[:24]} {journal.hexdigest()[:24]}"


main()
