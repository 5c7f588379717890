"""Layers with weights: Conv, ConvTranspose, Gemm, MatMul, Einsum; and BatchNormalization."""

from __future__ import annotations

import numpy as np

from prunedeploy.core.records import Array
from prunedeploy.reference.opsets import scales_channels
from prunedeploy.runtimes.sparse.importer import expr as e
from prunedeploy.runtimes.sparse.importer.expr import Expr
from prunedeploy.runtimes.sparse.importer.graph import ConvOp, Tensor, constant
from prunedeploy.runtimes.sparse.importer.importer import Call, Importer
from prunedeploy.runtimes.sparse.importer.operators import volumes
from prunedeploy.runtimes.sparse.importer.operators.geometry import Extents, Window, extents


def _bias(call: Call, index: int, rows: int) -> Array:
    array = call.constant(index, "bias")
    return np.zeros(rows, np.float32) if array is None else array.astype(np.float32)


def _weight(call: Call) -> Array:
    array = call.constant(1, "weight")
    if array is None or array.dtype != np.float32:
        raise call.refuse("its weight is not float32")
    return array


def _operands(call: Call) -> tuple[Tensor, Array]:
    """The input and the weight of a convolution over one to three axes."""
    x, weight = call.real(0), _weight(call)
    if x.rank not in (3, 4, 5):
        raise call.refuse(f"convolutions over {x.rank - 2} axes are not known")
    return x, weight


def conv(call: Call) -> Tensor:
    """Over one to three axes, grouped, dilated, padded in any way."""
    x, weight = _operands(call)
    groups = call.integer("group", 1)
    if x.shape[1] != weight.shape[1] * groups:
        raise call.refuse(f"its weight {list(weight.shape)} does not fit {x.shape[1]} channels")
    space = extents(call, list(weight.shape[2:]))
    if x.rank < 5:
        return _convolved(call, x, weight, space.window, groups)
    images = volumes.planes_of(call.build, x, space, groups)
    taps = weight.swapaxes(1, 2).reshape(len(weight), -1, *weight.shape[3:])
    y = _convolved(call, images, taps, space.window, groups)
    return volumes.volume_of(call.build, y, x.shape[0])


def _convolved(call: Call, x: Tensor, weight: Array, space: Window, groups: int) -> Tensor:
    """A convolution over one or two axes."""
    taps = weight if x.rank == 4 else weight[:, :, None]
    op = ConvOp(
        call.build.name,
        [x],
        Tensor((x.shape[0], weight.shape[0], *space.out)),
        np.ascontiguousarray(taps),
        _bias(call, 2, weight.shape[0]),
        True,
        strides=space.strides,
        pads=space.pads,
        dilations=space.dilations,
        groups=groups,
    )
    return call.build.add(op)


def conv_transpose(call: Call) -> Tensor:
    """Over one or two axes; of three the first may only multiply planes that do not overlap."""
    x, weight = _operands(call)
    groups, depth = call.integer("group", 1), x.shape[1]
    if weight.shape[0] != depth or depth % groups:
        raise call.refuse(f"its weight {list(weight.shape)} does not fit {depth} channels")
    space, rows = _transposed(call, list(weight.shape[2:])), weight.shape[1]
    bias = _bias(call, 2, groups * rows)
    if x.rank < 5:
        return transposed(call, x, weight, bias, space.window, groups)
    planes = weight.shape[2]
    if space.out[0] != x.shape[2] * planes or space.strides[0] != planes or space.dilations[0] != 1:
        raise call.refuse("planes of its result overlap")
    build, batch = call.build, x.shape[0]
    # rows for each plane of the result, which then become planes
    taps = weight.swapaxes(1, 2).reshape(depth, planes * rows, *weight.shape[3:])
    wide = np.repeat(bias.reshape(groups, 1, rows), planes, 1).reshape(-1)
    y = transposed(call, volumes.images_of(build, x), taps, wide, space.window, groups)
    y = build.reshape(y, (batch, x.shape[2], groups, planes, rows, *y.shape[2:]))
    y = build.transpose(y, (0, 2, 4, 1, 3, 5, 6))
    return build.reshape(y, (batch, groups * rows, *space.out))


