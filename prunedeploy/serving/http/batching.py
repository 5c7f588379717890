"""Requests that wait are computed together, by the first session that is free.

A session that is free takes all that wait for it at once, up to the plan's largest batch. It waits
for more only where it is told to, and no longer than ``max_delay`` after the oldest request came.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array
from prunedeploy.runtimes.api import Session
from prunedeploy.serving.http.plan import BatchPlan, padded

Feeds = Mapping[str, Array]
Outcome = Feeds | Exception  # results, or why there are none


@dataclass(frozen=True)
class Computed:
    """One run of an engine: how long its requests had waited, and how long it took, in seconds."""

    waited: tuple[float, ...]
    seconds: float
    samples: int


@dataclass(frozen=True)
class _Waiting:
    feeds: Feeds
    samples: int
    plan: BatchPlan
    key: tuple[object, ...]  # only requests of one key go together
    since: float
    answer: asyncio.Future[Feeds]


class Batcher:
    """The queue of one engine, and the sessions that take from it.

    Args:
        sessions: on the engine; each computes in a thread of its own.
        max_delay: seconds that a request waits for others at most while a session is free.
        computed: called after every run.
    """

    def __init__(
        self,
        sessions: Sequence[Session],
        max_delay: float,
        computed: Callable[[Computed], None],
    ) -> None:
        self._sessions, self._max_delay = sessions, max_delay
        self._computed = computed
        self._queue: list[_Waiting] = []
        self._changed = asyncio.Event()
        self._threads = ThreadPoolExecutor(len(sessions), thread_name_prefix="prunedeploy")
        self._workers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to compute, in the event loop that runs."""
        self._workers = [asyncio.create_task(self._work(each)) for each in self._sessions]

    async def stop(self) -> None:
        """End once what is being computed is done; nothing may be waiting any more."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        self._threads.shutdown()

    async def compute(self, feeds: Feeds, plan: BatchPlan) -> Feeds:
        """The outputs for ``feeds``, which fit the inputs of ``plan``: how many go together.

        Raises:
            UserError: the engine does not compute them.
        """
        samples = len(next(iter(feeds.values()))) if plan.largest else 1
        key = tuple((name, array.shape[1:]) for name, array in sorted(feeds.items()))
        answer: asyncio.Future[Feeds] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(feeds, samples, plan, key, time.monotonic(), answer))
        self._changed.set()
        return await answer

    async def _work(self, session: Session) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._enough()
            if not (taken := self._take()):
                continue  # another session was faster
            begin = time.monotonic()
            outcomes = await loop.run_in_executor(self._threads, self._run, session, taken)
            waited = tuple(begin - each.since for each in taken)
            samples = sum(each.samples for each in taken)
            self._computed(Computed(waited, time.monotonic() - begin, samples))
            for each, outcome in zip(taken, outcomes, strict=True):
                if each.answer.done():
                    continue  # the client went away
                if isinstance(outcome, Exception):
                    each.answer.set_exception(outcome)
                else:
                    each.answer.set_result(outcome)

    async def _enough(self) -> None:
        """Wait for a request, then for a full batch or until the oldest has waited long enough."""
        while not self._queue:
            self._changed.clear()
            await self._changed.wait()
        while self._queue and not self._full():
            left = self._queue[0].since + self._max_delay - time.monotonic()
            if left <= 0:
                return
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except TimeoutError:
                return

    def _full(self) -> bool:
        """Whether as much waits as can be computed with the oldest request."""
        first = self._queue[0]
        waiting = (each.samples for each in self._queue if each.key == first.key)
        return sum(waiting) >= first.plan.largest

    def _take(self) -> list[_Waiting]:
        """The oldest request and those that go with it, off the queue."""
        taken: list[_Waiting] = []
        rest: list[_Waiting] = []
        room = self._queue[0].plan.largest if self._queue else 0
        for each in self._queue:
            if not taken or (each.key == taken[0].key and each.samples <= room):
                taken.append(each)
                room -= each.samples
            else:
                rest.append(each)
        self._queue = rest
        return taken

    def _run(self, session: Session, taken: Sequence[_Waiting]) -> list[Outcome]:
        """What becomes of each request; runs in a thread, so nothing may be raised."""
        try:
            return [*self._together(session, taken)]
        except UserError as error:
            if len(taken) == 1:
                return [error]
            # one of them is at fault, and is the only one to be told
            return [self._run(session, [each])[0] for each in taken]
        except Exception as error:
            return [error] * len(taken)

    def _together(self, session: Session, taken: Sequence[_Waiting]) -> list[Feeds]:
        plan = taken[0].plan
        if not plan.largest:
            return [session.run(each.feeds) for each in taken]  # which is one
        feeds = taken[0].feeds
        if len(taken) > 1:
            feeds = {n: np.concatenate([each.feeds[n] for each in taken]) for n in feeds}
        samples = sum(each.samples for each in taken)
        results = session.run(padded(feeds, samples, plan.total(samples)))
        ends = np.cumsum([each.samples for each in taken])
        return [
            {name: array[end - each.samples : end] for name, array in results.items()}
            for each, end in zip(taken, ends, strict=True)
        ]
