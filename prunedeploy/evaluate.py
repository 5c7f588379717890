"""A plain interpreter of ONNX models: the reference that passes and engines are checked against.

Node by node in the order of the graph, nothing fused and nothing reordered. Convolutions and
pools run on torch's CPU kernels, which keep a ResNet-50 under a second; every other operator on
the implementation in ``onnx.reference``, but for the few that it gets wrong. A node on float16
or bfloat16 computes in float32 and rounds its result once. In float64 it also serves as the exact
answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import torch
import torch.nn.functional as F
from onnx.reference import ReferenceEvaluator

from prunedeploy import model as models
from prunedeploy.errors import UserError
from prunedeploy.types import Array

# What a node's inputs come to, or None where onnx.reference is to compute it.
Kernel = Callable[..., Array | None]
TorchKernel = Callable[..., torch.Tensor | None]

NARROW = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))


class Evaluator:
    """Runs a model on NumPy arrays.

    Args:
        model: an ONNX file or a model in memory; it is not changed.
        float64: compute in float64 whatever the model's own precision, so that two models
            can be compared without rounding in the way.

    Raises:
        UserError: an operator that neither torch nor ``onnx.reference`` can run, by name; a
            value that is read and never computed.
    """

    def __init__(self, model: Path | ir.Model, *, float64: bool = False) -> None:
        self._model = models.load(model) if isinstance(model, Path) else model
        self._float64 = float64
        if self._model.functions:
            raise UserError("model-local functions must be inlined before the model is evaluated")
        self.inputs, self.outputs = models.specs(self._model)
        _check_reads(self._model.graph)
        self._last_use = _last_uses(self._model.graph)
        self._steps = [self._step(node) for node in self._model.graph]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Every output by name.

        Raises:
            UserError: an input is not fed, or a node cannot be run on what reaches it.
        """
        missing = [spec.name for spec in self.inputs if spec.name not in feeds]
        if missing:
            raise UserError(f"the model also needs an array for its input {', '.join(missing)}")
        values: dict[str, Array | None] = {k: self._cast(np.asarray(v)) for k, v in feeds.items()}
        for name, value in self._model.graph.initializers.items():
            if value.const_value is not None:
                values.setdefault(name, self._cast(value.const_value.numpy()))
        for index, (node, step) in enumerate(zip(self._model.graph, self._steps, strict=True)):
            arguments = [values[str(v.name)] if v is not None else None for v in node.inputs]
            try:
                results = step(arguments, values)
            except (UserError, MemoryError):
                raise
            except Exception as error:  # torch and onnx.reference raise whatever they meet
                raise _cannot_run(node, arguments, error) from error
            for output, result in zip(node.outputs, results, strict=False):
                values[str(output.name)] = self._cast(result)
            for name in self._last_use[index]:
                values.pop(name, None)  # optional outputs that nothing reads may be absent
        return {str(v.name): np.asarray(values[str(v.name)]) for v in self._model.graph.outputs}

    def _cast(self, array: Any) -> Any:
        if self._float64 and getattr(array, "dtype", None) in (np.float32, *NARROW):
            return array.astype(np.float64)
        return array

    def _step(self, node: ir.Node) -> Callable[[list[Any], Mapping[str, Any]], Any]:
        opsets = _opsets(self._model.opset_imports)
        kernel = None if node.domain else KERNELS.get(node.op_type)
        if node.op_type == "BatchNormalization" and opsets.get("", 0) < 7:
            kernel = None  # it trains unless is_test is set, which onnx.reference knows
        same_type = _types(node, opsets)
        fallback: ReferenceEvaluator | None = None

        def step(inputs: list[Any], values: Mapping[str, Any]) -> Any:
            nonlocal fallback
            rounded = _rounding(same_type, inputs)
            if any(rounded):
                inputs = [_widen(array) for array in inputs]
            result = kernel(node, *inputs) if kernel is not None else None
            if result is not None:
                return _round([result], rounded)
            if fallback is None:
                fallback = single_node(node, opsets)
            feeds = {name: values[name] for name in fallback.input_names}
            if any(rounded):
                feeds = {name: _widen(array) for name, array in feeds.items()}
            return _round(fallback.run(None, feeds), rounded)

        if kernel is None:  # so that an unknown operator is named at once
            fallback = single_node(node, opsets)
        return step


def _label(node: ir.Node) -> str:
    operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    return f"operator {operator} (node {node.name or '?'})"


def _cannot_run(node: ir.Node, arguments: Sequence[Any], error: Exception) -> UserError:
    shapes = [str(list(a.shape)) if hasattr(a, "shape") else type(a).__name__ for a in arguments]
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(
        f"{_label(node)} cannot be run on inputs of shapes {', '.join(shapes) or 'none'}: {reason}"
    )


