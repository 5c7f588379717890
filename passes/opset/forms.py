"""Operators whose older version has another form: attributes instead of inputs."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from prunedeploy.passes.opset import emit as writing
from prunedeploy.passes.opset.emit import Emit, drop_inputs, given, numbers, source, text, width

# Reductions that change nothing when they go over no axis; the others still square, or take logs.
PLAIN = ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd")


def reduction(node: ir.Node, emit: Emit) -> str | None:
    """Axes from an input to an attribute; over no axis at all it is the identity."""
    value = given(node, 1)
    axes = numbers(value)
    if value is not None and axes is None:
        return "its axes are computed"
    nothing = node.attributes.get_int("noop_with_empty_axes", 0)
    if not axes and nothing:
        if node.op_type not in PLAIN:
            return "it reduces no axis"
        emit.replace(emit("Identity", source(node)))
        return None
    node.attributes.pop("noop_with_empty_axes", None)
    drop_inputs(node, 1)
    if axes:
        writing.set_ints(node, "axes", axes)
    return None


def _as_attribute(node: ir.Node, name: str, computed: str) -> str | None:
    """The list of the second input as an attribute; ``computed`` where it is not known."""
    value = given(node, 1)
    known = numbers(value)
    if value is not None and known is None:
        return computed
    drop_inputs(node, 1)
    if known is not None:
        writing.set_ints(node, name, known)
    return None


def remainder(node: ir.Node, emit: Emit) -> str | None:  # noqa: ARG001 - the form stays
    """The remainder of floats with the sign of the divisor is new."""
    kind = source(node).dtype
    if node.attributes.get_int("fmod", 0) or (kind is not None and kind.is_integer()):
        return None
    return "the remainder of floats with the sign of the divisor is new in opset 28"


def bit_shift(node: ir.Node, emit: Emit) -> str | None:  # noqa: ARG001 - the form stays
    """Before, a shift by all bits of a number or more was not defined."""
    kind, distances = source(node).dtype, numbers(given(node, 1))
    if kind is None or distances is None:
        return "how far it shifts is computed"
    if any(not 0 <= distance < kind.bitwidth for distance in distances):
        return "a shift by all bits is new in opset 28"
    return None


def axes_attribute(node: ir.Node, emit: Emit) -> str | None:  # noqa: ARG001 - one form for all
    """Squeeze and Unsqueeze."""
    return _as_attribute(node, "axes", "its axes are computed")


def split_in_parts(node: ir.Node, emit: Emit) -> str | None:
    """``num_outputs``: equal parts, the last one smaller where they do not fit."""
    count = node.attributes.get_int("num_outputs", 0)
    if not count:
        return None
    axis = node.attributes.get_int("axis", 0) or 0
    shape = source(node).shape
    size = shape[axis] if shape is not None else None
    if not isinstance(size, int):
        return "the length that it splits is not known"
    part = math.ceil(size / count)
    sizes = [part] * (size // part) + ([size % part] if size % part else [])
    sizes += [0] * (count - len(sizes))
    del node.attributes["num_outputs"]
    node.resize_inputs(2)
    node.replace_input_with(1, emit.ints(*sizes))
    return None


def split_attribute(node: ir.Node, emit: Emit) -> str | None:  # noqa: ARG001 - one form for all
    """The parts' sizes from an input to an attribute."""
    return _as_attribute(node, "split", "the sizes of its parts are computed")


def pad_some_axes(node: ir.Node, emit: Emit) -> str | None:
    """Pads of some axes become pads of all, none of the others."""
    value = given(node, 3)
    if value is None:
        return None
    axes, count, pads = numbers(value), width(source(node)), node.inputs[1]
    if axes is None or count is None or pads is None:
        return "its axes are computed" if axes is None else "the number of axes is not known"
    padded = [axis % count for axis in axes]
    padded += [count + position for position in padded]
    known = numbers(pads)
    if known is not None:
        full = np.zeros(2 * count, np.int64)
        full[padded] = known
        node.replace_input_with(1, emit.constant(full))
    else:
        zeros = emit.ints(*[0] * (2 * count))
        node.replace_input_with(1, emit("ScatterElements", zeros, emit.ints(*padded), pads, axis=0))
    drop_inputs(node, 3)
    return None


def pad_mode(node: ir.Node, emit: Emit) -> str | None:  # noqa: ARG001 - one form for all
    """Pads that come in again from the other side are new."""
    return "mode=wrap is new in opset 19" if text(node, "mode", "constant") == "wrap" else None


