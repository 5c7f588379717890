"""QuantizeLinear, DequantizeLinear and what is written with them, on bytes where that is possible.

``TABLE`` has the two as functions of float32 numbers that happen to be integers. ``BYTES`` goes
before it where the runtime computes with bytes: tensors of one scale are bytes, layers between
them take bytes, and everything else reads their numbers.
"""

from __future__ import annotations

import numpy as np

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.importer import expr as e
from prunedeploy.runtimes.sparse.importer.builder import Builder
from prunedeploy.runtimes.sparse.importer.expr import Expr
from prunedeploy.runtimes.sparse.importer.graph import (
    Op,
    ReshapeOp,
    Tensor,
    TransposeOp,
    constant,
)
from prunedeploy.runtimes.sparse.importer.importer import Call, Importer
from prunedeploy.runtimes.sparse.importer.operators import layers
from prunedeploy.runtimes.sparse.importer.operators.geometry import window
from prunedeploy.runtimes.sparse.importer.quantised import (
    HIGHER,
    Conv8Op,
    DequantiseOp,
    Floats,
    Quantisation,
    QuantisedConstant,
    QuantisedTensor,
    QuantiseOp,
    quantised,
)

LIMITS = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767), "uint16": (0, 65535)}


def quantise(call: Call) -> Tensor:
    """Round to steps of a scale, as float32 numbers that are integers."""
    x, scale, zero = call.real(0), _scale(call, 1), _zero(call, 2)
    low, high = LIMITS[zero.dtype.name]
    ratio = Expr("div", (e.tensor(x), _along(call, scale)))
    moved = zero.astype(np.float32)
    lowest, highest = (_along(call, np.float32(limit) - moved) for limit in (low, high))
    cut = Expr("min", (Expr("max", (Expr("round", (ratio,)), lowest)), highest))
    bound = float(max(-low, high))
    return call.build.elementwise(
        Expr("add", (cut, _along(call, moved))), x.shape, zero.dtype.name, bound
    )


def dequantise(call: Call) -> Tensor:
    """Integers less their zero point, times a scale."""
    x, scale = call.tensor(0), _scale(call, 1)
    zero = call.constant(2, "zero point")
    if call.integer("block_size", 0):
        raise call.refuse("scales of blocks are not known")
    if x.value is not None and x.value.dtype in (np.int8, np.uint8, np.int32):
        return known(call, x.value)
    if x.dtype not in LIMITS:
        raise call.refuse(f"its input is {x.dtype}")
    made = call.build.operand(x)
    if zero is not None and zero.any():
        made = Expr("sub", (made, _along(call, zero.astype(np.float32))))
    return call.build.elementwise(Expr("mul", (made, _along(call, scale))), x.shape)


def _scale(call: Call, index: int) -> Floats:
    scale = call.constant(index, "scale")
    if scale is None or scale.dtype != np.float32:
        raise call.refuse("its scale is not float32")
    if call.integer("block_size", 0):
        raise call.refuse("scales of blocks are not known")
    return scale.astype(np.float32)


def _zero(call: Call, index: int) -> Array:
    """The zero point of a QuantizeLinear, of the type that it rounds to."""
    zero = call.constant(index, "zero point")
    if zero is None:
        import onnx_ir as ir

        kind = ir.DataType(call.integer("output_dtype", 0) or ir.DataType.UINT8)
        zero = np.zeros((), kind.numpy())
    if zero.dtype.name not in LIMITS:
        raise call.refuse(f"it rounds to {zero.dtype.name}")
    return zero


def _along(call: Call, numbers: Array) -> Expr:
    """One number, or one for each index of the node's axis."""
    if numbers.size == 1:
        return e.number(float(numbers.reshape(())))
    axis = call.axis(1)
    if numbers.shape != call.x.shape[axis : axis + 1]:
        raise call.refuse(f"a scale of shape {list(numbers.shape)} for axis {axis}")
    shape = [1] * call.x.rank
    shape[axis] = numbers.size
    return e.tensor(constant(numbers.reshape(shape).astype(np.float32)))


