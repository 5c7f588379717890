"""Sizes that onnx's shape inference takes for equal though a Slice has cut one of them.

Slice 10 hands the symbol of an axis on to its result as if nothing were cut; later versions leave
that size open. ONNX Runtime infers in the same way, and then reuses the buffer of one value for
another that is larger, unless the file names the size of the result.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

WRONG = 10  # the only opset with that version of Slice
TO_THE_END = (1 << 31) - 1  # an end from which on nothing is cut off


def name_apart(model: ir.Model) -> bool:
    """Give every axis that a Slice may cut a symbol of its own, and forget what was taken for it.

    Returns:
        Whether there were any, so that the shapes behind them must be inferred again.
    """
    if model.opset_imports.get("", 0) != WRONG:
        return False
    slices = [node for node in model.graph.all_nodes() if node.op_type == "Slice"]
    wrong = {node.outputs[0]: axes for node in slices if (axes := _wrong(node))}
    for result, axes in wrong.items():
        assert result.shape is not None
        symbols = {result.shape[axis] for axis in axes}
        dims = enumerate(result.shape)
        result.shape = ir.Shape(f"{result.name}.{i}" if i in axes else dim for i, dim in dims)
        _forget_behind(result, symbols)
    return bool(wrong)


def _wrong(node: ir.Node) -> set[int]:
    """The axes that may be cut and whose size in the result is called that of the operand."""
    source, result = node.inputs[0], node.outputs[0]
    if source is None or source.shape is None or result.shape is None:
        return set()
    kept = _kept(node, len(source.shape))
    return {
        axis
        for axis, (before, after) in enumerate(zip(source.shape, result.shape, strict=True))
        if isinstance(after, ir.SymbolicDim) and after.value and after == before
        if axis not in kept
    }


def _kept(node: ir.Node, rank: int) -> set[int]:
    """The axes of which every element is in the result."""
    starts, ends, axes, steps = (_numbers(node, index) for index in range(1, 5))
    every = set(range(rank))
    if starts is None or ends is None:
        return every - {axis % rank for axis in axes} if axes else set()
    named = axes or range(len(starts))
    whole = zip(named, starts, ends, steps or [1] * len(starts), strict=False)
    cut = (axis % rank for axis, *how in whole if not _is_whole(*how))
    return every - set(cut)


def _is_whole(start: int, end: int, step: int) -> bool:
    return start == 0 and end >= TO_THE_END and step == 1


def _numbers(node: ir.Node, index: int) -> list[int] | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    tensor = value.const_value if value is not None else None
    return [int(x) for x in tensor.numpy()] if tensor is not None else None


def _forget_behind(value: ir.Value, symbols: Collection[object]) -> None:
    """Leave sizes of ``symbols`` open in all that is computed from ``value``, outputs apart."""
    waiting, seen = [value], {value}
    while waiting:
        for node, _ in waiting.pop().uses():
            for result in set(node.outputs) - seen:
                seen.add(result)
                waiting.append(result)
                if result.shape is not None and not result.is_graph_output():
                    dims = (None if dim in symbols else dim for dim in result.shape)
                    result.shape = ir.Shape(dims)