def resize_some_axes(node: ir.Node, emit: Emit) -> str | None:
    """Scales of some axes become scales of all, 1 for the others; sizes likewise."""
    if "axes" not in node.attributes:
        return None
    shape, axes = source(node).shape, node.attributes.get_ints("axes", ())
    if shape is None:
        return "the number of axes is not known"
    positions = [axis % len(shape) for axis in axes or ()]
    if (roi := given(node, 1)) is not None and roi.shape is not None and roi.shape != [0]:
        return "it resizes a region of some axes"
    for index, rest in ((2, [1.0] * len(shape)), (3, [*shape])):
        known = writing.constant(given(node, index))
        if given(node, index) is None or (known is not None and not known.size):
            continue
        others = [x for i, x in enumerate(rest) if i not in positions]
        if known is None or not all(isinstance(x, int | float) for x in others):
            return "the size of its result is computed"
        full = np.array([0 if i in positions else x for i, x in enumerate(rest)], known.dtype)
        full[positions] = known
        node.replace_input_with(index, emit.constant(full))
    del node.attributes["axes"]
    return None


def resize_mode(node: ir.Node, emit: Emit) -> str | None:  # noqa: ARG001 - one form for all
    """Refuse a coordinate mode that is new."""
    mode = text(node, "coordinate_transformation_mode", "half_pixel")
    fresh = mode == "half_pixel_symmetric"
    return f"coordinate_transformation_mode={mode} is new in opset 19" if fresh else None


def resize_all_inputs(node: ir.Node, emit: Emit) -> str | None:
    """Region and scales have to be there, if only empty."""
    node.resize_inputs(max(3, len(node.inputs)))
    for index in (1, 2):
        if node.inputs[index] is None:
            node.replace_input_with(index, emit.constant(np.zeros(0, np.float32)))
    return None


def reshape(node: ir.Node, emit: Emit) -> str | None:  # noqa: ARG001 - one form for all
    """A zero in the shape copies the size of before, which ``allowzero`` turns off."""
    if node.attributes.get_int("allowzero", 0):
        shape = numbers(given(node, 1))
        if shape is None or 0 in shape:
            return "allowzero=1, and its shape is computed or holds a zero"
    node.attributes.pop("allowzero", None)
    return None


def shape(node: ir.Node, emit: Emit) -> str | None:
    """Part of a shape is a Slice of the whole."""
    if not {"start", "end"} & set(node.attributes):
        return None
    start = node.attributes.get_int("start", 0) or 0
    end = node.attributes.get_int("end", np.iinfo(np.int64).max)
    whole = emit("Shape", source(node))
    bounds = (emit.ints(start), emit.ints(end or 0), emit.ints(0))
    emit.replace(emit("Slice", whole, *bounds))
    return None


def over_last_axis(node: ir.Node, emit: Emit) -> str | None:
    """Softmax and its kind took all axes from one on together: they go over the last one here."""
    count = width(source(node))
    if count is None:
        return "the number of axes is not known"
    axis = (node.attributes.get_int("axis", -1) or 0) % max(count, 1)
    if axis == count - 1:
        node.attributes["axis"] = ir.AttrInt64("axis", axis)
        return None
    order = list(range(count))
    order[axis], order[-1] = order[-1], order[axis]
    moved = emit("Transpose", source(node), perm=order)
    emit.replace(emit("Transpose", emit(node.op_type, moved, axis=count - 1), perm=order))
    return None


def constant_value(node: ir.Node, emit: Emit) -> str | None:
    """A number or a list of numbers as a tensor."""
    for name, attribute in node.attributes.items():
        if name in ("value", "sparse_value"):
            return None
        kind = np.float32 if "float" in name else np.int64
        if "string" in name:
            return "it holds text"
        array = np.array(attribute.value, kind)
        emit.replace(emit("Constant", value=ir.tensor(array)))
        return None
    return "it holds nothing"


def dropout(node: ir.Node, emit: Emit) -> str | None:
    """At inference it passes its input on."""
    training = writing.constant(given(node, 2))
    if given(node, 2) is not None and (training is None or training.any()):
        return "it drops at random"
    if any(each.uses() or each.is_graph_output() for each in node.outputs[1:]):
        return "its mask is read"
    emit.replace(emit("Identity", source(node)))
    return None


def power(node: ir.Node, emit: Emit) -> str | None:
    """The exponent in the type of the base."""
    exponent = node.inputs[1]
    base = source(node).dtype
    if exponent is None or base is None or exponent.dtype is None:
        return "its types are not known"
    if exponent.dtype != base:
        if base.is_integer() and exponent.dtype.is_floating_point():
            return "whole numbers to a broken power"
        node.replace_input_with(1, emit("Cast", exponent, to=int(base)))
    return None


def cast(node: ir.Node, emit: Emit) -> str | None:  # noqa: ARG001 - one form for all
    """``saturate`` speaks of float8 alone, which the older version does not have."""
    node.attributes.pop("saturate", None)
    return None


