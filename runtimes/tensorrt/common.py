"""The parts that TensorRT and TensorRT-RTX share: parsing, profiles of batch sizes, sessions.

Both have the same Python interface since TensorRT 8.5; where versions differ, a table decides
(``targets/tensorrt.py``). The precision is that of the model: a float32 model computes in float32,
one that ``ToFloat16`` went over in float16.
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prunedeploy.core.errors import MissingExtra, UserError
from prunedeploy.core.records import Array, Engine
from prunedeploy.runtimes.api import Closing, check_feeds, closed_error, listed_bytes, split
from prunedeploy.runtimes.cuda import Device
from prunedeploy.runtimes.tensorrt.dialects import network_flag
from prunedeploy.targets.tensorrt import Dialect

PLAN, RECORD = "model.plan", "build.json"
MAX_BATCH = 64  # samples that an engine for any batch takes at once; more go in pieces


def load(module: str, extra: str) -> Any:
    """The library ``module``, which the extra ``extra`` of prunedeploy brings.

    Raises:
        MissingExtra: it is not installed.
        UserError: it is there, and broken.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise MissingExtra(module, extra) from None
    except ImportError as error:  # its libraries are not where it looks for them
        raise UserError(f"{module} is broken: {error}; install it again") from None


@dataclass(frozen=True)
class Built:
    """A plan, and how long it took."""

    plan: bytes
    seconds: float


class Trt:
    """One library of the two and the dialect it speaks.

    Args:
        library: the module ``tensorrt`` or ``tensorrt_rtx``.
        name: of the library, for messages.
        extra: the extra of prunedeploy that brings it.
        row: the dialect.
    """

    def __init__(self, library: Any, name: str, extra: str, row: Dialect) -> None:
        self.library, self.name, self.extra, self._row = library, name, extra, row
        self.messages: list[str] = []
        self.logger = _logger(library, self.messages)

    def build(self, model: Path, batches: tuple[int, ...], configure: Any) -> Built:
        """Parse ``model`` and build it.

        Args:
            model: an ONNX file.
            batches: one profile each; one for 1 to ``MAX_BATCH`` where there are none.
            configure: called with the builder's config and the network, to set flags.

        Raises:
            UserError: it cannot be parsed or built; the library's own reason is given.
        """
        trt = self.library
        builder = trt.Builder(self.logger)
        network = builder.create_network(network_flag(self._row, trt))
        parser = trt.OnnxParser(network, self.logger)
        if not parser.parse_from_file(str(model)):
            raise UserError(f"{self.name} cannot read {model.name}: {_errors(parser)}")
        config = builder.create_builder_config()
        for sizes in [(size,) * 3 for size in batches] or [(1, 1, MAX_BATCH)]:
            self._profile(builder, config, network, sizes)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        configure(config, network)
        self.messages.clear()
        begin = time.perf_counter()
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise UserError(f"{self.name} cannot build {model.name}: {self.reason()}")
        return Built(bytes(plan), time.perf_counter() - begin)

    def _profile(self, builder: Any, config: Any, network: Any, sizes: tuple[int, ...]) -> None:
        """Add a profile: the least, usual and largest batch; none where shapes are fixed."""
        profile = builder.create_optimization_profile()
        dynamic = False
        for index in range(network.num_inputs):
            tensor = network.get_input(index)
            shape = tuple(tensor.shape)
            if -1 in shape[1:]:
                raise UserError(
                    f"input {tensor.name!r} is dynamic in more than its batch: "
                    f"give {self.name} a model with fixed sizes"
                )
            dynamic |= -1 in shape
            shapes = [tuple(size if dim < 0 else dim for dim in shape) for size in sizes]
            profile.set_shape(tensor.name, *shapes)
        if dynamic:
            config.add_optimization_profile(profile)

    def inspect(self, plan: bytes) -> str:
        """The inspector's JSON of all layers; needs the GPU that the plan is for."""
        engine = self.library.Runtime(self.logger).deserialize_cuda_engine(plan)
        if engine is None:
            raise UserError(f"{self.name} cannot open what it built: {self.reason()}")
        form = self.library.LayerInformationFormat.JSON
        return str(engine.create_engine_inspector().get_engine_information(form))

    def reason(self) -> str:
        """The last thing that the library complained of, in one line."""
        return self.messages[-1].strip().splitlines()[0] if self.messages else "it does not say why"


