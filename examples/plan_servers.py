"""What should run on 20 servers at 300 requests/s, how that changes with demand, and how much they can serve at all."""

import loki_rl

plan = loki_rl.plan("traffic", 300)
print(plan)
for place in plan.placements:
    print(f"  {place.replicas} x {place.task}: {place.variant}, batches of up to {place.batch}")
for reason in plan.reasons:
    print(f"  {reason}")

print("\ndemand/s  mode      servers  accuracy  served")
for one in loki_rl.ladder("traffic", range(200, 2201, 400)).plans:
    print(f"{one.demand_rps:8g}  {one.mode:8}  {one.servers:7}  {one.accuracy:8.3f}  {one.served_fraction:6.1%}")

most = loki_rl.capacity("traffic", min_accuracy=0.9)
print(f"\nAt most {most.capacity_rps:.0f} requests/s with a mean accuracy of 90 %.")