def _opsets(imports: Mapping[str, int]) -> dict[str, int]:
    """The imports with the standard domain under the one name that nodes and schemas use."""
    return {"" if domain == "ai.onnx" else domain: version for domain, version in imports.items()}


def _check_reads(graph: ir.Graph) -> None:
    """Refuse a graph that reads what nothing gives: onnx_ir drops sparse initializers unseen."""
    known = {v.name for v in graph.inputs}
    known |= {k for k, v in graph.initializers.items() if v.const_value is not None}
    for node in graph:
        names = [v.name for v in node.inputs if v is not None] + _captured(node)
        _check_known(names, known, _label(node))
        known |= {v.name for v in node.outputs}
    _check_known([v.name for v in graph.outputs], known, "the graph's outputs")


def _check_known(names: Sequence[str | None], known: set[str | None], reader: str) -> None:
    for name in names:
        if name not in known:
            raise UserError(
                f"{name}, read by {reader}, is neither an input nor an initializer nor computed "
                "before: sparse initializers must be made dense, nodes sorted, weights present"
            )


def _types(node: ir.Node, opsets: Mapping[str, int]) -> list[list[int]]:
    """For each output the inputs that the operator's definition gives the same type."""
    graphs = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    if any(a.type in graphs for a in node.attributes.values()):
        return []  # the graphs inside hold values of the model's own type
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 1), node.domain)
    except onnx.defs.SchemaError:
        return []
    inputs = _kinds(schema.inputs, len(node.inputs))
    outputs = _kinds(schema.outputs, len(node.outputs))
    return [[i for i, kind in enumerate(inputs) if kind == found] for found in outputs]


def _kinds(formal: Sequence[Any], count: int) -> list[str]:
    kinds = [parameter.type_str for parameter in formal]
    return [*kinds, *kinds[-1:] * count][:count]  # the last one may stand for any number


def _rounding(same_type: list[list[int]], inputs: list[Any]) -> list[np.dtype[Any] | None]:
    """The narrow type that each output is rounded to, None for one that is left as it is."""
    rounded: list[np.dtype[Any] | None] = []
    for sources in same_type:
        dtypes = [getattr(inputs[i], "dtype", None) for i in sources]
        rounded.append(next((dtype for dtype in dtypes if dtype in NARROW), None))
    return rounded


def _widen(array: Any) -> Any:
    return array.astype(np.float32) if getattr(array, "dtype", None) in NARROW else array


def _round(results: Any, rounded: list[np.dtype[Any] | None]) -> list[Any]:
    if not any(rounded):
        return list(results)
    return [
        result if dtype is None or result is None else result.astype(dtype)
        for result, dtype in zip(results, rounded, strict=False)
    ]


def single_node(node: ir.Node, opsets: Mapping[str, int]) -> ReferenceEvaluator:
    """The node alone, as a model; what its subgraphs read from outside becomes its inputs too.

    Raises:
        UserError: nothing here can run the operator.
    """
    names = dict.fromkeys(str(v.name) for v in node.inputs if v is not None and v.name)
    names |= dict.fromkeys(_captured(node))
    untyped = onnx.TypeProto()
    imports = [onnx.helper.make_opsetid(*item) for item in _opsets(opsets).items()]
    try:
        graph = onnx.helper.make_graph(
            [ir.serde.serialize_node(node)],
            "node",
            [onnx.helper.make_value_info(name, untyped) for name in names],
            [onnx.helper.make_value_info(v.name, untyped) for v in node.outputs if v.name],
        )
        return ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=imports))
    except Exception as error:
        raise UserError(
            f"{_label(node)} is unknown, so what the model computes cannot be checked"
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


def window(
    node: ir.Node, size: list[int], kernel: list[int]
) -> tuple[list[int], list[int], list[int]]:
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
    strides, dilations, pads = window(node, list(x.shape[2:]), list(w.shape[2:]))
    convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}.get(w.dim() - 2)
    if convolve is None or not w.numel():
        return None
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
    strides, dilations, pads = window(node, list(x.shape[2:]), kernel)
    pool = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}.get(x.dim() - 2)
    ceil = node.attributes.get_int("ceil_mode", False)
    if pool is None or ceil or len(node.outputs) > 1 or not x.is_floating_point():
        return None
    result: torch.Tensor = pool(_pad(x, pads, -torch.inf), kernel, strides, 0, dilations)
    return result


