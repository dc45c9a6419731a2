"""Long work beside short work in one loop."""

from __future__ import annotations

import asyncio

import pytest

from loki_rl.serving.edge.steps import Pace, Steps, at_once


def work(name: str, steps: int, done: list[str]) -> Steps[str]:
    for _ in range(steps):
        done.append(name)
        yield
    return name


def test_all_steps_at_once() -> None:
    assert at_once(work("a", 3, [])) == "a"


def test_one_at_a_time_gets_on_and_short_work_does_not_wait() -> None:
    done: list[str] = []

    async def run() -> list[str | None]:
        pace = Pace()
        long = [asyncio.create_task(pace.finish(work(name, 4, done), lambda: True)) for name in "ab"]
        await asyncio.sleep(0)
        short = await pace.finish(work("c", 0, done), lambda: True)
        assert not any(task.done() for task in long)
        return [short, *await asyncio.gather(*long)]

    assert asyncio.run(run()) == ["c", "a", "b"]
    assert done == ["a", "b", *"aaa", *"bbb"]


def test_what_is_not_needed_any_more_ends() -> None:
    done: list[str] = []

    async def run() -> str | None:
        return await Pace().finish(work("a", 100, done), lambda: len(done) < 3)

    assert asyncio.run(run()) is None
    assert done == ["a"] * 3


def test_what_fails_gives_its_turn_away() -> None:
    def fail() -> Steps[str]:
        yield
        raise ValueError("wrong")

    async def run() -> str | None:
        pace = Pace()
        with pytest.raises(ValueError, match="wrong"):
            await pace.finish(fail(), lambda: True)
        return await pace.finish(work("a", 2, []), lambda: True)

    assert asyncio.run(run()) == "a"
