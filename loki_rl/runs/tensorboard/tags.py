"""What each tag of a run in TensorBoard means: one thing, in one unit, along one axis. `serving/*` and `policy/*` have a
point for each second of the trace, `seeds/*` too, of several runs; `final/*` is one figure of the whole run."""

from __future__ import annotations

# What people ask of a run first.
FIGURES = ("slo_violation_ratio", "accuracy", "servers_mean", "p99_ms", "cost_j")

SECOND = {
    "serving/slo_violation_ratio": "share of the requests that arrived in this second and were not answered in time, 0..1",
    "serving/demand_rps": "requests that arrived in this second",
    "serving/goodput_rps": "of these, requests that were answered in full and in time",
    "serving/servers_used": "servers that pulled work or loaded a model",
    "serving/switches": "models that began to load",
    "serving/accuracy": "accuracy of what arrived in this second and was answered in time, 0..1; the last one if none was",
    "policy/planned_demand_rps": "demand that the plan has room for [requests/s]: more than there is if more may come",
    "policy/planned_capacity_rps": "what the plan in force can serve [requests/s]",
    "policy/planned_accuracy": "accuracy that the plan expects at that demand, 0..1",
    "policy/planned_servers": "servers that the plan uses",
    "policy/served_fraction": "share of that demand which the plan serves, 0..1",
    "policy/mode": "0 hardware (the most accurate models suffice), 1 accuracy (cheaper ones step in), 2 shed, 3 infeasible",
    "policy/solve_ms": "time to solve the plan's models [ms]",
    "policy/gap": "how far the plan may be from the best one, as a share",
    "policy/headroom": "factor of an agent on the demand that may come, less 1",
    "policy/odds": "factor of an agent on how likely that demand is",
    "policy/fallback": "1 where the agent was not believed",
    "shadow/behind_s": "how far the twin is behind the plane [s]",
}

FINAL = {
    "arrivals": "requests that arrived",
    "ok": "answered in full and in time",
    "late": "answered after their deadline",
    "dropped": "given up on the way, for they could not be in time",
    "rejected": "refused at the gateway",
    "cancelled": "taken back by their clients",
    "failed": "lost to a fault",
    "slo_violation_ratio": "share of all requests that were not answered in full and in time, 0..1",
    "leaf_violation_ratio": "share of all results that came late or never, 0..1",
    "accuracy": "mean accuracy of what was answered in time, 0..1",
    "servers_mean": "mean number of servers in use",
    "p50_ms": "median latency of what was answered [ms]",
    "p99_ms": "99th percentile of the latency of what was answered [ms]",
    "task_executions": "items that models ran on",
    "switches": "model loads",
    "cost_j": "J = 5 x violations + accuracy lost + 0.1 x share of the servers used; less is better",
}

DESCRIPTIONS = SECOND | {f"final/{name}": text for name, text in FINAL.items()}
