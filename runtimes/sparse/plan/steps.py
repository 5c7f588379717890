"""The plan: the steps that an engine computes, on memory laid out in advance (``views``)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.plan import quantised
from prunedeploy.runtimes.sparse.plan.views import Buffer, Dtype, View

# -- functions of one element ----------------------------------------------------------------------

# The functions of one operand; those of two and three are in ``importer/operations.py``. Names are
# those of ONNX in lower case where ONNX has the operator. ``leakyrelu``, ``elu``, ``clip`` and
# ``hardsigmoid`` take their numbers from ``Instr.numbers``.
UNARY = (
    "identity", "neg", "abs", "relu", "clip", "leakyrelu", "elu", "exp", "log", "sqrt",
    "reciprocal", "sigmoid", "hardsigmoid", "hardswish", "silu", "tanh", "erf", "gelu",
    "gelu_tanh", "softplus", "mish", "floor", "ceil", "round", "sign", "sin", "cos", "not",
)  # fmt: skip


@dataclass(frozen=True)
class Instr:
    """One step of a ``Map``: apply ``op`` to the values at ``operands``.

    Values are numbered: first the inputs of the Map, then its constants, then the results of
    its instructions in order. Truth values are 1.0 and 0.0.
    """

    op: str
    operands: tuple[int, ...]
    numbers: tuple[float, ...] = ()


# -- steps -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Activation:
    """The function that is applied when a result is stored: of ``UNARY``, with its numbers."""

    op: str = "identity"
    numbers: tuple[float, ...] = ()

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Its lower and upper bound, infinite where it has none; None where it is no clamp."""
        match self.op:
            case "identity":
                return -math.inf, math.inf
            case "relu":
                return 0.0, math.inf
            case "clip":
                low, high = self.numbers
                return low, high
            case _:
                return None


@dataclass(frozen=True)
class Conv:
    """A convolution or linear layer with constant weights: the sum of shifted planes.

    ``y = activation(conv(x) + bias + residual)``; ``residual`` may be the memory of ``y``. All
    three are planar views of shape [N, C, H, W], channels at axis 1, whatever they are in the
    graph: tokens of a linear layer are W of one image (N = H = 1), a convolution over sequences
    has H = 1.

    Args:
        weight: float32 [M, C / groups, kernel height, kernel width].
        bias: float32 [M]; zeros where the layer has none.
        pads: top, left, bottom, right.
    """

    name: str
    x: View
    y: View
    weight: Array
    bias: Array
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1
    residual: View | None = None
    activation: Activation = Activation()


@dataclass(frozen=True)
class Map:
    """A function of single elements: ``y[i] = last instruction of code``, inputs broadcast.

    All inputs have the shape of ``y``; broadcast axes have stride 0. Strides are arbitrary.
    ``constants`` are single numbers.
    """

    name: str
    inputs: tuple[View, ...]
    y: View
    code: tuple[Instr, ...]
    constants: tuple[float, ...] = ()


@dataclass(frozen=True)
class Copy:
    """Copy ``x`` to ``y``, same shape, any strides; converts from and to the caller's types.

    With ``fill`` set, ``y`` is a part of ``outer``, whose other elements become ``fill`` (Pad).
    """

    name: str
    x: View
    y: View
    fill: float | None = None
    outer: View | None = None


@dataclass(frozen=True)
class Pool:
    """Max or average over windows; ``x`` and ``y`` planar [N, C, H, W].

    ``pads`` are top, left, bottom, right. Windows may reach beyond the bottom and right border
    (ceil_mode): elements beyond it do not count.
    """

    name: str
    x: View
    y: View
    kind: Literal["max", "average"]
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    count_include_pad: bool = False


@dataclass(frozen=True)
class Reduce:
    """Reduce ``axes`` of ``x``; ``y`` has the same rank, those axes of length 1."""

    name: str
    x: View
    y: View
    kind: Literal["sum", "mean", "max", "min", "prod", "l1", "l2", "sumsquare", "logsumexp"]
    axes: tuple[int, ...]


@dataclass(frozen=True)
class Softmax:
    """Softmax of ``x`` along ``axis``; ``log`` gives its logarithm."""

    name: str
    x: View
    y: View
    axis: int
    log: bool = False


@dataclass(frozen=True)
class Norm:
    """Normalise over ``axes``: ``y = (x - mean) / sqrt(variance + epsilon) * scale + bias``.

    LayerNormalization has the last axes, InstanceNormalization the spatial ones, RMSNormalization
    ``centre`` False (mean taken as 0). ``scale`` and ``bias`` have the shape of ``x``, with 1 on
    every axis that they do not vary along.
    """

    name: str
    x: View
    y: View
    axes: tuple[int, ...]
    epsilon: float
    scale: Array | None = None
    bias: Array | None = None
    centre: bool = True


@dataclass(frozen=True)
class MatMul:
    """A product of computed tensors: ``y[..., m, n] = alpha * sum_k a[..., m, k] * b[..., k, n]``.

    All three views have the same rank >= 2 and equal leading axes (broadcast ones have stride 0).
    Strides are arbitrary: products read through views of transposed heads. ``bias`` is added, of
    the shape of ``y`` with strides of 0 where it is broadcast (an attention mask).
    """

    name: str
    a: View
    b: View
    y: View
    alpha: float = 1.0
    bias: View | None = None


@dataclass(frozen=True)
class Lookup:
    """Rows of a constant table: ``y[..., :] = table[indices[...], :]`` (embeddings).

    ``y`` has the shape of ``indices`` and the table's row axes behind it. Negative indices count
    from the end; what lies outside makes the run fail with an error.
    """

    name: str
    indices: View
    y: View
    table: Array


