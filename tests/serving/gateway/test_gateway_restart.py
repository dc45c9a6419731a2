"""A gateway's process is killed and started again beside nodes that live on: clients are served, the ledger goes on, and
nobody gets two answers."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from msgspec.structs import replace

from loki_rl.core.journal import replay
from loki_rl.core.messages import CONTROLLER, GATEWAY, Drain, Outcome, router, worker
from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.core.requests.ledger import Tally
from loki_rl.serving.gateway.client import Client, Inference
from loki_rl.serving.gateway.ledger_snapshot import read_snapshot
from loki_rl.serving.plane import LAUNCHER, NodeSpec, PlaneFile, pack_options
from loki_rl.serving.process.child import Child
from loki_rl.serving.process.node import LEDGER, Node
from loki_rl.serving.transport.mailbox import Mailbox
from loki_rl.serving.transport.multipart import Context
from loki_rl.serving.transport.wire import ControlWord, Gone, Idle, Leave, Letter, Up, Warm
from tests.serving.driving import eventually

# Slow enough that requests are still on their way when the next snapshot is taken.
SLOW = {n: Latency(1.2, 1.2, 1.2) for n in (1, 2, 4, 8)}
FAST = {n: Latency(0.01, 0.01, 0.01) for n in (1, 2, 4, 8)}
PIPELINE = Pipeline(
    name="two",
    slo_s=10.0,
    tasks=(
        Task("first", (Variant("only", 1.0, SLOW, {"last": 1.0}),), entry=1.0),
        Task("last", (Variant("only", 1.0, FAST),), parent="first"),
    ),
    leaf_weights={"last": 1.0},
)
WORKERS = 3
SPECS = (
    NodeSpec(GATEWAY, (GATEWAY,)),
    NodeSpec(CONTROLLER, (CONTROLLER,)),
    *(NodeSpec(f"router-{task}", (router(task),)) for task in range(2)),
    NodeSpec("workers-0", tuple(map(worker, range(WORKERS)))),
)


class Plane:
    """The gateway in a process of its own, all others in threads, and what a launcher does of their words."""

    def __init__(self, context: Context, folder: Path) -> None:
        self.folder = folder
        self.front = f"ipc://{folder}/front"
        self.journal = folder / "journal"
        self.plane = PlaneFile(
            pack_options(ClusterOptions(PIPELINE, WORKERS)),
            SPECS,
            self.front,
            policy="hardware",
            journal=str(self.journal),
        )
        self.plane.write(folder)
        self.mailbox = Mailbox(context, LAUNCHER, self.plane.endpoints(folder))
        self.words: list[ControlWord] = []
        self.nodes = [Node(self.plane, spec.name, folder, context) for spec in SPECS[1:]]
        self.threads = [threading.Thread(target=node.run, name=node.spec.name) for node in self.nodes]
        for thread in self.threads:
            thread.start()
        self.gateway = self.start()
        self.hear(Warm())

    def start(self) -> Child:
        command = [sys.executable, "-m", "loki_rl.serving.process.node", str(self.folder), GATEWAY]
        return Child(GATEWAY, command, self.folder / "gateway.log")

    def hear(self, wanted: ControlWord) -> None:
        """Wait for this word of a node."""
        while wanted not in self.words:
            assert self.mailbox.inbox.poll(30_000), f"it never came; {self.words}, {self.gateway.last_words()}"
            self.words += self.mailbox.take(64)[1]

    def kill(self) -> None:
        self.gateway.kill()
        self.gateway.reap()

    def restart(self) -> None:
        """As a supervisor does: first everybody is told where the next one will listen."""
        old = self.plane.node(GATEWAY)
        fresh = replace(old, incarnation=old.incarnation + 1)
        self.plane = replace(self.plane, nodes=(fresh, *SPECS[1:]))
        self.plane.write(self.folder)
        endpoint = fresh.endpoint(self.folder)
        self.mailbox.forget(GATEWAY, endpoint)
        for spec in SPECS[1:]:
            self.mailbox.say(spec.name, Gone(GATEWAY, endpoint))
        self.words.clear()
        self.gateway = self.start()
        self.hear(Up(GATEWAY))

    def kept(self) -> Tally:
        found = read_snapshot(self.folder / LEDGER)
        return Tally() if found is None else found[1]

    def open(self) -> dict[str, int]:
        kept = self.kept()
        return {"known": kept.arrivals, "open": sum(second.open for second in kept.seconds.values())}

    def close(self) -> None:
        self.gateway.terminate()
        assert self.gateway.reap() == 0, self.gateway.last_words()
        for node, thread in zip(self.nodes, self.threads, strict=True):
            node.driver.stop()
            thread.join(10)
            node.close()
        self.mailbox.close()


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    """At the end the journal of the gateway's last life is played again, to the same effects."""
    with zmq.Context() as context:
        plane = Plane(context, tmp_path)
        yield plane
        plane.close()
    last = plane.plane.node(GATEWAY).incarnation
    told = replay([(plane.journal / f"{GATEWAY}.{last}.journal").read_bytes()], check=True)
    assert isinstance(told, int), told


