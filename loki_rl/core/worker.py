"""A worker: one server that serves one variant at a time."""

from __future__ import annotations

from math import inf

from loki_rl.core.effects import Effect, Load, Run, Send, Unload
from loki_rl.core.messages import (
    CONTROLLER,
    Assign,
    BatchDone,
    Event,
    Execute,
    Fault,
    Leaving,
    Loaded,
    Ready,
    Report,
    Restarted,
    Result,
    Tick,
    routers,
    worker,
)
from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Variant
from loki_rl.core.requests.items import size
from loki_rl.core.router import RETURNED
from loki_rl.core.servers.servers import Servers

Model = tuple[int, int]  # task, variant
PARKED: Model = (-1, -1)


class Worker:
    """Actor at address `worker:<number>`.

    swap (Pipeline.swap): *break* stops pulling, ends its batch, unloads, loads; *make* pulls for the old variant until the
    new one is warm, where the memory of its server holds both. A worker without a target is parked: it pulls nothing, its
    model stays warm. A credit for the next batch is given lead_s before the running one should end, so at most one batch
    waits behind the running one. When that is, the router says with the batch: asked for by a profile that is too fast, the
    next one would be formed too early, of what waits by then, and be late by what the running one takes longer.
    """

    def __init__(self, options: ClusterOptions, number: int, incarnation: int = 0) -> None:
        self.options = options
        self.servers = Servers(options)
        self.server_type = self.servers.type_of(number)
        self.pipeline = self.servers.pipelines[self.server_type]
        self.number = number
        self.incarnation = incarnation
        self.address = worker(number)
        self.routers = routers(self.pipeline)
        self.epoch = -1
        self.target: Model = PARKED
        self.target_batch = 1
        self.serving: Model = PARKED
        self.resident: list[Model] = []
        self.loading: Model = PARKED
        self.started = 0.0
        self.loads = 0
        self.serial = 0
        self.credit_open = False
        self.running: Execute | None = None
        self.next: Execute | None = None
        self.ends = inf
        self.announced = False

    def handle(self, event: Event, now: float) -> list[Effect]:
        effects: list[Effect] = []
        match event:
            case Execute():
                self._accept(event, now, effects)
            case BatchDone():
                self._complete(event, now, effects)
            case Tick():
                if not self.announced:
                    self._report(effects)
                self._credit(now, effects)
            case Assign():
                self._assign(event, now, effects)
            case Loaded():
                self._loaded(event, now, effects)
            case Restarted(address):
                self._peer_restarted(address, effects)
            case _:
                raise TypeError(f"a worker cannot handle {type(event).__name__}")
        return effects

    def wake_at(self) -> float | None:
        if not self.announced:
            return -inf
        early = self.running is not None and self.next is None and not self.credit_open and self.serving != PARKED
        return self._early() if early else None

    def validate(self) -> None:
        assert self.serving == PARKED or self.serving in self.resident, "serves a model that is not resident"
        assert self.loading == PARKED or self.loading not in self.resident, "loads what it has"
        held = [*self.resident, *([self.loading] if self.loading != PARKED else [])]
        limit = 1 if self.pipeline.swap == "break" else 2
        assert len(held) <= limit, "more models in memory than the swap allows"
        memory_mb = self.servers.types[self.server_type].memory_mb
        assert sum(self._variant(model).memory_mb for model in held) <= memory_mb, "more in memory than it holds"
        assert all(self._variant(model).runnable for model in held), "a model that does not run on this type of server"
        assert self.next is None or self.running is not None, "a batch waits while nothing runs"

    def _early(self) -> float:
        """When the next credit may be given: lead_s before the running batch should end, at once when none runs."""
        return -inf if self.running is None else self.ends - self.options.lead_s

    # -- batches ------------------------------------------------------------------------------------------------------

    def _accept(self, event: Execute, now: float, effects: list[Effect]) -> None:
        """A batch for a model that is no longer served goes back: its credit crossed a swap on the way."""
        if self._model_of(event) != self.serving or self.next is not None:
            effects.append(self._result(event, [], 0.0, RETURNED))
            return
        self.credit_open = False
        if self.running is None:
            self._run(event, now, effects)
        else:
            self.next = event

    def _run(self, event: Execute, now: float, effects: list[Effect]) -> None:
        task = self.serving[0]
        self.running = event
        self.ends = now + event.slowdown * self.pipeline.service_s[task][event.variant][size(event.families)]
        effects.append(Run(event.batch, task, event.variant, event.families))

    def _complete(self, event: BatchDone, now: float, effects: list[Effect]) -> None:
        if self.running is None or self.running.batch != event.batch:
            return
        done, self.running, self.ends = self.running, None, inf
        effects.append(self._result(done, event.fanouts, event.seconds, event.error, event.faults))
        self._swap(now, effects)
        following, self.next = self.next, None
        if following is not None:
            self._accept(following, now, effects)
        self._credit(now, effects)

    def _result(
        self,
        batch: Execute,
        fanouts: list[tuple[int, ...]],
        seconds: float,
        error: str,
        faults: dict[int, Fault] | None = None,
    ) -> Send:
        message = Result(self.number, self.incarnation, batch.batch, batch.variant, fanouts, seconds, error, faults or {})
        return Send(self.routers[self._task_of(batch.batch)], message)

    def _task_of(self, batch: int) -> int:
        """Every router numbers its batches in steps of the number of tasks."""
        return batch % len(self.routers)

    def _model_of(self, batch: Execute) -> Model:
        return (self._task_of(batch.batch), batch.variant)

    def _credit(self, now: float, effects: list[Effect]) -> None:
        """Ask for one batch, unless one is asked for, waiting here, or running with more than lead_s to go."""
        if self.serving == PARKED or self.credit_open or self.next is not None or now < self._early():
            return
        self.credit_open = True
        self.serial += 1
        self._send_ready(effects)

    def _send_ready(self, effects: list[Effect]) -> None:
        task, variant = self.serving
        ready = Ready(self.number, self.incarnation, self.serial, variant, self.target_batch)
        effects.append(Send(self.routers[task], ready))

    def _peer_restarted(self, address: str, effects: list[Effect]) -> None:
        """Tell a new controller what runs here; give a new router the open credit again, and back what waits from its
        predecessor: the gateway sends again what is still of use."""
        if address == CONTROLLER:
            self._report(effects)
            return
        if self.next is not None and self.routers[self._task_of(self.next.batch)] == address:
            effects.append(self._result(self.next, [], 0.0, RETURNED))
            self.next = None
        if self.serving != PARKED and self.routers[self.serving[0]] == address and self.credit_open:
            self._send_ready(effects)

    # -- models -------------------------------------------------------------------------------------------------------

    def _assign(self, event: Assign, now: float, effects: list[Effect]) -> None:
        if event.epoch < self.epoch:
            return
        self.epoch = event.epoch
        self.target, changed = (event.task, event.variant), event.batch != self.target_batch
        self.target_batch = event.batch
        if self.target == self.serving and self.credit_open and changed:
            self._send_ready(effects)  # same serial: replaces the open credit
        self._swap(now, effects)
        self._credit(now, effects)
        self._report(effects)

    def _swap(self, now: float, effects: list[Effect]) -> None:
        """One step towards the target, as far as the batch in flight and the load in flight allow."""
        if self.target == self.serving:
            return
        if self.target == PARKED or self.target in self.resident:
            self._serve(self.target, effects)
        elif self.loading == PARKED:
            if self._breaks():
                self._serve(PARKED, effects)
            # What serves no more is unloaded first, but not below a batch that it still runs.
            if self.running is None or self._model_of(self.running) == self.serving:
                self._load(now, effects)

    def _breaks(self) -> bool:
        """Whether what is in memory must go before the target can come, as what serves no more always may."""
        if self.serving == PARKED:
            return True
        return self.servers.breaks(self.server_type, self._variant(self.serving), self._variant(self.target))

    def _variant(self, model: Model) -> Variant:
        return self.pipeline.tasks[model[0]].variants[model[1]]

    def _serve(self, model: Model, effects: list[Effect]) -> None:
        """Pull for another model, or for none. The old router must know before the new one gets a credit."""
        if self.serving != PARKED:
            effects.append(Send(self.routers[self.serving[0]], Leaving(self.number, self.incarnation)))
        self.serving = model
        self.credit_open = False

    def _load(self, now: float, effects: list[Effect]) -> None:
        keep = [self.serving]  # which is none by now where it cannot stay
        for model in [model for model in self.resident if model not in keep]:
            self.resident.remove(model)
            effects.append(Unload(*model))
        self.loading, self.started = self.target, now
        self.loads += 1
        effects.append(Load(*self.target))
        self._report(effects)

    def _loaded(self, event: Loaded, now: float, effects: list[Effect]) -> None:
        model, self.loading = self.loading, PARKED
        if not event.error:
            self.resident.append(model)
        elif self.target == model:
            # Reported, not retried here: whether this model is still wanted is the controller's to say.
            self.target = self.serving
        self._swap(now, effects)
        self._credit(now, effects)
        self._report(effects, model, event.error)

    def _report(self, effects: list[Effect], ended: Model = PARKED, error: str = "") -> None:
        self.announced = True
        report = Report(
            self.number, self.incarnation, self.epoch, *self.serving, self.target_batch, *self.loading, self.started,
            self.loads, *ended, error,
        )  # fmt: skip
        effects.append(Send(CONTROLLER, report))
