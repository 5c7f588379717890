"""A plain interpreter of ONNX models: the reference that passes and engines are checked against.

Node by node in the order of the graph, nothing fused and nothing reordered. Convolutions and
pools run on torch's CPU kernels, which keep a ResNet-50 under a second; every other operator on
the implementation in ``onnx.reference``. In float64 it also serves as the exact answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
import torch.nn.functional as F
from onnx.reference import ReferenceEvaluator

from prunedeploy import model as models
from prunedeploy.errors import UserError
from prunedeploy.types import Array

Kernel = Callable[..., torch.Tensor | None]


class Evaluator:
    """Runs a model on NumPy arrays.

    Args:
        model: an ONNX file or a model in memory; it is not changed.
        float64: compute in float64 whatever the model's own precision, so that two models
            can be compared without rounding in the way.

    Raises:
        UserError: an operator that neither torch nor ``onnx.reference`` can run, by name.
    """

    def __init__(self, model: Path | ir.Model, *, float64: bool = False) -> None:
        self._model = models.load(model) if isinstance(model, Path) else model
        self._float64 = float64
        if self._model.functions:
            raise UserError("model-local functions must be inlined before the model is evaluated")
        self.inputs, self.outputs = models.specs(self._model)
        self._last_use = _last_uses(self._model.graph)
        self._steps = [self._step(node) for node in self._model.graph]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Every output by name."""
        values: dict[str, Array | None] = {k: self._cast(np.asarray(v)) for k, v in feeds.items()}
        for name, value in self._model.graph.initializers.items():
            if value.const_value is not None:
                values.setdefault(name, self._cast(value.const_value.numpy()))
        for index, (node, step) in enumerate(zip(self._model.graph, self._steps, strict=True)):
            arguments = [values[str(v.name)] if v is not None else None for v in node.inputs]
            results = step(arguments, values)
            for output, result in zip(node.outputs, results, strict=False):
                values[str(output.name)] = self._cast(result)
            for name in self._last_use[index]:
                del values[name]
        return {str(v.name): np.asarray(values[str(v.name)]) for v in self._model.graph.outputs}

    def _cast(self, array: Any) -> Any:
        if self._float64 and getattr(array, "dtype", None) in (np.float32, np.float16):
            return array.astype(np.float64)
        return array

    def _step(self, node: ir.Node) -> Callable[[list[Any], Mapping[str, Any]], Any]:
        kernel = KERNELS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        fallback: ReferenceEvaluator | None = None

        def step(inputs: list[Any], values: Mapping[str, Any]) -> Any:
            nonlocal fallback
            if kernel is not None:
                with torch.no_grad():
                    result = kernel(node, *map(_tensor, inputs))
                if result is not None:
                    return [result.contiguous().numpy()]
            if fallback is None:
                fallback = single_node(node, self._model.opset_imports)
            return fallback.run(None, {name: values[name] for name in fallback.input_names})

        if kernel is None:
            fallback = single_node(
                node, self._model.opset_imports
            )  # so that an unknown operator is named at once
        return step


def single_node(node: ir.Node, opsets: Mapping[str, int]) -> ReferenceEvaluator:
    """The node alone, as a model; what its subgraphs read from outside becomes its inputs too.

    Raises:
        UserError: nothing here can run the operator.
    """
    names = dict.fromkeys(str(v.name) for v in node.inputs if v is not None and v.name)
    names |= dict.fromkeys(_captured(node))
    untyped = onnx.TypeProto()
    graph = onnx.helper.make_graph(
        [ir.serde.serialize_node(node)],
        "node",
        [onnx.helper.make_value_info(name, untyped) for name in names],
        [onnx.helper.make_value_info(v.name, untyped) for v in node.outputs if v.name],
    )
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    try:
        return ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=imports))
    except Exception as error:
        operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        raise UserError(
            f"operator {operator} (node {node.name or '?'}) is unknown, "
            "so what the model computes cannot be checked"
        ) from error


def _tensor(array: Any) -> torch.Tensor | None:
    # a copy only where torch needs one: negative strides, read-only buffers
    if array is None:
        return None
    array = np.ascontiguousarray(array)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _captured(node: ir.Node) -> list[str]:
    """Names that the node's subgraphs read from the graph around them."""
    names: list[str] = []
    for attribute in node.attributes.values():
        graphs = {
            ir.AttributeType.GRAPH: lambda a: [a.as_graph()],
            ir.AttributeType.GRAPHS: lambda a: list(a.as_graphs()),
        }.get(attribute.type, lambda _: [])(attribute)
        for graph in graphs:
            own = {v.name for v in graph.inputs} | set(graph.initializers)
            own |= {v.name for inner in graph for v in inner.outputs}
            reads = [v.name for inner in graph for v in inner.inputs if v is not None]
            reads += [name for inner in graph for name in _captured(inner)]
            reads += [v.name for v in graph.outputs]
            names += [name for name in reads if name and name not in own]
    return names


