"""A plane of emulated workers on this host, and a client that sends it requests."""

from collections import Counter

import loki_rl
from loki_rl.core.options import ClusterOptions
from loki_rl.serving.process.launch import LocalPlane


def main() -> None:
    pipeline = loki_rl.load_pipeline("traffic").pipeline
    with (
        LocalPlane(ClusterOptions(pipeline, servers=6), policy_options={"servers": 6, "initial_rps": 20.0}) as plane,
        loki_rl.Client(plane.front) as client,
    ):
        answers = [client.infer() for _ in range(20)]
    print(dict(Counter(answer.outcome for answer in answers)))
    last = answers[-1]
    print(f"the last took {1000 * last.latency_s:.0f} ms at accuracy {last.accuracy:.3f}, through {last.served[0]} ...")


# A plane is several processes.
if __name__ == "__main__":
    main()
