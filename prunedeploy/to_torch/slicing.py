"""Shrink an ordinary module: the same analysis, and only what its own code can follow.

The network is exported as it is, nothing folded, so that every initializer is a parameter or
buffer of the module. What is cut of the graph is cut of the module; constants go into vectors that
the module has (``holders.py``). Whether the module's code follows, a view with fixed sizes does
not, is tried out: where it fails, the axes whose nodes would have to be rewritten stay whole.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array, Difference
from prunedeploy.graph.shapes import infer_shapes
from prunedeploy.passes.analysis.settings import Limits, Settings
from prunedeploy.passes.analysis.zero import Zero
from prunedeploy.passes.operators.table import operator
from prunedeploy.passes.shrink.edit import apply
from prunedeploy.passes.shrink.fixed_point import cut_to_fixed_point
from prunedeploy.passes.shrink.plan import Plan
from prunedeploy.reference import verify
from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.to_torch import holders, origins
from prunedeploy.to_torch.origins import Origin
from prunedeploy.to_torch.program import run
from prunedeploy.to_torch.slices import SlicePlan, apply_plan, shapes_of

UNTRACED = "no parameter of the module"
FIXED = "fixed in the module's code"
Pins = dict[tuple[str, int], str]


@dataclass(frozen=True)
class Sliced:
    """A smaller state_dict, and the plan by which a module is made to fit it.

    ``difference`` is between the sliced module and the one before.
    """

    state: dict[str, Tensor]
    plan: SlicePlan
    difference: Difference


@dataclass(frozen=True)
class _Trial:
    """The result of one analysis; ``edited`` are the axes, by operator, that were adapted."""

    model: ir.Model
    state: dict[str, Tensor]
    plan: SlicePlan
    edited: Mapping[str, Pins]


def slice_module(
    module: nn.Module, model: ir.Model, feeds: Mapping[str, Array], zero_threshold: float = 0.0
) -> Sliced:
    """The state_dict of ``module`` without what no output needs, and its plan.

    Args:
        module: in eval mode; it is not changed.
        model: its export without optimisation, functions inlined, nodes sorted and named.
        feeds: inputs on which the sliced module is compared with the one before.
        zero_threshold: weights up to this size count as zero.

    Raises:
        UserError: the module's code does not run once channels are removed, whichever.
    """
    examples = tuple(torch.from_numpy(np.array(array, order="C")) for array in feeds.values())
    names = [str(v.name) for v in model.graph.outputs]
    expected = run(module, examples, names)
    origins.simplify(model)
    pins: dict[str, Pins] = {}

    def attempt(pins: Mapping[str, Pins], biases: bool = True) -> tuple[_Trial, Difference | str]:
        trial = _analyse(module, model.clone(), pins, biases, zero_threshold)
        wanted = Evaluator(trial.model).run(feeds) if zero_threshold else expected
        return trial, _try_out(module, trial, examples, wanted)

    trial, outcome = attempt(pins)
    while isinstance(outcome, str) and any(
        set(v) - set(pins.get(k, ())) for k, v in trial.edited.items()
    ):
        pins = {k: {**pins.get(k, {}), **trial.edited.get(k, {})} for k in {*pins, *trial.edited}}
        trial, outcome = attempt(pins)
    if isinstance(outcome, str):
        trial, outcome = attempt(pins, biases=False)
    elif len(pins) > 1:
        for kind in sorted(pins):  # perhaps one kind of operator alone is at fault
            fewer = {k: v for k, v in pins.items() if k != kind}
            freer, difference = attempt(fewer)
            if not isinstance(difference, str):
                pins, trial, outcome = fewer, freer, difference
    if isinstance(outcome, str):
        raise UserError(
            f"the network's own code does not follow when channels are removed ({outcome}):"
            " take the ONNX model or the torch program (--pt) instead of --state-dict"
        )
    if zero_threshold:
        outcome = verify.compare(expected, Evaluator(trial.model).run(feeds))
    return Sliced(trial.state, trial.plan, outcome)


def save(sliced: Sliced, path: Path, arch: str | None) -> None:
    """Write plain containers alone: the state_dict, the plan, and what it is a state_dict of."""
    content = {"state_dict": sliced.state, "plan": sliced.plan.to_dict(), "arch": arch}
    with path.open("wb") as file:  # by name torch.save would put the name into the archive
        torch.save(content, file)


def _try_out(
    module: nn.Module, trial: _Trial, examples: tuple[Tensor, ...], expected: Mapping[str, Array]
) -> Difference | str:
    """How far the sliced module is from the outputs expected, or why it does not run."""
    sliced = copy.deepcopy(module)
    try:
        apply_plan(sliced, trial.plan)
        sliced.load_state_dict(trial.state)
        difference = verify.compare(expected, run(sliced, examples, list(expected)))
    except Exception as error:  # the module's own code may raise anything
        lines = str(error).strip().splitlines()
        return lines[0][:200] if lines else type(error).__name__
    if not difference.passed:
        return f"its outputs change by {difference.max_rel:.1e} of their range"
    return difference


def _analyse(
    module: nn.Module,
    model: ir.Model,
    pins: Mapping[str, Pins],
    new_biases: bool,
    zero_threshold: float,
) -> _Trial:
    """Cut ``model``, in place, until nothing more can go, and say what that is in the module."""
    graph = model.graph
    tensors = _tensors(module)
    traced = origins.trace(graph, tensors)
    held = holders.find(graph, traced, module, new_biases)
    infer_shapes(model)
    pinned = {pair: why for group in pins.values() for pair, why in group.items()}
    for name, value in graph.initializers.items():
        if name not in traced:
            pinned |= {(name, axis): UNTRACED for axis in range(len(value.shape or ()))}
    settings = Settings(Zero(zero_threshold), limits=Limits(pinned, frozenset(held)))
    kept = {
        name: [np.arange(size) for size in value.const_value.shape.numpy()]
        for name, value in graph.initializers.items()
        if name in traced and value.const_value is not None
    }
    edited: dict[str, Pins] = {}
    cut_to_fixed_point(
        graph,
        settings,
        prepare=lambda: infer_shapes(model),
        carry_out=lambda plan: _cut(graph, plan, held, kept, edited),
    )
    state = _state(module, tensors, graph, traced, kept)
    return _Trial(model, *state, edited)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, also those that a state_dict leaves out."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _cut(
    graph: ir.Graph,
    plan: Plan,
    held: dict[str, holders.Holder],
    kept: dict[str, list[np.ndarray]],
    edited: dict[str, Pins],
) -> None:
    """Carry out one plan, and record what stays and which nodes were adapted to it."""
    for absorption in plan.absorptions:
        if absorption.into == "bias":
            holders.hold(graph, absorption, held)
    merges = tuple(a for a in plan.absorptions if a.into == "channel")
    for value, axis, stays in plan.keep.items():
        if value.name in kept and value.const_value is not None:
            kept[value.name][axis] = kept[value.name][axis][stays]
    before = {node: _written(node) for node in graph if operator(node).edit is not None}
    apply(graph, replace(plan, absorptions=merges))
    for node, written in before.items():
        if _written(node) != written:
            pairs = [
                (str(value.name), axis)
                for value, axis, _ in plan.keep.items()
                if value in {*node.inputs[:1], *node.outputs}
            ]
            edited.setdefault(node.op_type, {}).update(dict.fromkeys(pairs, FIXED))


def _written(node: ir.Node) -> tuple[object, ...]:
    """The parts of a node that a rule may change."""
    return (*node.inputs, *(str(a) for a in node.attributes.values()))


def _state(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    graph: ir.Graph,
    traced: Mapping[str, Origin],
    kept: Mapping[str, list[np.ndarray]],
) -> tuple[dict[str, Tensor], SlicePlan]:
    """The new state_dict, and the plan."""
    shapes = shapes_of(module)
    new: dict[str, Tensor] = {}
    indices: dict[str, dict[int, tuple[int, ...]]] = {}
    biases = []
    for name, origin in traced.items():
        value = graph.initializers.get(name)
        if value is None or value.const_value is None:
            continue
        array = np.array(origin.array(value.const_value.numpy()), order="C")
        if origin.key not in tensors:
            if not array.any():
                continue  # a bias that took nothing
            biases.append(origin.key.rpartition(".")[0])
            shapes[origin.key] = (_width(module.get_submodule(biases[-1])),)
        new[origin.key] = torch.from_numpy(array)
        axes = {
            origin.axis(axis): tuple(map(int, left))
            for axis, left in enumerate(kept.get(name, ()))
            if len(left) != shapes[origin.key][origin.axis(axis)]
        }
        if axes:
            indices[origin.key] = axes
    for name, tensor in tensors.items():  # one parameter under several names
        first = next(key for key, other in tensors.items() if other is tensor)
        if first != name and first in new:
            new[name] = new[first]
            indices |= {name: indices[first]} if first in indices else {}
    state = {k: new.get(k, tensor.detach()).clone() for k, tensor in module.state_dict().items()}
    state |= {key: new[key] for key in new if key not in tensors}
    plan = SlicePlan(shapes, indices, _groups(graph, traced, module), tuple(biases))
    return state, plan


def _width(layer: nn.Module) -> int:
    """Output channels or features of a convolution or linear layer."""
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)  # type: ignore[arg-type]


def _groups(graph: ir.Graph, traced: Mapping[str, Origin], module: nn.Module) -> dict[str, int]:
    """Convolutions whose number of groups is another than the module's."""
    changed = {}
    for node in graph:
        weight = node.inputs[1] if node.op_type in ("Conv", "ConvTranspose") else None
        origin = traced.get(str(weight.name)) if weight is not None else None
        if origin is None:
            continue
        layer = origin.key.rpartition(".")[0]
        groups = node.attributes.get_int("group", 1)
        if getattr(module.get_submodule(layer), "groups", groups) != groups:
            changed[layer] = groups
    return changed