def _last_uses(graph: ir.Graph) -> list[list[str]]:
    """For each node the values that nothing reads after it, so that they can be let go."""
    last: dict[str, int] = {}
    for index, node in enumerate(graph):
        names = [str(v.name) for v in node.inputs if v is not None] + _captured(node)
        names += [str(v.name) for v in node.outputs if v.name]
        last.update((name, index) for name in names)
    kept = {v.name for v in graph.outputs}
    released: list[list[str]] = [[] for _ in graph]
    for name, index in last.items():
        if name not in kept:
            released[index].append(name)
    return released


def _window(node: ir.Node, size: list[int], kernel: list[int]) -> tuple[list[int], ...] | None:
    """Strides, dilations and pads (begins, then ends) of a convolution or pool."""
    rank = len(size)
    strides = list(node.attributes.get_ints("strides", [1] * rank))
    dilations = list(node.attributes.get_ints("dilations", [1] * rank))
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    if auto in ("NOTSET", ""):
        return strides, dilations, list(node.attributes.get_ints("pads", [0] * 2 * rank))
    if auto == "VALID":
        return strides, dilations, [0] * 2 * rank
    total = [
        max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
        for n, s, k, d in zip(size, strides, kernel, dilations, strict=True)
    ]
    less, more = [t // 2 for t in total], [t - t // 2 for t in total]
    return strides, dilations, less + more if auto == "SAME_UPPER" else more + less


def _pad(x: torch.Tensor, pads: list[int], value: float) -> torch.Tensor:
    rank = len(pads) // 2
    pairs = [p for axis in reversed(range(rank)) for p in (pads[axis], pads[axis + rank])]
    return F.pad(x, pairs, value=value) if any(pads) else x


def _conv(
    node: ir.Node, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None = None
) -> torch.Tensor | None:
    window = _window(node, list(x.shape[2:]), list(w.shape[2:]))
    convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}.get(w.dim() - 2)
    if window is None or convolve is None or not w.numel():
        return None
    strides, dilations, pads = window
    group = node.attributes.get_int("group", 1)
    return convolve(_pad(x, pads, 0.0), w, b, strides, 0, dilations, group)


def _conv_transpose(
    node: ir.Node, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None = None
) -> torch.Tensor | None:
    rank = w.dim() - 2
    convolve = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}.get(rank)
    strides = list(node.attributes.get_ints("strides", [1] * rank))
    dilations = list(node.attributes.get_ints("dilations", [1] * rank))
    extra = list(node.attributes.get_ints("output_padding", [0] * rank))
    if convolve is None or any(e >= max(s, 1) for e, s in zip(extra, strides, strict=True)):
        return None
    group = node.attributes.get_int("group", 1)
    whole = convolve(x, w, b, strides, 0, extra, group, dilations)
    pads = _transposed_pads(node, list(x.shape[2:]), list(whole.shape[2:]), strides)
    if min(pads) < 0:
        return None
    for axis in range(rank):
        kept = whole.shape[2 + axis] - pads[axis] - pads[axis + rank]
        whole = whole.narrow(2 + axis, pads[axis], kept)
    return whole


def _transposed_pads(
    node: ir.Node, size: list[int], whole: list[int], strides: list[int]
) -> list[int]:
    """What is cut off the whole result at begin and end, as the ONNX operator defines it."""
    rank = len(size)
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    target = list(node.attributes.get_ints("output_shape", []))[-rank:]
    if not target and auto.startswith("SAME"):
        target = [n * s for n, s in zip(size, strides, strict=True)]
    if not target:
        return list(node.attributes.get_ints("pads", [0] * 2 * rank))
    total = [w - t for w, t in zip(whole, target, strict=True)]
    less = [t // 2 for t in total]
    more = [t - h for t, h in zip(total, less, strict=True)]
    return less + more if auto == "SAME_UPPER" else more + less


def _max_pool(node: ir.Node, x: torch.Tensor) -> torch.Tensor | None:
    kernel = list(node.attributes.get_ints("kernel_shape", []))
    window = _window(node, list(x.shape[2:]), kernel)
    pool = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}.get(x.dim() - 2)
    ceil = node.attributes.get_int("ceil_mode", False)
    if window is None or pool is None or ceil or len(node.outputs) > 1 or not x.is_floating_point():
        return None
    strides, dilations, pads = window
    result: torch.Tensor = pool(_pad(x, pads, -torch.inf), kernel, strides, 0, dilations)
    return result


def _average_pool(node: ir.Node, x: torch.Tensor) -> torch.Tensor | None:
    kernel = list(node.attributes.get_ints("kernel_shape", []))
    window = _window(node, list(x.shape[2:]), kernel)
    pool = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}.get(x.dim() - 2)
    if window is None or pool is None or node.attributes.get_int("ceil_mode", False):
        return None
    strides, dilations, pads = window
    rank = len(kernel)
    if any(d != 1 for d in dilations) or pads[:rank] != pads[rank:]:
        return None
    include = bool(node.attributes.get_int("count_include_pad", False))
    result: torch.Tensor = pool(x, kernel, strides, pads[:rank], False, include)
    return result


KERNELS: dict[str, Kernel] = {
    "AveragePool": _average_pool,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _max_pool,
}
