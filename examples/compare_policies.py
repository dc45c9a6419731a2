"""Three policies meet the same crowd in the twin: the most accurate models alone, Loki's own rule, and `exact`."""

import loki_rl

# The crowd of a trace that ships, four times as many requests.
found = loki_rl.compare(
    "traffic", "flash_crowd", ["hardware", "loki", "exact"], from_s=55, to_s=95, rate_scale=4, logdir="runs/crowd"
)
print("policy     violations  accuracy  servers      J")
for run in found.results:
    one = run.summary
    print(
        f"{run.options.policy:9}  {one.slo_violation_ratio:10.2%}  {one.accuracy or 0:8.2%}  {one.servers_mean:7.1f}"
        f"  {one.cost_j:5.3f}"
    )
print(f"\nIn pictures: {found.report.with_suffix('.html')}")
