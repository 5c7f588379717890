"""Engines behind MLServer, over REST and gRPC of the V2 inference protocol (extra ``mlserver``).

``model-settings.json``::

    {
      "name": "resnet56",
      "implementation": "prunedeploy.serving.mlserver.EngineModel",
      "parameters": {"uri": "./resnet56.host.sparse.engine", "extra": {"threads": 2}}
    }
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np

from prunedeploy.core.errors import MissingExtra, UserError
from prunedeploy.core.records import Array, TensorSpec
from prunedeploy.engines import engine_folder, opening

try:
    from mlserver import MLModel, types
    from mlserver.codecs import NumpyCodec
    from mlserver.codecs.numpy import to_datatype
    from mlserver.errors import InferenceError
    from mlserver.utils import get_model_uri
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "mlserver":
        raise
    MLModel = None


class EngineModel(MLModel or object):  # type: ignore[misc]
    """Any engine of prunedeploy as a model of MLServer.

    ``parameters.uri`` is the engine's folder; of ``parameters.extra``, ``threads`` is how many a
    request computes with (0: the runtime's choice), and ``sessions`` how many requests are computed
    at once (1). Requests beyond that wait, and none is refused.
    """

    def __init__(self, settings: Any) -> None:
        if MLModel is None:
            raise MissingExtra("mlserver", "mlserver")
        super().__init__(settings)

    async def load(self) -> bool:
        """Open the engine, and tell the server what it takes and gives."""
        path = await get_model_uri(self.settings)
        extra = self.settings.parameters.extra or {}
        count = int(extra.get("sessions", 1))
        if count < 1:
            raise UserError(f"cannot serve with {count} sessions: give 1 or more")
        engine = engine_folder.read_engine(path)
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with ExitStack() as stack:
            for _ in range(count):
                opened = opening.open(engine, int(extra.get("threads", 0)), shared=count > 1)
                self._idle.put(stack.enter_context(opened))
            # the event loop goes on taking requests while these threads compute
            self._workers = ThreadPoolExecutor(count, thread_name_prefix="prunedeploy")
            stack.callback(self._workers.shutdown)
            self._opened = stack.pop_all()
        self._specs = {spec.name: spec for spec in engine.manifest.inputs}
        self._names = [spec.name for spec in engine.manifest.outputs]
        self.inputs = _metadata(engine.manifest.inputs)
        self.outputs = _metadata(engine.manifest.outputs)
        return True

    async def predict(self, payload: types.InferenceRequest) -> types.InferenceResponse:
        """The outputs that were asked for, all where none was named."""
        wanted = [output.name for output in payload.outputs or []] or self._names
        if unknown := [name for name in wanted if name not in self._names]:
            raise InferenceError(f"no output is called {unknown[0]!r}: {', '.join(self._names)}")
        feeds = {tensor.name: self._decode(tensor) for tensor in payload.inputs}
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self._workers, self._run, feeds)
        except UserError as error:
            raise InferenceError(str(error)) from None
        return types.InferenceResponse(
            model_name=self.name,
            model_version=self.version,
            outputs=[_encode(name, results[name]) for name in wanted],
        )

    async def unload(self) -> bool:
        """Finish what is being computed, and let go of the engine."""
        await asyncio.get_running_loop().run_in_executor(None, self._opened.close)
        return True

    def _run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        session = self._idle.get()
        try:
            results: dict[str, Array] = session.run(feeds)
            return results
        finally:
            self._idle.put(session)

    def _decode(self, tensor: types.RequestInput) -> Array:
        spec = self._specs.get(tensor.name)
        if spec is None:
            known = ", ".join(self._specs)
            raise InferenceError(f"no input is called {tensor.name!r}: it takes {known}")
        try:
            array: Array = NumpyCodec.decode_input(tensor)
        except (ValueError, TypeError, KeyError) as error:
            raise InferenceError(f"input {tensor.name!r} is not what it says: {error}") from None
        return array


def _metadata(specs: Iterable[TensorSpec]) -> list[types.MetadataTensor]:
    return [
        types.MetadataTensor(
            name=spec.name,
            datatype=to_datatype(np.dtype(spec.dtype)),
            shape=[dim if isinstance(dim, int) else -1 for dim in spec.shape],
        )
        for spec in specs
    ]


def _encode(name: str, array: Array) -> types.ResponseOutput:
    output = NumpyCodec.encode_output(name, array)
    output.shape = list(array.shape)  # the codec gives vectors a second axis
    return output
