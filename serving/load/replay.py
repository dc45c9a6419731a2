"""Open-loop replay: sends requests when a trace says so, whatever became of those before."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Container, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from loki_rl.core.messages import Outcome
from loki_rl.core.requests.items import QoS
from loki_rl.core.requests.ledger import Summary, Tally, summarise
from loki_rl.progress import Progress, unseen
from loki_rl.serving.gateway.client import Array, ClientError, Inference
from loki_rl.serving.load.http_sender import HttpSender
from loki_rl.serving.load.native_sender import NativeSender
from loki_rl.serving.load.sender import ReplayError, Seen, Sender
from loki_rl.serving.security.credentials import Credentials
from loki_rl.serving.transport.addresses import AddressError
from loki_rl.serving.transport.protocol import RunLedger
from loki_rl.traces.demand import Wishes

# Beyond deadline and grace, an answer may spend this long on its way before the request has failed.
PATIENCE_S = 1.0
# Longest way of a second's count from the end of that second into the ledger.
_REPORT_S = 0.1
# Between two words of how far the run is.
TOLD_S = 1.0
# Sends in a row, at most, before answers are looked at.
_BURST = 32

Floats = npt.NDArray[np.float64]


class SendLag(Struct):
    """How much later than intended requests were sent. Not small against the SLO: the client was the bottleneck, and the
    latencies (which count from the intended times) say so too."""

    p50_ms: float
    p99_ms: float
    max_ms: float


class ReplayResult(Struct):
    """One run as its client saw it.

    Per request: intended_s and sent_s of trace time (sent_s is NaN if it could not be sent), outcomes (codes of Outcome),
    latency_s from the intended time (NaN if unanswered), accuracy (0 unless ok and told). tally: the client's account per
    second of trace time, with the servers and loads that the server's ledger tells. figures: its summary. ledger: the
    server's own account, None where it has none. kept: request number -> its answer, for those that were to be kept and
    came in time (native protocol only). fault: why the first of those failed that did, as the server says.
    """

    intended_s: Floats
    sent_s: Floats
    outcomes: npt.NDArray[np.int8]
    latency_s: Floats
    accuracy: Floats
    lag: SendLag
    tally: Tally
    figures: Summary
    wall_s: float
    ledger: RunLedger | None
    kept: dict[int, Inference]
    fault: str

    def summary(self) -> dict[str, float | int | None]:
        """The keys that every run prints."""
        keys = (key for key in Summary.__struct_fields__ if key != "switches")
        return {**{key: getattr(self.figures, key) for key in keys}, "wall_s": self.wall_s}


def replay(
    url: str,
    pipeline: str,
    arrivals_s: npt.NDArray[np.floating[Any]],
    payloads: Sequence[Array] | None,
    slo_s: float,
    *,
    warmup: int = 8,
    keep: Container[int] = (),
    wishes: Wishes | None = None,
    credentials: Credentials | None = None,
    progress: Progress = unseen,
) -> ReplayResult:
    """Send request i at arrivals_s[i] (rising, from 0) with payload i modulo their number, and await what becomes of it.

    url: tcp:// or ipc:// (native), http:// or https:// (Open Inference Protocol, any server). payloads: None where the
    engine is emulated. slo_s: deadline of each request. warmup: requests sent and answered one by one before the run begins.
    keep: numbers of the payloads whose answers the result holds. wishes: what each request asks for; nobody comes again.
    credentials: what is shown to the server. progress: is told how much of the trace is over. Raises AddressError for
    another URL, ReplayError or ClientError if the server is not there or refuses what is sent.
    """
    _check(arrivals_s, slo_s)

    def keeps(number: int) -> bool:
        return bool(payloads) and number % len(payloads or ()) in keep

    sender = _sender(url, pipeline, payloads, slo_s, credentials or Credentials())
    return _play(sender, arrivals_s, slo_s, warmup, keeps, wishes, progress)


def replay_over(sender: Sender, arrivals_s: npt.NDArray[np.floating[Any]], slo_s: float, *, warmup: int = 8) -> ReplayResult:
    """As `replay`, over a sender that the caller made; it is closed at the end."""
    _check(arrivals_s, slo_s)
    return _play(sender, arrivals_s, slo_s, warmup, lambda _: False, None, unseen)


def _play(
    sender: Sender,
    arrivals_s: npt.NDArray[np.floating[Any]],
    slo_s: float,
    warmup: int,
    keeps: Callable[[int], bool],
    wishes: Wishes | None,
    progress: Progress,
) -> ReplayResult:
    try:
        for number in range(-warmup, 0):
            _warm(sender, number, slo_s)
        run = _Run(sender, arrivals_s, slo_s, keeps, wishes)
        has_ledger = run.begin()
        run.play(progress)
        return run.result(run.ledger() if has_ledger else None)
    finally:
        sender.close()


def _check(arrivals_s: npt.NDArray[np.floating[Any]], slo_s: float) -> None:
    if not np.all(np.isfinite(arrivals_s)) or np.any(arrivals_s < 0) or np.any(np.diff(arrivals_s) < 0):
        raise ReplayError("arrival times must be finite, rising and not negative")
    if not slo_s > 0:
        raise ReplayError(f"the SLO must be above 0, not {slo_s:g} s")


def _sender(url: str, pipeline: str, payloads: Sequence[Array] | None, slo_s: float, credentials: Credentials) -> Sender:
    if url.startswith(("tcp://", "ipc://")):
        return NativeSender(url, pipeline, payloads, slo_s, credentials.native())
    if url.startswith(("http://", "https://")):
        return HttpSender(url, pipeline, payloads, slo_s, credentials=credentials)
    raise AddressError(f"'{url}' is neither tcp://, ipc:// nor http:// or https://")


def _warm(sender: Sender, number: int, slo_s: float) -> None:
    limit = time.monotonic() + slo_s + sender.grace_s + PATIENCE_S
    sender.send(number, QoS())
    while not any(seen.number == number for seen in sender.poll()):
        left = limit - time.monotonic()
        if left <= 0:
            raise ReplayError("no answer to a request before the run")
        _wait(sender, left)


def _wait(sender: Sender, seconds: float) -> None:
    """Until something may have arrived, at most so long. Unlike poll and epoll, select sleeps for less than 1 ms too."""
    select.select([sender.fileno()], [], [], max(0.0, seconds))


class _Run:
    """Times inside are seconds since `zero`, the beginning of the trace."""

    def __init__(
        self,
        sender: Sender,
        arrivals_s: npt.NDArray[np.floating[Any]],
        slo_s: float,
        keeps: Callable[[int], bool],
        wishes: Wishes | None = None,
    ) -> None:
        self._sender = sender
        self._keeps = keeps
        self._kept: dict[int, Inference] = {}
        self._slo_s = slo_s
        self._limit_s = slo_s + sender.grace_s + PATIENCE_S
        self._zero = 0.0
        self._intended: list[float] = arrivals_s.tolist()
        n = len(self._intended)
        self._qos = [QoS()] * n
        if wishes is not None:
            self._qos = list(map(QoS, wishes.min_accuracy.tolist(), wishes.priority.tolist()))
        self._sent = [float("nan")] * n
        self._latency = [float("nan")] * n
        self._accuracy = [0.0] * n
        self._outcomes = [Outcome.FAILED] * n
        self._tells_accuracy = False
        self._open = n
        self._wall_s = 0.0
        self._fault = ""

    def begin(self) -> bool:
        """Trace time 0 is when the server began its run, as near as can be known from here."""
        before = time.monotonic()
        has_ledger = self._sender.begin_run()
        self._zero = (before + time.monotonic()) / 2
        return has_ledger

    def play(self, progress: Progress) -> None:
        following, n = 0, len(self._intended)
        end = self._intended[-1] + self._limit_s if n else 0.0
        told = 0.0
        while self._open and self._now() < end:
            following = self._send_due(following)
            if self._wall_s >= told:
                progress(min(1.0, self._wall_s / end))
                told = self._wall_s + TOLD_S
            seen = self._sender.poll()
            now = self._now()
            for answer in seen:
                self._see(answer, now)
            self._wall_s = now
            if not seen:
                _wait(self._sender, (self._intended[following] if following < n else end) - now)

    def ledger(self) -> RunLedger | None:
        """The server counts the servers of a second when it is over, so the last one may have to be waited for. A server
        that died in the run must not take the client's account with it."""
        last = int(self._intended[-1]) if self._intended else -1
        try:
            ledger = self._sender.ledger()
            if ledger is not None and last in ledger.tally.seconds and not ledger.tally.seconds[last].servers:
                time.sleep(max(0.0, last + 1 + _REPORT_S - self._now()))
                ledger = self._sender.ledger()
            return ledger
        except (ClientError, ReplayError):
            return None

    def _now(self) -> float:
        return time.monotonic() - self._zero

    def _send_due(self, following: int) -> int:
        for _ in range(_BURST):
            if following == len(self._intended):
                break
            now = self._now()
            if self._intended[following] > now:
                break
            if self._sender.send(following, self._qos[following]):
                self._sent[following] = now
            else:
                self._open -= 1
            following += 1
        return following

    def _see(self, answer: Seen, now: float) -> None:
        number = answer.number
        if number < 0:
            return
        self._open -= 1
        self._sent[number] += answer.waited_s
        latency = now - self._intended[number]
        if latency > self._limit_s:
            return
        outcome = Outcome.LATE if answer.outcome is Outcome.OK and latency > self._slo_s else answer.outcome
        self._latency[number] = latency
        self._outcomes[number] = outcome
        if outcome is Outcome.FAILED:
            self._fault = self._fault or answer.why
        if outcome is Outcome.OK:
            self._accuracy[number] = answer.accuracy or 0.0
            self._tells_accuracy |= answer.accuracy is not None
            if answer.answer is not None and self._keeps(number):
                self._kept[number] = answer.answer

    def result(self, ledger: RunLedger | None) -> ReplayResult:
        tally = self._tally(ledger)
        assert tally.arrivals == sum(map(tally.outcome, Outcome)), "a request is lost from the account"
        return ReplayResult(
            intended_s=np.array(self._intended, np.float64),
            sent_s=np.array(self._sent, np.float64),
            outcomes=np.array(self._outcomes, np.int8),
            latency_s=np.array(self._latency, np.float64),
            accuracy=np.array(self._accuracy, np.float64),
            lag=_lag(self._intended, self._sent),
            tally=tally,
            figures=_figures(tally, ledger, self._tells_accuracy),
            wall_s=self._wall_s,
            ledger=ledger,
            kept=self._kept,
            fault=self._fault,
        )

    def _tally(self, ledger: RunLedger | None) -> Tally:
        """What the client saw; what only the server knows (servers, loads, leaves, plans ...) is taken from its ledger."""
        tally = Tally()
        for intended, outcome, latency, accuracy in zip(
            self._intended, self._outcomes, self._latency, self._accuracy, strict=True
        ):
            tally.arrive(int(intended))
            tally.close(int(intended), outcome, latency, accuracy)
        if ledger is not None:
            for number, second in ledger.tally.seconds.items():
                tally.second(number).servers = second.servers
                tally.second(number).loads = second.loads
            tally.leaves, tally.leaves_bad = ledger.tally.leaves, ledger.tally.leaves_bad
            tally.executions, tally.plans = ledger.tally.executions, ledger.tally.plans
        return tally


def _lag(intended: Sequence[float], sent: Sequence[float]) -> SendLag:
    lags = 1000 * (np.array(sent) - np.array(intended))
    lags = lags[~np.isnan(lags)]
    return SendLag(*map(float, np.percentile(lags, (50, 99, 100)))) if lags.size else SendLag(0.0, 0.0, 0.0)


def _figures(tally: Tally, ledger: RunLedger | None, tells_accuracy: bool) -> Summary:
    """What only a server's ledger or its answers can tell stays None without them."""
    if ledger is not None:
        return summarise(tally, ledger.best_accuracy, ledger.servers)
    unknown = ["leaf_violation_ratio", "servers_mean", "task_executions", "switches", "cost_j"]
    unknown += ["accuracy"] * (not tells_accuracy)
    return msgspec.structs.replace(summarise(tally, 1.0, 1), **dict.fromkeys(unknown))
