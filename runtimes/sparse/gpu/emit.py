"""Plans to a PTX module: the kernels of every step, and the table of their launches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prunedeploy.runtimes.sparse.codegen._context import Constants
from prunedeploy.runtimes.sparse.gpu import (
    copy,
    elementwise,
    fill,
    lookup,
    matmul,
    norm,
    pool,
    reduce,
    schedule,
    softmax,
)
from prunedeploy.runtimes.sparse.gpu.functions import unknown
from prunedeploy.runtimes.sparse.gpu.launch import (
    MAX_GRID_Y,
    Argument,
    ErrorWord,
    Kernel,
    Launch,
    LaunchTable,
    Module,
    Priced,
)
from prunedeploy.runtimes.sparse.gpu.ptx import HEADER
from prunedeploy.runtimes.sparse.gpu.types import TYPES
from prunedeploy.runtimes.sparse.importer.importer import RefusedError
from prunedeploy.runtimes.sparse.plan.steps import (
    Conv,
    Copy,
    Fill,
    Lookup,
    Map,
    MatMul,
    Norm,
    Plan,
    Pool,
    Reduce,
    Softmax,
    Step,
    Take,
    reads,
    writes,
)
from prunedeploy.runtimes.sparse.plan.views import Dtype, View
from prunedeploy.targets import Target
from prunedeploy.targets.gpu import GPUS, Gpu

BOUNDARY = 256  # bytes: where a tensor of the caller begins in the session's memory


def emit_module(plans: Sequence[Plan], target: Target) -> Module:
    """The module of an engine for the GPU of ``target``, whose ``plans`` are one a batch size.

    Args:
        plans: with all their offsets; none of them per sample.
        target: one of ``GPUS``.

    Raises:
        RefusedError: no kernel computes a step.
    """
    constants = Constants()
    emitter = _Emitter(constants, GPUS[target.name], target)
    kernels = [
        [
            kernel
            for index, step in enumerate(plan.steps)
            for kernel in emitter.kernels(step, plan, f"b{plan.batch}_{index}")
        ]
        for plan in plans
    ]
    for plan in plans:
        for buffer in plan.buffers:
            if buffer.value is not None:
                constants.add(buffer.value)
    tables = tuple(_table(p, own, constants) for p, own in zip(plans, kernels, strict=True))
    text = HEADER + "".join(kernel.text for own in kernels for kernel in own)
    return Module(text, constants.data()[: constants.size], tables, tuple(plans))


def price(plan: Plan, target: Target) -> list[Priced]:
    """The launches of a plan as the model of cost sees them, without any code.

    Raises:
        RefusedError: no kernel computes a step.
    """
    emitter = _Emitter(Constants(), GPUS[target.name], target)
    launches = []
    for step in plan.steps:
        if isinstance(step, Conv) and step.y.size and refusal(step, plan) is None:
            launches.append(schedule.priced(step, GPUS[target.name], target))
        else:
            launches += map(schedule.price_of, emitter.kernels(step, plan, "priced"))
    return launches


def emit_step(step: Step, plan: Plan, name: str, target: Target) -> tuple[list[Kernel], bytes]:
    """The kernels of one step of ``plan`` and their constants, for tests and trials.

    Raises:
        RefusedError: no kernel computes it.
    """
    constants = Constants()
    kernels = list(_Emitter(constants, GPUS[target.name], target).kernels(step, plan, name))
    return kernels, constants.data()[: constants.size]


class _Emitter:
    """Writes kernels, and keeps their constants."""

    def __init__(self, constants: Constants, gpu: Gpu, target: Target) -> None:
        self._constants, self._gpu, self._target = constants, gpu, target

    def kernels(self, step: Step, plan: Plan, name: str) -> Iterable[Kernel]:
        """The kernels of a step, named ``name`` with a number behind it."""
        if not any(view.size for view in writes(step)):
            return
        if reason := refusal(step, plan):
            raise RefusedError(type(step).__name__, step.name, f"on a GPU: {reason}")
        for number, kernel in enumerate(self._written(step, plan, name)):
            if kernel.grid[1] > MAX_GRID_Y:
                reason = f"on a GPU: {kernel.grid[1]} channels, {MAX_GRID_Y} at most"
                raise RefusedError(type(step).__name__, step.name, reason)
            assert kernel.name == f"{name}_{number}"
            yield kernel

    def _written(self, step: Step, plan: Plan, name: str) -> Iterable[Kernel]:
        first, gpu = f"{name}_0", (self._gpu, self._target)
        match step:
            case Conv():
                yield schedule.emit(step, first, self._constants, *gpu)
            case Map():
                yield elementwise.emit(step, first)
            case Copy():
                types = _type(step.x, plan), _type(step.y, plan)
                if step.fill is None or step.outer is None:
                    yield copy.emit(step, first, types)
                    return
                yield fill.emit(step.name, step.outer, step.fill, first)
                if step.y.size:
                    yield copy.emit(step, f"{name}_1", types)
            case Fill():
                yield copy.emit_fill(step, first, self._constants)
            case Pool():
                yield pool.emit(step, first)
            case Reduce():
                yield reduce.emit(step, first)
            case Softmax():
                yield softmax.emit(step, first)
            case Norm():
                yield norm.emit(step, first, self._constants)
            case MatMul():
                yield matmul.emit(step, first, *gpu)
            case Lookup():
                yield lookup.emit(step, first, _type(step.indices, plan), self._constants)
            case Take():
                yield lookup.emit_take(step, first)


def _type(view: View, plan: Plan) -> Dtype:
    return plan.buffers[view.buffer].dtype


def refusal(step: Step, plan: Plan) -> str | None:
    """Why no kernel computes ``step``, in words; None where one does."""
    integers = step.indices if isinstance(step, Lookup) else None
    if not isinstance(step, Copy) or step.fill is not None:
        for view in (*reads(step), *writes(step)):
            if view is not integers and (dtype := _type(view, plan)) != "float32":
                return f"it has a tensor of {dtype}, kernels compute in float32"
    match step:
        case Conv():
            name = unknown([step.activation.op])
            return f"no kernel computes the activation {name}" if name else None
        case Map():
            name = unknown([instr.op for instr in step.code])
            return f"no kernel computes {name}" if name else None
        case Reduce():
            return None if step.kind in reduce.KINDS else f"no kernel reduces by {step.kind}"
        case Copy() | Fill() | Pool() | Softmax() | Norm() | MatMul() | Lookup() | Take():
            return None
    return "no kernel computes it yet"


def _up(size: int) -> int:
    return -(-size // BOUNDARY) * BOUNDARY


def _table(plan: Plan, kernels: Sequence[Kernel], constants: Constants) -> LaunchTable:
    """The launches of a plan, once all constants are there."""
    begin = _up(constants.size)
    at = _up(begin + 4 * plan.arena)
    starts: dict[int, int] = {}
    for port in (*plan.inputs, *plan.outputs):
        if port.buffer not in starts:
            starts[port.buffer] = at
            at = _up(at + TYPES[port.dtype].size * plan.buffers[port.buffer].size)

    def offset(argument: Argument) -> int:
        if isinstance(argument, ErrorWord):
            return at
        if isinstance(argument, int):
            return argument
        buffer = plan.buffers[argument.buffer]
        if buffer.value is not None:
            return constants.add(buffer.value) + 4 * argument.offset
        if buffer.space == "arena":
            return begin + 4 * (plan.offsets[argument.buffer] + argument.offset)
        return starts[argument.buffer] + TYPES[buffer.dtype].size * argument.offset

    launches = tuple(Launch(k, tuple(map(offset, k.arguments))) for k in kernels)
    inputs = tuple(starts[port.buffer] for port in plan.inputs)
    outputs = tuple(starts[port.buffer] for port in plan.outputs)
    return LaunchTable(plan.batch, launches, inputs, outputs, at, at + 4)