def transposed(
    call: Call, x: Tensor, weight: Array, bias: Array, space: Window, groups: int
) -> Tensor:
    """One convolution for all phases of the result, whose channels then become pixels.

    Output pixel o = s q + r of an axis sums over the taps k = r + p - s j (dilated: d k) that meet
    input pixel q + j: for each phase r a kernel over few offsets j.
    """
    taps = weight if x.rank == 4 else weight[:, :, None]
    depth, rows = taps.shape[:2]
    phases, low, high = zip(*(_phases(space, axis, taps) for axis in (0, 1)), strict=True)
    (sh, sw), image = space.strides, (1, *x.shape[2:])[-2:]
    size = [-(-n // s) for n, s in zip(space.full, space.strides, strict=True)]
    kernel = [b - a + 1 for a, b in zip(low, high, strict=True)]
    # [group, phase, phase, row, depth of a group, kernel]
    wide = np.zeros((groups, sh, sw, rows, depth // groups, *kernel), np.float32)
    grouped = taps.reshape(groups, depth // groups, rows, *taps.shape[2:]).swapaxes(1, 2)
    for r, k, j in phases[0]:
        for c, m, i in phases[1]:
            wide[:, r, c, :, :, j - low[0], i - low[1]] = grouped[..., k, m]
    before = [-a for a in low]
    after = [n - h + b for n, h, b in zip(size, image, high, strict=True)]
    x, before, after = _cropped(call, x, before, after)
    merged = wide.reshape(-1, *wide.shape[4:])
    op = ConvOp(
        call.build.name,
        [x],
        Tensor((x.shape[0], merged.shape[0], *size[-(x.rank - 2) :])),
        merged,
        np.broadcast_to(bias.reshape(groups, 1, 1, rows), wide.shape[:4]).reshape(-1).copy(),
        True,
        pads=(before[0], before[1], after[0], after[1]),
        groups=groups,
    )
    return _unfold(call, call.build.add(op), space, groups, rows, size)


def _transposed(call: Call, kernel: list[int]) -> Extents:
    """The geometry of the result: ``front`` what is cut off it, ``out`` its size."""
    x, spatial = call.x, call.x.rank - 2
    strides = call.sequence("strides", [1] * spatial)
    dilations = call.sequence("dilations", [1] * spatial)
    pads = call.sequence("pads", [0] * 2 * spatial)
    extra = call.sequence("output_padding", [0] * spatial)
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    full = [
        s * (n - 1) + r + o for s, n, r, o in zip(strides, x.shape[2:], reach, extra, strict=True)
    ]
    auto, wanted = call.string("auto_pad", "NOTSET"), call.sequence("output_shape", [])
    if auto in ("SAME_UPPER", "SAME_LOWER") and not wanted:
        wanted = [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
    if wanted:
        wanted = wanted[-spatial:]
        total = [max(f - w, 0) for f, w in zip(full, wanted, strict=True)]
        smaller = [t // 2 for t in total]
        front = (
            smaller
            if auto == "SAME_UPPER"
            else [t - s for t, s in zip(total, smaller, strict=True)]
        )
        pads = front + [t - f for t, f in zip(total, front, strict=True)]
        if any(w > f for w, f in zip(wanted, full, strict=True)):
            raise call.refuse("its output_shape is larger than what it computes")
    elif auto == "VALID":
        pads = [0] * 2 * spatial
    out = [f - a - b for f, a, b in zip(full, pads[:spatial], pads[spatial:], strict=True)]
    return Extents(kernel, strides, pads[:spatial], pads[spatial:], dilations, out)


def _phases(space: Window, axis: int, taps: Array) -> tuple[list[tuple[int, int, int]], int, int]:
    """(phase, tap, offset) of each tap of an axis; the lowest and highest offset."""
    stride, pad, dilation = space.strides[axis], space.pads[axis], space.dilations[axis]
    phases = []
    for tap in range(taps.shape[2 + axis]):
        phase = (tap * dilation - pad) % stride
        phases.append((phase, tap, (phase + pad - tap * dilation) // stride))
    offsets = [offset for _, _, offset in phases]
    # from 0 at least, so that the offsets are pads
    return phases, min(0, *offsets), max(0, *offsets)


def _cropped(
    call: Call, x: Tensor, before: list[int], after: list[int]
) -> tuple[Tensor, list[int], list[int]]:
    """Negative padding cuts the image instead."""
    spatial = x.rank - 2
    cut = [max(0, -n) for n in after][-spatial:]
    for axis, n in enumerate(cut):
        x = call.build.part(x, 2 + axis, 0, x.shape[2 + axis] - n)
    return x, before, [max(0, n) for n in after]


def _unfold(
    call: Call, y: Tensor, space: Window, groups: int, rows: int, size: list[int]
) -> Tensor:
    """[N, (group, phase, phase, row), H, W] as the image that the phases make up."""
    (sh, sw), build = space.strides, call.build
    if sh * sw > 1:
        batch = y.shape[0]
        y = build.reshape(y, (batch, groups, sh, sw, rows, *size))
        y = build.transpose(y, (0, 1, 4, 5, 2, 6, 3))
        whole = (size[0] * sh, size[1] * sw)
        y = build.reshape(y, (batch, groups * rows, *whole[-len(space.out) :]))
    for axis, n in enumerate(space.out):
        y = build.part(y, 2 + axis, 0, n)
    return y


def gemm(call: Call) -> Tensor:
    """alpha * A' B' + beta * C, a linear layer where A or B is a constant."""
    build, a, b = call.build, call.real(0), call.real(1)
    a = build.transpose(a, (1, 0)) if call.integer("transA", 0) else a
    b = build.transpose(b, (1, 0)) if call.integer("transB", 0) else b
    alpha, beta = call.number("alpha", 1.0), call.number("beta", 1.0)
    if alpha != 1.0 and b.value is not None:
        b, alpha = constant(np.multiply(b.value, np.float32(alpha), dtype=np.float32)), 1.0
    y = e.tensor(build.matmul(a, b))
    if alpha != 1.0:
        y = Expr("mul", (y, e.number(alpha)))
    c = call.optional(2)
    if c is not None:
        if call.real(2).rank > 2:
            raise call.refuse(f"its C has {call.real(2).rank} axes, which its output lacks")
        added = build.operand(call.real(2))
        y = Expr("add", (y, added if beta == 1.0 else Expr("mul", (added, e.number(beta)))))
    return build.elementwise(y, (a.shape[0], b.shape[1]))


def matmul(call: Call) -> Tensor:
    """A linear layer, or a product of two computed tensors."""
    return call.build.matmul(call.real(0), call.real(1))


def einsum(call: Call) -> Tensor:
    """Two operands, no label twice in one of them: a matmul of them with axes moved."""
    build = call.build
    left, _, out = call.string("equation", "").replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != 2 or len(call.inputs) != 2 or not out or "." in left:
        raise call.refuse("only two operands and an explicit result are known")
    tensors = [call.real(0), call.real(1)]
    a, b = terms
    if any(len(set(term)) != len(term) for term in (a, b, out)):
        raise call.refuse("a label occurs twice in a term")
    shared = [c for c in a if c in b and c in out]
    summed = [c for c in a if c in b and c not in out]
    rows, columns = (
        [c for c in own if c not in other and c in out] for own, other in ((a, b), (b, a))
    )
    if set(a + b) != set(shared + summed + rows + columns):
        raise call.refuse("a label of one operand is summed alone")
    size = {
        c: n
        for term, x in zip(terms, tensors, strict=True)
        for c, n in zip(term, x.shape, strict=True)
    }

    def gather(term: str, x: Tensor, order: list[list[str]]) -> Tensor:
        x = build.transpose(x, [term.index(c) for part in order for c in part])
        merged = [int(np.prod([size[c] for c in part])) for part in order[1:]]
        return build.reshape(x, [size[c] for c in order[0]] + merged)

    product = build.matmul(
        gather(a, tensors[0], [shared, rows, summed]),
        gather(b, tensors[1], [shared, summed, columns]),
    )
    labels = [*shared, *rows, *columns]
    product = build.reshape(product, [size[c] for c in labels])
    return build.transpose(product, [labels.index(c) for c in out])


def batch_normalization(call: Call) -> Tensor:
    """x * a + b a channel; ``fuse`` folds it into the layer before."""
    x = call.real(0)
    if not call.integer("spatial", 1):
        raise call.refuse("its parameters are of every element")
    if not scales_channels(call.node):
        raise call.refuse("it normalises with statistics of the batch")
    parameters = [call.constant(i, "scale or statistics") for i in range(1, 5)]
    scale, bias, mean, variance = (np.asarray(p, np.float64) for p in parameters)
    factor = scale / np.sqrt(variance + call.number("epsilon", 1e-5))
    shape = (-1, *[1] * (x.rank - 2))
    a, b = (
        e.tensor(constant(v.reshape(shape).astype(np.float32)))
        for v in (factor, bias - mean * factor)
    )
    return call.build.elementwise(Expr("add", (Expr("mul", (e.tensor(x), a)), b)), x.shape)


TABLE: dict[str, Importer] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Gemm": gemm,
    "MatMul": matmul,
    "Einsum": einsum,
    "BatchNormalization": batch_normalization,
}