@dataclass(frozen=True)
class Take:
    """Elements by computed indices: ``y[i] = x[i, with index[i] on one axis]``.

    ``x`` and ``index`` are broadcast to the shape of ``y``, ``x`` with stride 0 along the axis that
    the indices stand for. What they count is ``size`` long, ``stride`` elements apart. Negative
    ones count from the end; what lies outside makes the run fail with an error.
    """

    name: str
    x: View
    index: View
    y: View
    size: int
    stride: int


@dataclass(frozen=True)
class Top:
    """The largest or smallest elements along an axis, in order: ``y[0]`` values, ``y[1]`` indices.

    ``y`` has one axis more than ``x`` in front. Of equal elements the first counts, with ``later``
    the last. NaN is larger than all numbers.
    """

    name: str
    x: View
    y: View
    axis: int
    largest: bool = True
    later: bool = False


@dataclass(frozen=True)
class Resize:
    """Nearest or linear interpolation of planar [N, C, H, W].

    For each output row (column) ``rows`` (``columns``) holds two source indices and the weight of
    the second: nearest has weight 0.
    """

    name: str
    x: View
    y: View
    rows: tuple[tuple[int, int, float], ...]
    columns: tuple[tuple[int, int, float], ...]


@dataclass(frozen=True)
class Recurrence:
    """A recurrent layer of T steps, D directions, H units and G gates on N samples.

    The inputs' part of the gates is computed before, for all steps at once, as a linear layer; what
    is left is the hidden state's part, a step after the other, and the functions of the gates. All
    views are in C order.

    Args:
        x: [T, D * G * H, N]: the inputs' part of the gates, with all biases but ``bias``.
        y: [T, D, H, N], the hidden states; an LSTM's has one more step, the last cell state.
        kind: with gates in ONNX's order: input, output, forget, cell; update, reset, hidden.
        weight: float32 [D, G * H, H], of the hidden state.
        backward: for each direction whether it goes from the last step to the first.
        functions: of the gates, of the candidate and, in an LSTM, of the cell state; "rnn" has one.
        hidden: [D, H, N], the first hidden state; zeros where it is left out.
        cell: the same of an LSTM's cell state.
        bias: float32 [D, H] of a GRU that resets after the multiplication: what it adds before.
    """

    name: str
    x: View
    y: View
    kind: Literal["lstm", "gru", "rnn"]
    weight: Array
    backward: tuple[bool, ...]
    functions: tuple[Activation, ...]
    hidden: View | None = None
    cell: View | None = None
    bias: Array | None = None


@dataclass(frozen=True)
class Fill:
    """Write a constant array to ``y`` (a constant that a step needs in memory)."""

    name: str
    y: View
    value: Array


Step = (
    Conv
    | Map
    | Copy
    | Pool
    | Reduce
    | Softmax
    | Norm
    | MatMul
    | Lookup
    | Take
    | Top
    | Resize
    | Recurrence
    | Fill
    | quantised.Quantised
)  # emitters: one module of emit/ each


@dataclass(frozen=True)
class Port:
    """An input or output of the plan: its name, the caller's buffer and its shape."""

    name: str
    buffer: int
    shape: tuple[int, ...]
    dtype: Dtype = "float32"


@dataclass(frozen=True)
class Plan:
    """Steps in the order in which they run, for one batch size.

    ``offsets`` has the offset of every arena buffer, in elements of float32, once ``memory.py`` has
    assigned them; ``arena`` is the number of elements that all of them need.

    With ``repeats`` above 1 it is a per-sample plan: its steps are those of one sample of a batch
    of so many, and every thread computes whole samples, each in an arena of its own (``batch`` is
    still what the caller hands over). ``suffix`` then has the steps for the whole batch that
    follow.
    """

    batch: int
    buffers: tuple[Buffer, ...]
    steps: tuple[Step, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    offsets: tuple[int, ...] = ()
    arena: int = 0
    notes: tuple[str, ...] = field(default=())
    repeats: int = 1
    suffix: BatchedSuffix | None = None


@dataclass(frozen=True)
class BatchedSuffix:
    """The last steps of a per-sample plan: ``plan``, once for the whole batch.

    Before it runs, ``count`` runs of ``pixels`` elements are copied from the arena of each sample:
    the k-th from ``source + k * source_step``, for sample n to
    ``target + n * sample_step + k * target_step`` of the suffix's arena. All numbers are elements.
    """

    plan: Plan
    count: int
    pixels: int
    source: int
    source_step: int
    target: int
    target_step: int
    sample_step: int


def reads(step: Step) -> tuple[View, ...]:
    """The views a step reads."""
    match step:
        case Conv():
            return (step.x,) if step.residual is None else (step.x, step.residual)
        case Map():
            return step.inputs
        case MatMul():
            return (step.a, step.b) if step.bias is None else (step.a, step.b, step.bias)
        case Lookup():
            return (step.indices,)
        case Take():
            return (step.x, step.index)
        case Recurrence():
            return (step.x, *(v for v in (step.hidden, step.cell) if v is not None))
        case quantised.Conv8():
            return (step.x,) if step.residual is None else (step.x, step.residual)
        case quantised.Add8():
            return (step.a, step.b)
        case Fill():
            return ()
        case _:
            return (step.x,)


def writes(step: Step) -> tuple[View, ...]:
    """The views a step writes."""
    if isinstance(step, Copy) and step.outer is not None:
        return (step.y, step.outer)
    return (step.y,)