# -- on bytes --------------------------------------------------------------------------------------


def quantise_to_bytes(call: Call) -> Tensor:
    """Bytes, where there is one scale for all."""
    scale, zero = _scale(call, 1), _zero(call, 2)
    one = scale.size == 1 and zero.size == 1 and zero.dtype in (np.int8, np.uint8)
    if not one or call.x.value is not None or call.x.dtype != "float32":
        return quantise(call)
    return bytes_of(call.build, call.x, quantisation(scale, zero))


def dequantise_bytes(call: Call) -> Tensor:
    """The numbers of bytes; of constants, both their integers and their numbers."""
    x = call.x
    if isinstance(x, QuantisedTensor):
        return numbers_of(call.build, x)
    if x.value is None or x.value.dtype not in (np.int8, np.uint8, np.int32):
        return dequantise(call)
    return known(call, x.value)


def known(call: Call, array: Array) -> Tensor:
    """The numbers of a constant, which keep their integers."""
    scale, zero = _scale(call, 1), call.constant(2, "zero point")
    axis = call.axis(1) if scale.size > 1 else 0
    shape = [1] * array.ndim
    if scale.size > 1:
        shape[axis] = scale.size
    integers = array.astype(np.int64)
    if zero is not None:
        integers = integers - zero.astype(np.int64).reshape(shape if zero.size > 1 else ())
    steps = scale.reshape(shape if scale.size > 1 else ())
    value = (integers.astype(np.float32) * steps).astype(np.float32)
    return QuantisedConstant(
        value.shape, "float32", value, integers=integers, scale=scale.reshape(-1), axis=axis
    )


def quantisation(scale: Array, zero: Array) -> Quantisation:
    """That of a scale and a zero point of one number each."""
    signed = zero.dtype == np.int8
    byte = int(zero.reshape(())) + (HIGHER if signed else 0)
    return Quantisation(float(scale.reshape(())), byte, bool(signed))


def bytes_of(build: Builder, x: Tensor, how: Quantisation) -> Tensor:
    """``x`` quantised."""
    return build.add(QuantiseOp(build.name, [x], quantised(x.shape, how)))


def numbers_of(build: Builder, x: Tensor) -> Tensor:
    """What bytes stand for, once for all readers."""
    for op in build.graph.ops:
        if isinstance(op, DequantiseOp) and op.inputs[0] is x:
            return op.output
    return build.add(DequantiseOp(build.name, [x], Tensor(x.shape)))


def source_of(build: Builder, x: Tensor) -> QuantisedTensor | None:
    """The bytes that ``x`` has the numbers of, seen through changes of shape."""
    maker = _producer(build, x)
    if isinstance(maker, DequantiseOp):
        source = maker.inputs[0]
        return source if isinstance(source, QuantisedTensor) else None
    if not isinstance(maker, ReshapeOp | TransposeOp):
        return None
    before = source_of(build, maker.inputs[0])
    if before is None:
        return None
    if isinstance(maker, TransposeOp):
        made = build.transpose(before, maker.perm)
    else:
        made = build.reshape(before, x.shape)
    assert isinstance(made, QuantisedTensor)
    return made


def _producer(build: Builder, x: Tensor) -> Op | None:
    return next((op for op in reversed(build.graph.ops) if op.output is x), None)


def conv(call: Call) -> Tensor:
    """A convolution over one or two axes of bytes, with constant integers as weights."""
    weight, x = call.tensor(1), None
    if isinstance(weight, QuantisedConstant) and call.x.rank in (3, 4) and _by_row(weight, 0):
        x = source_of(call.build, call.x)
    groups = call.integer("group", 1)
    if x is None or not isinstance(weight, QuantisedConstant):
        return layers.conv(call)
    if x.shape[1] != weight.shape[1] * groups:
        raise call.refuse(f"its weight {list(weight.shape)} does not fit {x.shape[1]} channels")
    space = window(call, list(weight.shape[2:]))
    taps = weight.integers if x.rank == 4 else weight.integers[:, :, None]
    scale, bias, shift = _rows(call, x, weight)
    op = Conv8Op(
        call.build.name,
        [x],
        Tensor((x.shape[0], weight.shape[0], *space.out)),
        np.ascontiguousarray(taps.astype(np.int16)),
        bias,
        scale,
        shift,
        True,
        strides=space.strides,
        pads=space.pads,
        dilations=space.dilations,
        groups=groups,
    )
    return call.build.add(op)


