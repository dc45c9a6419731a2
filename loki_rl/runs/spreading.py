"""Calls spread over processes of this host or over a Ray cluster; each comes back when it ends."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from signal import SIG_DFL, SIGINT, default_int_handler, signal
from threading import Thread, current_thread, main_thread
from types import FrameType
from typing import Any, TypeVar

from loki_rl.ray_cluster import connect

T = TypeVar("T")
Work = Mapping[int, Callable[[], T]]

# A task whose process or host is lost is begun again so often, then it is a failure.
RETRIES = 5


def spread(work: Work[T], jobs: int, cluster: str = "") -> Iterator[tuple[int, T | str]]:
    """What each call returns, in the order in which they end, or one sentence where its process died. jobs: processes of
    this host; cluster: address of a Ray cluster, whose cores are used instead. Calls and what they return are pickled.
    Raises ClusterError."""
    return _over_cluster(work, cluster) if cluster else _over_processes(work, jobs)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# -- a Ray cluster --------------------------------------------------------------------------------------------------------


def _over_cluster(work: Work[T], address: str) -> Iterator[tuple[int, T | str]]:
    """One core each. What a killed process or a lost host was doing is done again."""
    ray = connect(address)
    call = ray.remote(num_cpus=1, max_retries=RETRIES)(_called)
    places = {call.remote(task): place for place, task in work.items()}
    try:
        while places:
            for ended in ray.wait(list(places), num_returns=1)[0]:
                yield places.pop(ended), _result(ray, ended)
    finally:
        for left in places:
            ray.cancel(left, force=True)


def _result(ray: Any, ended: Any) -> Any:
    try:
        return ray.get(ended)
    except ray.exceptions.RayTaskError as error:
        # Ours: what was raised there, as if it had been here.
        raise error.cause from None
    except ray.exceptions.RayError:
        return f"its process or its host was lost each of {RETRIES + 1} times; see the logs of the Ray cluster"


def _called(task: Callable[[], T]) -> T:
    return task()


# -- processes of this host -----------------------------------------------------------------------------------------------


def _over_processes(work: Work[T], jobs: int) -> Iterator[tuple[int, T | str]]:
    with _remembered() as pressed, ProcessPoolExecutor(min(jobs, len(work)), get_context("spawn"), _tie) as pool:
        yield from as_they_end(pool, work, pressed)


def _tie() -> None:
    """A process of the pool ends with the one that started it, however that ends; and Ctrl-C, which reaches it too, ends it
    at once instead of passing for the failure of one run."""
    signal(SIGINT, SIG_DFL)
    Thread(target=_follow, args=(parent_process(),), daemon=True).start()


def _follow(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


@contextmanager
def _remembered() -> Iterator[list[int]]:
    """Filled by Ctrl-C. Its exception is lost where it strikes within a callback, and then the processes that it ended too
    would pass for failures of their runs. It strikes the main thread alone, and no other may ask for it."""
    pressed: list[int] = []
    if current_thread() is not main_thread():
        yield pressed
        return

    def note(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        default_int_handler(number, frame)

    former = signal(SIGINT, note)
    try:
        yield pressed
    finally:
        signal(SIGINT, former)


def as_they_end(pool: Executor, work: Work[T], pressed: Sequence[int]) -> Iterator[tuple[int, T | str]]:
    """pressed: as _remembered has it."""
    futures: dict[Future[T], int] = {pool.submit(task): place for place, task in work.items()}
    try:
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except BrokenProcessPool:
                if pressed:
                    raise KeyboardInterrupt from None
                yield futures[future], "its process died, perhaps for want of memory; run again with fewer jobs to resume"
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
