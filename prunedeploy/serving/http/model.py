"""An engine that is served: what it takes, the sessions on it, and its queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Engine, TensorSpec
from prunedeploy.engines import opening
from prunedeploy.engines.sizes import each_engine, no_such_size
from prunedeploy.graph.several_sizes import merged
from prunedeploy.runtimes.api import check_feeds, fits
from prunedeploy.serving.http.batching import Batcher, Computed
from prunedeploy.serving.http.datatypes import metadata
from prunedeploy.serving.http.decode import InferRequest, decode
from prunedeploy.serving.http.encode import VERSION, encode
from prunedeploy.serving.http.options import ServeOptions
from prunedeploy.serving.http.plan import BatchPlan, plan_of
from prunedeploy.serving.http.refusal import Refusal
from prunedeploy.serving.names import model_name


class ServedModel:
    """One engine behind the protocol; ``pending`` requests of it are not answered yet.

    Args:
        engine: an engine that was read.
        name: that clients use; the engine's folder's where empty.
        options: see ``ServeOptions``.
        computed: called with the model's name after every run.

    Raises:
        UserError: the engine cannot be opened here, or the protocol has no type for it.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        options: ServeOptions,
        computed: Callable[[str, Computed], None],
    ) -> None:
        self.name, self.engine, self.pending = model_name(engine, name), engine, 0
        self.max_queue = options.max_queue
        with ExitStack() as stack:
            # shared: idle threads of one engine would spin where the server and others compute
            sessions = [
                stack.enter_context(opening.open(engine, options.threads, shared=True))
                for _ in range(options.sessions)
            ]
            self.provider = sessions[0].provider
            self.plans = tuple(
                plan_of(sessions[0], each.manifest, options.max_batch)
                for each in each_engine(engine)
            )
            manifest = engine.manifest
            self._inputs = self._described(manifest.inputs, [x.inputs for x in self.plans])
            self._outputs = self._described(manifest.outputs, [x.outputs for x in self.plans])
            delay = options.max_delay_ms / 1000
            self._batcher = Batcher(sessions, delay, lambda run: computed(self.name, run))
            self._sessions = stack.pop_all()

    def start(self) -> None:
        """Begin to compute, in the event loop that runs."""
        self._batcher.start()

    async def stop(self) -> None:
        """Finish what is being computed, and let go of the engine."""
        await self._batcher.stop()
        self._sessions.close()

    def describe(self) -> dict[str, Any]:
        """The model's metadata in the protocol."""
        return {
            "name": self.name,
            "versions": [VERSION],
            "platform": f"prunedeploy_{self.engine.manifest.runtime}",
            "inputs": self._inputs,
            "outputs": self._outputs,
        }

    async def infer(self, body: bytes, json_length: int | None) -> tuple[bytes, dict[str, str]]:
        """The answer to a request, and its headers.

        Raises:
            Refusal: 400, the request is not one that the engine computes.
        """
        request = decode(body, json_length, self.engine.manifest.outputs)
        try:
            plan = self._check(request)
            results = await self._batcher.compute(request.feeds, plan)
        except UserError as error:
            raise Refusal(400, str(error)) from None
        return encode(self.name, request, results)

    def _described(
        self, known: Sequence[TensorSpec], plans: Sequence[Sequence[TensorSpec]]
    ) -> list[dict[str, Any]]:
        """The tensors of a request in the protocol: a size in which the plans differ is open."""
        return [metadata(spec) for spec in merged(known, plans)]

    def _check(self, request: InferRequest) -> BatchPlan:
        """The plan for a request; refuse it before it is computed together with others."""
        plan = self._plan(request)
        request.feeds.update(check_feeds(plan.inputs, request.feeds))
        samples = len(next(iter(request.feeds.values()))) if plan.largest else 0
        if plan.fixed and samples > plan.sizes[0]:
            raise UserError(f"the model takes {plan.sizes[0]} samples at most, found {samples}")
        return plan

    def _plan(self, request: InferRequest) -> BatchPlan:
        """The plan of the size that the inputs have."""
        if len(self.plans) == 1:
            return self.plans[0]
        manifest = self.engine.manifest
        given = check_feeds(manifest.inputs, request.feeds)
        for plan in self.plans:
            if all(fits(given[spec.name].shape, spec) for spec in plan.inputs):
                return plan
        raise UserError(no_such_size(manifest.sizes, given))