def _average_pool(node: ir.Node, x: torch.Tensor) -> torch.Tensor | None:
    kernel = list(node.attributes.get_ints("kernel_shape", []))
    strides, dilations, pads = window(node, list(x.shape[2:]), kernel)
    pool = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}.get(x.dim() - 2)
    if pool is None or node.attributes.get_int("ceil_mode", False):
        return None
    rank = len(kernel)
    if any(d != 1 for d in dilations) or pads[:rank] != pads[rank:]:
        return None
    include = bool(node.attributes.get_int("count_include_pad", False))
    result: torch.Tensor = pool(x, kernel, strides, pads[:rank], False, include)
    return result


def _on_torch(kernel: TorchKernel) -> Kernel:
    def run(node: ir.Node, *inputs: Any) -> Array | None:
        with torch.no_grad():
            result = kernel(node, *map(_tensor, inputs))
        return None if result is None else result.contiguous().numpy()

    return run


def _batch_normalization(
    node: ir.Node, x: Array, scale: Array, bias: Array, mean: Array, var: Array
) -> Array | None:
    """The form of inference; onnx.reference mixes the batch's statistics in below opset 14."""
    if node.attributes.get_int("training_mode", 0):
        return None
    if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
        raise ValueError("statistics of the batch, which only training computes, are read")
    parameters: list[Any] = [scale, bias, mean, var]
    if node.attributes.get_int("spatial", 1):
        parameters = [p.reshape(-1, *[1] * (x.ndim - 2)) for p in parameters]
    s, b, m, v = parameters
    epsilon = node.attributes.get_float("epsilon", float(np.float32(1e-5)))  # as ONNX stores it
    # the order of operations of onnx.reference at opset 14
    return np.asarray(s * (x - m) / np.sqrt(v + epsilon) + b).astype(x.dtype)


def _pad_with_crops(
    node: ir.Node,
    x: Array,
    pads: Array | None = None,
    value: Array | None = None,
    axes: Array | None = None,
) -> Array | None:
    """Pad where some pads are negative and cut, which NumPy has no word for."""
    attribute = "pads" if "pads" in node.attributes else "paddings"
    listed = node.attributes.get_ints(attribute, []) if pads is None else pads.tolist()
    if not listed or min(listed) >= 0:
        return None
    begins, ends = [0] * x.ndim, [0] * x.ndim
    half = len(listed) // 2
    for i, axis in enumerate(range(x.ndim) if axes is None else axes.tolist()):
        begins[axis], ends[axis] = listed[i], listed[half + i]
    cut = [(max(0, -b), n - max(0, -e)) for b, e, n in zip(begins, ends, x.shape, strict=True)]
    if any(start > stop for start, stop in cut):
        raise ValueError(f"pads {list(listed)} cut off more than there is")
    kept = x[tuple(slice(start, stop) for start, stop in cut)]
    width = [(max(0, b), max(0, e)) for b, e in zip(begins, ends, strict=True)]
    mode = node.attributes.get_string("mode", "constant")
    if mode != "constant":
        return np.pad(kept, width, mode=mode)  # type: ignore[call-overload,no-any-return]
    fill = node.attributes.get_float("value", 0.0) if value is None else value.reshape(())
    return np.pad(kept, width, constant_values=fill)


def _upsample(node: ir.Node, x: Array, scales: Array | None = None) -> Array:
    """Every axis in turn; output i lies at i / scale, as float32 has it, like the engines."""
    factors = node.attributes.get_floats("scales", []) if scales is None else scales.tolist()
    mode = node.attributes.get_string("mode", "nearest")
    if len(factors) != x.ndim or mode not in ("nearest", "linear"):
        raise ValueError(f"mode {mode} with scales {list(factors)} is not supported")
    y: Any = x
    for axis, factor in enumerate(np.asarray(factors, np.float32)):
        size = x.shape[axis]
        if factor == 1 or not size:
            continue
        last = np.float32(size - 1)
        at = np.minimum(np.arange(int(np.float32(size) * factor), dtype=np.float32) / factor, last)
        low = at.astype(np.int64)
        below = y.take(low, axis)
        if mode == "nearest":
            y = below
            continue
        above = y.take(np.minimum(low + 1, size - 1), axis)
        part = (at - low).astype(np.float64 if x.dtype == np.float64 else np.float32)
        part = part.reshape(-1, *[1] * (x.ndim - axis - 1))
        y = below * (1 - part) + above * part
    return np.asarray(y).astype(x.dtype)


KERNELS: dict[str, Kernel] = {
    "AveragePool": _on_torch(_average_pool),
    "BatchNormalization": _batch_normalization,
    "Conv": _on_torch(_conv),
    "ConvTranspose": _on_torch(_conv_transpose),
    "MaxPool": _on_torch(_max_pool),
    "Pad": _pad_with_crops,
    "Upsample": _upsample,
}