def cast_like(node: ir.Node, emit: Emit) -> str | None:
    """The other value's type is known, or it is no Cast."""
    like = node.inputs[1]
    if like is None or like.dtype is None:
        return "the type that it casts to is not known"
    emit.replace(emit("Cast", source(node), to=int(like.dtype)))
    return None


def quantize_type(node: ir.Node, emit: Emit) -> str | None:
    """The type of the result is that of the zero point, so that one has to be there."""
    if node.attributes.get_int("block_size", 0):
        return "it quantises by blocks"
    wanted = node.attributes.get_int("output_dtype", 0)
    node.attributes.pop("output_dtype", None)
    scale = node.inputs[1]
    if not wanted or given(node, 2) is not None or scale is None:
        return None
    if scale.shape is None or not all(isinstance(size, int) for size in scale.shape):
        return "the number of its scales is not known"
    sizes = [size for size in scale.shape if isinstance(size, int)]
    node.resize_inputs(3)
    zero = np.zeros(sizes, ir.DataType(wanted).numpy())
    node.replace_input_with(2, emit.constant(zero, "zero_point"))
    return None


def dequantize_type(node: ir.Node, emit: Emit) -> str | None:  # noqa: ARG001 - one form for all
    """The type of the result is that of the scale."""
    wanted, scale = node.attributes.get_int("output_dtype", 0), node.inputs[1]
    if wanted and (scale is None or scale.dtype != wanted):
        return "its result has another type than its scale"
    node.attributes.pop("output_dtype", None)
    return None


def per_tensor(node: ir.Node, emit: Emit) -> str | None:  # noqa: ARG001 - one form for all
    """One scale a channel is new."""
    scale = node.inputs[1]
    if scale is None or scale.shape is None or len(scale.shape):
        return "a scale for each channel is new in opset 13"
    node.attributes.pop("axis", None)
    return None


def grid_sample(node: ir.Node, emit: Emit) -> str | None:  # noqa: ARG001 - one form for all
    """Images only, and other names for the same."""
    if width(source(node)) != 4:
        return "it samples something else than images"
    mode = text(node, "mode", "linear")
    node.attributes["mode"] = ir.AttrString(
        "mode", {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    )
    return None


def roi_align(node: ir.Node, emit: Emit) -> str | None:  # noqa: ARG001 - one form for all
    """Coordinates were counted in one way only."""
    mode = text(node, "coordinate_transformation_mode", "half_pixel")
    if mode != "output_half_pixel" or text(node, "mode", "avg") == "max":
        return f"coordinate_transformation_mode={mode} is new in opset 16"
    del node.attributes["coordinate_transformation_mode"]
    return None


def scatter(node: ir.Node, emit: Emit) -> str | None:  # noqa: ARG001 - one form for all
    """Scattering the largest or smallest is new."""
    reduction = text(node, "reduction", "none")
    return f"reduction={reduction} is new in opset 18" if reduction in ("max", "min") else None


def fourier(node: ir.Node, emit: Emit) -> str | None:  # noqa: ARG001 - one form for all
    """The axis from an input to an attribute, with another default."""
    axes = numbers(given(node, 2))
    if given(node, 2) is not None and axes is None:
        return "its axis is computed"
    drop_inputs(node, 2)
    node.attributes["axis"] = ir.AttrInt64("axis", axes[0] if axes else -2)
    return None


def pool(node: ir.Node, emit: Emit) -> str | None:  # noqa: ARG001 - one form for all
    """With ``ceil_mode`` a window that begins in the padding is left out only from opset 22 on."""
    if not node.attributes.get_int("ceil_mode", 0):
        return None
    sizes = list(source(node).shape or ())[2:]
    kernel = list(node.attributes.get_ints("kernel_shape", ()) or ())
    if text(node, "auto_pad", "NOTSET") != "NOTSET" or len(sizes) != len(kernel):
        return "ceil_mode with padding or sizes that are not known"
    pads = list(node.attributes.get_ints("pads", ()) or [0] * 2 * len(kernel))
    strides = list(node.attributes.get_ints("strides", ()) or [1] * len(kernel))
    dilations = list(node.attributes.get_ints("dilations", ()) or [1] * len(kernel))
    for axis, size in enumerate(sizes):
        if not isinstance(size, int):
            return "ceil_mode with sizes that are not known"
        reach = dilations[axis] * (kernel[axis] - 1) + 1
        room = size + pads[axis] + pads[axis + len(kernel)] - reach
        if math.ceil(room / strides[axis]) * strides[axis] >= size + pads[axis]:
            return "ceil_mode makes a window that begins in the padding"
        if room % strides[axis] and node.attributes.get_int("count_include_pad", 0):
            return "ceil_mode with count_include_pad"
    return None