def gemm(call: Call) -> Tensor:
    """A linear layer on bytes; C has one number a column."""
    weight, turned = call.tensor(1), call.integer("transB", 0)
    plain = not call.integer("transA", 0) and call.number("alpha", 1.0) == 1.0
    plain = plain and call.number("beta", 1.0) == 1.0 and call.x.rank == 2
    if not plain or not isinstance(weight, QuantisedConstant):
        return layers.gemm(call)
    columns = weight.shape[0 if turned else 1]
    added = call.optional(2)
    fits = added is None or (added.value is not None and added.size in (1, columns))
    if not fits or not _by_row(weight, 0 if turned else 1):
        return layers.gemm(call)
    x = source_of(call.build, call.x)
    if x is None:
        return layers.gemm(call)
    return _linear(call, x, weight, weight.integers if turned else weight.integers.T)


def matmul(call: Call) -> Tensor:
    """A linear layer on bytes, over the last axis."""
    weight = call.tensor(1)
    known = isinstance(weight, QuantisedConstant) and weight.rank == 2 and call.x.rank > 1
    if not known or not isinstance(weight, QuantisedConstant) or not _by_row(weight, 1):
        return layers.matmul(call)
    x = source_of(call.build, call.x)
    return layers.matmul(call) if x is None else _linear(call, x, weight, weight.integers.T)


def _by_row(weight: QuantisedConstant, axis: int) -> bool:
    """Whether every row of the result has one scale."""
    fits = bool((np.abs(weight.integers) <= 255).all())
    return fits and (weight.scale.size == 1 or weight.axis == axis)


def _linear(call: Call, x: QuantisedTensor, weight: QuantisedConstant, matrix: Array) -> Tensor:
    if matrix.shape[1] != x.shape[-1]:
        raise ValueError(f"{matrix.shape[1]} columns for {x.shape[-1]} features")
    scale, bias, shift = _rows(call, x, weight, len(matrix))
    taps = np.ascontiguousarray(matrix.astype(np.int16))[:, :, None, None]
    y = Tensor((*x.shape[:-1], len(matrix)))
    last = x.rank - 1
    return call.build.add(
        Conv8Op(call.build.name, [x], y, taps, bias, scale, shift, False, channel=last)
    )


def _rows(
    call: Call, x: QuantisedTensor, weight: QuantisedConstant, rows: int = 0
) -> tuple[Floats, Array, Floats]:
    """Scale, integer bias and float32 bias of every row."""
    count = rows or weight.shape[0]
    product = np.float32(x.quantisation.scale) * weight.scale
    scale: Floats = np.broadcast_to(product, (count,)).astype(np.float32)
    bias, shift = np.zeros(count, np.int32), np.zeros(count, np.float32)
    given = call.optional(2)
    if given is None:
        return scale, bias, shift
    if isinstance(given, QuantisedConstant) and np.array_equal(
        np.broadcast_to(given.scale, (count,)), scale
    ):
        bias = np.broadcast_to(given.integers.reshape(-1), (count,)).astype(np.int32)
        return scale, bias, shift
    array = call.constant(2, "bias")
    assert array is not None
    return scale, bias, np.broadcast_to(array.reshape(-1), (count,)).astype(np.float32)


TABLE: dict[str, Importer] = {"QuantizeLinear": quantise, "DequantizeLinear": dequantise}
BYTES: dict[str, Importer] = {
    "QuantizeLinear": quantise_to_bytes,
    "DequantizeLinear": dequantise_bytes,
    "Conv": conv,
    "Gemm": gemm,
    "MatMul": matmul,
}