def write(directory: Path, built: Built, record: Mapping[str, object]) -> tuple[str, ...]:
    """The payload of an engine: the plan, and how it was built."""
    (directory / PLAN).write_bytes(built.plan)
    written = {**record, "seconds": round(built.seconds, 3), "plan_bytes": len(built.plan)}
    (directory / RECORD).write_text(json.dumps(written, indent=1) + "\n")
    return (PLAN, RECORD)


class TrtSession(Closing):
    """An engine on the GPU: own stream, own buffers, given back on closing."""

    def __init__(self, trt: Trt, engine: Engine) -> None:
        plan = listed_bytes(engine, PLAN)
        self.inputs, self.outputs = engine.manifest.inputs, engine.manifest.outputs
        self._batches = engine.manifest.batches
        self._device = Device(trt.extra)
        self._trt = trt
        self._runtime = trt.library.Runtime(trt.logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            self._device.close()
            raise UserError(f"{trt.name} cannot open the engine: {trt.reason()}; build it again")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            self._device.close()
            raise UserError(f"{trt.name} cannot run the engine: {trt.reason()}")
        self.provider = trt.name

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Every output by name, batches that the engine was not built for in pieces."""
        if self._context is None:
            raise closed_error()
        arrays = check_feeds(self.inputs, feeds)
        pieces = self._pieces(arrays)
        if len(pieces) == 1:
            return self._run(arrays, pieces[0])
        begin, parts = 0, []
        for size in pieces:
            part = {name: array[begin : begin + size] for name, array in arrays.items()}
            parts.append(self._run(part, size))
            begin += size
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _pieces(self, arrays: Mapping[str, Array]) -> tuple[int, ...]:
        dynamic = [
            spec.name for spec in self.inputs if spec.shape and isinstance(spec.shape[0], str)
        ]
        if not dynamic:
            return (0,)
        batch = len(arrays[dynamic[0]])
        if not self._batches:
            full, rest = divmod(batch, MAX_BATCH)
            return (*[MAX_BATCH] * full, *([rest] if rest else []))
        pieces = split(batch, self._batches)
        if pieces is None:
            sizes = ", ".join(map(str, self._batches))
            raise UserError(f"a batch of {batch} is no sum of those it was built for: {sizes}")
        return pieces

    def _run(self, arrays: Mapping[str, Array], batch: int) -> dict[str, Array]:
        device, context = self._device, self._context
        device.use()
        if batch in self._batches and len(self._batches) > 1:
            context.set_optimization_profile_async(self._batches.index(batch), device.stream)
        for name, array in arrays.items():
            address = device.buffer(name, array.nbytes)
            device.upload(address, array)
            context.set_input_shape(name, array.shape)
            context.set_tensor_address(name, address)
        targets = {}
        for spec in self.outputs:
            shape, dtype = tuple(context.get_tensor_shape(spec.name)), np.dtype(spec.dtype)
            size = int(np.prod(shape)) * dtype.itemsize
            targets[spec.name] = (device.buffer(spec.name, size), shape, dtype)
            context.set_tensor_address(spec.name, targets[spec.name][0])
        if not context.execute_async_v3(device.stream):
            raise RuntimeError(f"{self._trt.name} did not run: {self._trt.reason()}")
        results = {name: device.download(*target) for name, target in targets.items()}
        device.wait()
        return results

    def close(self) -> None:
        """The context before the engine before the memory, as TensorRT wants it."""
        self._context = self._engine = self._runtime = None
        self._device.close()


def _logger(library: Any, messages: list[str]) -> Any:
    """A logger that keeps errors for our own messages instead of writing to the terminal."""
    bad = (library.ILogger.ERROR, library.ILogger.INTERNAL_ERROR)

    class Log(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in bad:
                messages.append(message)

    return Log()


def _errors(parser: Any) -> str:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    lines = [f"{error.node_name() or 'the model'}: {error.desc().strip()}" for error in errors]
    more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
    return f"{lines[0].splitlines()[0]}{more}" if lines else "it does not say why"
