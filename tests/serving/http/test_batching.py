"""The queue: what goes together, who is told of a fault, and that every answer is its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import TensorSpec
from prunedeploy.serving.http.batching import Batcher, Computed
from prunedeploy.serving.http.plan import BatchPlan

SPECS = (TensorSpec("x", "float32", ("batch", "n")),)


class Doubling:
    """A session that doubles, and runs only while its gate is open; it notes its batches."""

    inputs = outputs = SPECS
    provider = "test"

    def __init__(self) -> None:
        self.gate, self.batches = threading.Event(), []
        self.gate.set()

    def run(self, feeds):
        assert self.gate.wait(30)
        self.batches.append(feeds["x"].shape)
        if (feeds["x"] < 0).any():
            raise UserError("a negative number")
        if (feeds["x"] == 13).any():
            raise ZeroDivisionError("a fault of the engine")
        return {"y": feeds["x"] * 2}


def plan(largest: int = 4, **more: object) -> BatchPlan:
    return BatchPlan(SPECS, SPECS, largest, **more)


def feed(*values: float, length: int = 2) -> dict[str, np.ndarray]:
    return {"x": np.repeat(np.array(values, np.float32)[:, None], length, 1)}


class Planned:
    """A queue, all of whose requests have one plan."""

    def __init__(self, batcher: Batcher, plan: BatchPlan) -> None:
        self.batcher, self.plan = batcher, plan

    def compute(self, feeds: dict[str, np.ndarray]) -> Awaitable[dict[str, np.ndarray]]:
        return self.batcher.compute(feeds, self.plan)


def queue(
    use: Callable[[Planned, Doubling], Awaitable[object]],
    how: BatchPlan | None = None,
    delay: float = 0.0,
) -> tuple[Doubling, list[Computed]]:
    """Run ``use`` with a queue; its session and what was computed."""
    session, computed = Doubling(), []

    async def main() -> None:
        batcher = Batcher([session], delay, computed.append)
        batcher.start()
        try:
            await use(Planned(batcher, how or plan()), session)
        finally:
            await batcher.stop()

    asyncio.run(main())
    return session, computed


async def while_one_runs(batcher: Planned, session: Doubling, *feeds) -> list:
    """Answers to ``feeds``, which all came while another request was computed."""
    session.gate.clear()
    first = asyncio.create_task(batcher.compute(feed(100)))
    await asyncio.sleep(0.05)
    others = [asyncio.create_task(batcher.compute(each)) for each in feeds]
    await asyncio.sleep(0.05)
    session.gate.set()
    await first
    return await asyncio.gather(*others, return_exceptions=True)


def test_requests_that_wait_go_together_up_to_the_largest_batch():
    async def use(batcher, session):
        answers = await while_one_runs(batcher, session, *(feed(n) for n in range(6)))
        assert [each["y"][0, 0] for each in answers] == [2 * n for n in range(6)]

    session, computed = queue(use)
    assert session.batches == [(1, 2), (4, 2), (2, 2)]
    assert [(run.samples, len(run.waited)) for run in computed] == [(1, 1), (4, 4), (2, 2)]
    assert min(computed[1].waited) > 0.04


def test_requests_of_several_samples_and_other_lengths():
    async def use(batcher, session):
        feeds = [feed(1, 2, 3), feed(4, 5), feed(6, length=3), feed(7), feed(*range(9))]
        answers = await while_one_runs(batcher, session, *feeds)
        for each, answer in zip(feeds, answers, strict=True):
            assert np.array_equal(answer["y"], each["x"] * 2)

    session, _ = queue(use)
    # the oldest with all that go with it: 3 + 1; then 2; the other length; 9 are too many for 4
    assert session.batches == [(1, 2), (4, 2), (2, 2), (1, 3), (9, 2)]


def test_alone_where_samples_are_not_independent():
    async def use(batcher, session):
        await while_one_runs(batcher, session, feed(1), feed(2, 3))

    session, _ = queue(use, plan(0))
    assert session.batches == [(1, 2), (1, 2), (2, 2)]


def test_batches_are_filled_up():
    async def use(batcher, session):
        answers = await while_one_runs(batcher, session, feed(1), feed(2, 3))
        assert [len(each["y"]) for each in answers] == [1, 2]

    session, computed = queue(use, plan(4, sizes=(4,), totals=(4, 4, 4, 4)))
    assert session.batches == [(4, 2), (4, 2)]
    assert [run.samples for run in computed] == [1, 3]


@pytest.mark.parametrize(("bad", "error"), [(-1, UserError), (13, ZeroDivisionError)])
def test_a_fault(bad, error):
    async def use(batcher, session):
        answers = await while_one_runs(batcher, session, feed(1), feed(bad), feed(2))
        assert isinstance(answers[1], error)
        if error is UserError:  # of the request: the others have their answers
            assert [answers[i]["y"][0, 0] for i in (0, 2)] == [2, 4]
        else:
            assert all(isinstance(each, error) for each in answers)
        assert (await batcher.compute(feed(3)))["y"][0, 0] == 6

    queue(use)


def test_waiting_for_others_ends_with_a_full_batch_or_the_delay():
    async def use(batcher, _):
        full = [asyncio.create_task(batcher.compute(feed(n))) for n in range(3)]
        await asyncio.sleep(0.05)
        assert not any(each.done() for each in full)
        full.append(asyncio.create_task(batcher.compute(feed(3))))
        await asyncio.wait_for(asyncio.gather(*full), 10)  # far less than the delay

    session, _ = queue(use, delay=60.0)
    assert session.batches == [(4, 2)]

    async def alone(batcher, _):
        await batcher.compute(feed(1))

    session, computed = queue(alone, delay=0.05)
    assert session.batches == [(1, 2)]
    assert computed[0].waited[0] >= 0.04


def test_a_client_that_goes_away_takes_nobody_along():
    async def use(batcher, session):
        session.gate.clear()
        gone = asyncio.create_task(batcher.compute(feed(1)))
        stays = asyncio.create_task(batcher.compute(feed(2)))
        await asyncio.sleep(0.05)
        gone.cancel()
        session.gate.set()
        assert (await stays)["y"][0, 0] == 4

    queue(use)


def test_several_sessions_take_turns():
    first, second = Doubling(), Doubling()
    first.gate.clear()
    second.gate.clear()

    async def main() -> None:
        batcher = Batcher([first, second], 0.0, lambda _: None)
        batcher.start()
        tasks = []
        for n in range(2):
            tasks.append(asyncio.create_task(batcher.compute(feed(n), plan())))
            await asyncio.sleep(0.05)  # each is taken by the session that is free
        first.gate.set()
        second.gate.set()
        await asyncio.gather(*tasks)
        await batcher.stop()

    asyncio.run(main())
    assert first.batches == second.batches == [(1, 2)]


def test_requests_of_two_plans_do_not_go_together():
    """The sizes of one engine: the one is computed in pairs, the other by itself."""
    session, pairs, single = Doubling(), plan(2), plan(0)

    async def main() -> None:
        batcher = Batcher([session], 0.0, lambda _: None)
        session.gate.clear()
        batcher.start()
        first = asyncio.create_task(batcher.compute(feed(100), pairs))
        await asyncio.sleep(0.05)
        asked = [(feed(1), pairs), (feed(2, length=3), single), (feed(3), pairs)]
        asked += [(feed(4, length=3), single), (feed(5), pairs)]
        tasks = [asyncio.create_task(batcher.compute(*each)) for each in asked]
        await asyncio.sleep(0.05)
        session.gate.set()
        answers = await asyncio.gather(first, *tasks)
        assert [each["y"][0, 0] for each in answers] == [200, 2, 4, 6, 8, 10]
        await batcher.stop()

    asyncio.run(main())
    assert session.batches == [(1, 2), (2, 2), (1, 3), (1, 3), (1, 2)]
