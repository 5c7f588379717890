"""What every layer of a network would cost in the sparse runtime, for any mask; nothing is built.

The network is lowered once, as a build would lower it, and each step of its plan that computes a
layer is found by the zeros that the layer's weight was given beforehand. The cost of a mask is then
that of the same step with such zeros, by the cost model and the machine's limits that
``prunedeploy predict`` goes by.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from prunedeploy import targets
from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array
from prunedeploy.graph import model as models
from prunedeploy.prediction import steps as works
from prunedeploy.prediction.machine import Machine, machine
from prunedeploy.prediction.predict import predict, table_of
from prunedeploy.prediction.roofline import layer_time
from prunedeploy.runtimes.sparse.build import plan_of
from prunedeploy.runtimes.sparse.codegen.project import layer_of
from prunedeploy.runtimes.sparse.kernels.blocks import BlockCache
from prunedeploy.runtimes.sparse.plan.steps import Conv, Plan, Step
from prunedeploy.runtimes.sparse.plan.views import View
from prunedeploy.runtimes.sparse.toolchain.compile import isa_of
from prunedeploy.shrinking.export import to_model
from prunedeploy.sparsify.oneshot.layers import Layer
from prunedeploy.sparsify.units import Masks
from prunedeploy.targets import Target

SPARSE, STOCK = "sparse", "ort"


@dataclass(frozen=True)
class Costs:
    """The predicted seconds of one run, layer by layer.

    ``dense`` are those of the dense network in the best stock runtime; ``fixed`` those of all that
    no mask changes; ``steps`` are those that compute the layers, by the names of the weights.
    """

    target: Target
    batch: int
    threads: int
    dense: float
    fixed: float
    plan: Plan
    steps: dict[str, Step]
    limits: Machine
    blocks: BlockCache = field(default_factory=BlockCache)

    def seconds(self, name: str, mask: Tensor, cut: bool = False) -> float:
        """The time of a layer with the zeros of ``mask``; 0 where no step could be found.

        With ``cut`` inputs and outputs that are masked as a whole are gone.
        """
        step = self.steps.get(name)
        if step is None:
            return 0.0
        zeros = with_zeros(step, mask.numpy())
        return self._seconds(without_channels(zeros) if cut else zeros)

    def total(self, masks: Masks, cut: bool = False) -> float:
        """The time of a run of the network, masks of layers without one being full."""
        return self.fixed + sum(
            self.seconds(name, masks[name] if name in masks else torch.ones(_shape(step)), cut)
            for name, step in self.steps.items()
        )

    def _seconds(self, step: Step) -> float:
        isa = isa_of(self.target)
        layer = layer_of(step, self.plan, isa, self.threads, self.blocks)
        (work,) = works.of_layers([asdict(layer)], self.threads, self.threads)
        return layer_time(work, self.limits, table_of(SPARSE), resident=True).seconds


def costs_of(
    module: nn.Module,
    layers: Sequence[Layer],
    input_shape: Sequence[int],
    target: str,
    batch: int = 1,
    threads: int = 0,
) -> Costs:
    """Lower ``module`` for ``target``.

    Args:
        module: dense, in eval mode; it is not changed.
        layers: those whose masks will vary.
        input_shape: of one batch.
        target: a name of ``targets.TARGETS`` or of the user's own.
        batch: inputs of a run.
        threads: of a run; 0 for all cores of the target.

    Raises:
        UserError: the target cannot have the sparse runtime or has no figures to predict from; the
            module cannot be exported, or the runtime cannot compute it.
    """
    hardware = targets.by_name(target)
    if SPARSE not in hardware.runtimes:
        raise UserError(
            f"a speed is predicted by the sparse runtime, which {hardware.name} does not have: give"
            " --density or --flops, with --units channels"
        )
    limits = machine(hardware, SPARSE, "float32", threads)
    marked, marks = _marked(module, layers)
    shape = (1, *input_shape[1:])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dense.onnx"
        models.save(to_model(module, shape), path)
        dense = predict(path, target, STOCK, batch=batch, threads=threads).forecast.seconds
        path = Path(folder) / "marked.onnx"
        models.save(to_model(marked, shape), path)
        loaded = models.load(path)
        plan = plan_of(loaded, batch, limits.threads)
    steps = _steps_of(plan, marks)
    fixed = Costs(hardware, batch, limits.threads, dense, 0.0, plan, {}, limits)
    used = {id(step) for step in steps.values()}
    suffix = plan.suffix.plan.steps if plan.suffix is not None else ()
    others = sum(fixed._seconds(each) for each in (*plan.steps, *suffix) if id(each) not in used)
    return replace(fixed, fixed=others, steps=steps)


def with_zeros(step: Step, mask: Array) -> Conv:
    """The step with weights of one where ``mask`` is true, and zero elsewhere."""
    assert isinstance(step, Conv)
    kept = mask.reshape(step.weight.shape)
    return replace(step, weight=np.where(kept, np.float32(1), np.float32(0)))


def without_channels(step: Conv) -> Conv:
    """The step without inputs and outputs that have no weight; grouped ones stay as they are."""
    if step.groups > 1:
        return step
    kept = step.weight != 0
    outputs, inputs = kept.any((1, 2, 3)), kept.any((0, 2, 3))
    if not outputs.any() or (outputs.all() and inputs.all()):
        return step
    rows, columns = int(outputs.sum()), int(inputs.sum())
    return replace(
        step,
        x=_narrowed(step.x, columns),
        y=_narrowed(step.y, rows),
        weight=np.ascontiguousarray(step.weight[outputs][:, inputs]),
        bias=step.bias[outputs],
        residual=None if step.residual is None else _narrowed(step.residual, rows),
    )


def _narrowed(view: View, channels: int) -> View:
    return replace(view, shape=(view.shape[0], channels, *view.shape[2:]))


def _shape(step: Step) -> tuple[int, ...]:
    assert isinstance(step, Conv)
    return tuple(step.weight.shape)


def _marked(module: nn.Module, layers: Sequence[Layer]) -> tuple[nn.Module, dict[str, Array]]:
    """A copy in which half of each layer's weights are zero, at places of the layer's own."""
    copied = deepcopy(module)
    generator = torch.Generator().manual_seed(0)
    marks = {}
    with torch.no_grad():
        for layer in layers:
            mark = torch.rand(layer.shape, generator=generator) < 0.5
            copied.get_parameter(layer.name).copy_(mark.float())
            marks[layer.name] = mark.numpy()
        for name, tensor in copied.named_parameters():  # whose rows fold into the weights
            if name not in marks and tensor.dim() == 1:
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return copied, marks


def _steps_of(plan: Plan, marks: dict[str, Array]) -> dict[str, Step]:
    """The step of each layer: the one whose weights are zero where its mark says."""
    suffix = plan.suffix.plan.steps if plan.suffix is not None else ()
    convs = [step for step in (*plan.steps, *suffix) if isinstance(step, Conv)]
    steps: dict[str, Step] = {}
    for name, mark in marks.items():
        for step in convs:
            same = step.weight.size == mark.size and len(step.weight) == len(mark)
            if same and bool(((step.weight != 0).reshape(mark.shape) == mark).all()):
                steps[name] = step
                break
    return steps