def answers(client: Client, count: int) -> list[Inference]:
    found: list[Inference] = []
    while len(found) < count:
        more = client.poll(30.0)
        assert more, "no answer"
        found += [answer for answer in more if isinstance(answer, Inference)]
    return found


def outcomes(tally: Tally) -> Counter[str]:
    return Counter({outcome.name.lower(): tally.outcome(outcome) for outcome in Outcome})


def test_a_killed_gateway_goes_on_with_its_ledger_and_answers_nobody_twice(plane: Plane) -> None:
    with Client(plane.front, timeout_s=30.0) as former:
        for _ in range(6):
            former.submit()
        assert [answer.outcome for answer in answers(former, 6)] == ["ok"] * 6
        uptime_s = former.state().uptime_s
        for _ in range(6):
            former.submit()
        eventually(lambda: plane.open() == {"known": 12, "open": 6}, "they are written down as open")
        plane.kill()
        plane.restart()
        with Client(plane.front, timeout_s=30.0) as client:
            assert client.describe().ready, "at once"
            assert [client.infer().outcome for _ in range(2)] == ["ok"] * 2
            found = client.ledger().tally
            found.validate()
            assert found.arrivals == 14
            assert +outcomes(found) == Counter(ok=8, failed=6)
            assert len(found.plans) >= 1
            state = client.state()
            assert state.requests.arrivals == 14
            assert state.requests.outcomes == [8, 0, 0, 0, 0, 6]
            assert state.uptime_s > uptime_s
            assert state.ready
            # What the workers still had of the six has ended by now, as what came after it has.
            assert not any(stage.queued for stage in state.stages)
            assert not [answer for answer in former.poll() if isinstance(answer, Inference) and answer.outcome == "ok"]
        assert [former.infer().outcome] == ["ok"], "clients of before find the new one by themselves"


def test_it_goes_on_a_second_time_and_a_new_run_is_kept_at_once(plane: Plane) -> None:
    for life in range(2):
        with Client(plane.front, timeout_s=30.0) as client:
            origin = client.begin_run()
            client.infer()
            eventually(lambda: outcomes(plane.kept())["ok"] == 1, "it is written down")
            plane.kill()
        plane.restart()
        with Client(plane.front, timeout_s=30.0) as client:
            client.infer()
            found = client.ledger().tally
            assert +outcomes(found) == Counter(ok=2), f"of the run of this life alone ({life}, {origin})"
            assert client.state().requests.arrivals == 2 * (life + 1), "counters only rise"


def test_one_that_was_about_to_stop_still_is(plane: Plane) -> None:
    plane.mailbox.say(GATEWAY, Leave())
    plane.mailbox.post(GATEWAY, Letter(GATEWAY, Drain(), ()), ())
    plane.mailbox.flush()
    plane.hear(Idle())

    def written() -> bool:
        found = read_snapshot(plane.folder / LEDGER)
        return found is not None and found[0].gateway.draining and found[0].leaving

    eventually(written, "it is written down")
    plane.kill()
    plane.restart()
    plane.hear(Idle())
    with Client(plane.front, timeout_s=30.0) as client:
        assert not client.describe().ready
        assert client.infer().outcome == "rejected"
