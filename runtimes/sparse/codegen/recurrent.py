"""Recurrent layers: step after step the hidden state's part of the gates, then their functions.

One direction of some samples is a piece of work, which one thread computes from the first step to
the last: steps follow one another too fast for threads to wait for each other in between. The
hidden state is read where the step before has written it, in the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prunedeploy.runtimes.sparse.codegen._context import Code, Context
from prunedeploy.runtimes.sparse.codegen.functions import call
from prunedeploy.runtimes.sparse.codegen.narrow import ROWS, Form, sparse_up_to
from prunedeploy.runtimes.sparse.codegen.stored import index_type, indices_of, kind_of, stored
from prunedeploy.runtimes.sparse.plan.steps import Instr, Recurrence
from prunedeploy.runtimes.sparse.plan.views import UNIT, View

FEWEST = 4  # samples that are a piece of work of their own


@dataclass(frozen=True)
class _Layer:
    """A step and its sizes."""

    step: Recurrence
    context: Context

    @property
    def batch(self) -> int:
        return self.step.x.shape[2]

    @property
    def directions(self) -> int:
        return int(self.step.weight.shape[0])

    @property
    def units(self) -> int:
        return int(self.step.weight.shape[2])

    @property
    def rows(self) -> int:
        """Of one direction: gates times units."""
        return int(self.step.weight.shape[1])

    @property
    def samples(self) -> int:
        """How many a piece of work has."""
        pieces = min(self.context.threads // self.directions, self.batch // FEWEST)
        return -(-self.batch // max(pieces, 1))

    @property
    def sparse(self) -> bool:
        """Whether zeros are left out; those of several samples always are."""
        weight = self.step.weight
        few = np.count_nonzero(weight) <= sparse_up_to(1) * weight.size
        return bool(self.batch > 1 or few)

    def function(self, index: int, operand: str) -> str:
        """C: a function of the layer applied to a vector."""
        chosen = self.step.functions[index]
        return call(Instr(chosen.op, (0,), chosen.numbers), [operand])

    def state(self, view: View) -> str:
        """C: the first element of the states at hand in a tensor [D, H, N]."""
        return f"{self.context.pointer(view)} + (ptrdiff_t)d * {self.units * self.batch} + first"


def emit(step: Recurrence, context: Context) -> Code:
    """Loops over pieces of work and steps, with the products and functions of the kind inside."""
    layer = _Layer(step, context)
    length, batch, units = step.x.shape[0], layer.batch, layer.units
    pieces = -(-batch // layer.samples)
    room = -(-units * layer.samples // UNIT) * UNIT
    declared, product, top = (_matrix if batch > 1 else _vector)(layer)
    start, each = {"lstm": _lstm, "gru": _gru, "rnn": _rnn}[step.kind](layer, product)
    given = "" if step.hidden is None else f"hidden = {layer.state(step.hidden)}, stride = {batch};"
    body = f"""\
{declared}
static const int backward[] = {{{", ".join(str(int(turned)) for turned in step.backward)}}};
int begin, end;
pd_share(w, {layer.directions * pieces}, &begin, &end);
for (int item = begin; item < end; item++) {{
    const int d = item / {pieces}, first = item % {pieces} * {layer.samples};
    const int n = {batch} - first < {layer.samples} ? {batch} - first : {layer.samples};
    const int lines = n == {batch} ? 1 : {units}, width = n == {batch} ? {units * batch} : n;
    float *room = w->scratch, *sums = room + {room};
    const float *hidden = room;
    int stride = n;
    (void)stride;
    memset(room, 0, sizeof(float) * {room});
    {given}
    {start}
    for (int s = 0; s < {length}; s++) {{
        const int t = backward[d] ? {length - 1} - s : s;
        const ptrdiff_t part = (ptrdiff_t)t * {layer.directions} + d;
        const float *in = {context.pointer(step.x)} + part * {layer.rows * batch} + first;
        float *out = {context.pointer(step.y)} + part * {units * batch} + first;
        {each}
        hidden = out;
        stride = {batch};
    }}
}}"""
    scratch = room + -(-layer.rows * layer.samples // UNIT) * UNIT + UNIT
    choice = f"{step.kind} {'rows' if layer.sparse else 'dense'}"
    return Code(body, (top,) if top else (), ("recurrent.h",), scratch, choice)


# -- products --------------------------------------------------------------------------------------

_Product = str  # C with the places {first}, {rows}, {state} and {stride}


def _matrix(layer: _Layer) -> tuple[str, _Product, str]:
    """What several samples share: declarations, the product, what has to stand before."""
    weight = layer.step.weight.reshape(-1, layer.units)
    rows, columns = np.nonzero(weight)
    ends = np.cumsum(np.bincount(rows, minlength=len(weight)))
    arrays = weight[rows, columns].astype(np.float32), columns, ends
    parts = [arrays[0], *(array.astype(np.uint32) for array in arrays[1:])]
    fields = ", ".join(layer.context.constant(part) for part in parts)
    product = (
        f"pd_recall(sums + {{first}} * n, &matrix, d * {layer.rows} + {{first}}, {{rows}}, "
        "{state}, {stride}, n);"
    )
    return f"const pd_recurrent matrix = {{{fields}}};", product, ""


def _vector(layer: _Layer) -> tuple[str, _Product, str]:
    """The same of one sample, by the kernel for linear layers on a vector."""
    weight, context = layer.step.weight.reshape(-1, layer.units), layer.context
    form = Form(kind_of(weight), index_type(layer.units))
    if not layer.sparse:
        values = context.constant(stored(weight, form.kind))
        product = f"""\
for (int r = {{first}}; r < {{first}} + {{rows}}; r += {ROWS}) {{{{
            const int left = {{first}} + {{rows}} - r, count = left < {ROWS} ? left : {ROWS};
            float found[{ROWS}][PD_UNIT];
            const ptrdiff_t start = ((ptrdiff_t)d * {layer.rows} + r) * {layer.units};
            {form.function("dots")}(
                found, {values} + start, {{state}}, {layer.units}, count, 1);
            for (int i = 0; i < count; i++) sums[r + i] = found[i][0];
        }}}}"""
        return "", product, form.instance()
    rows, columns = np.nonzero(weight)
    ends = np.cumsum(np.bincount(rows, minlength=len(weight))).astype(np.uint32)
    values = context.constant(stored(weight[rows, columns], form.kind))
    indices = context.constant(indices_of(columns, layer.units))
    product = (
        f"for (int r = {{first}}; r < {{first}} + {{rows}}; r++) {form.function('sparse')}("
        f"sums + r, {values}, {indices}, {context.constant(ends)}, d * {layer.rows} + r, "
        "{state}, 1);"
    )
    return "", product, form.instance()


# -- cells -----------------------------------------------------------------------------------------


def _each(layer: _Layer, *lines: str) -> str:
    """A loop over the states at hand, a vector at a time, at ``at`` of tensors."""
    return "\n".join(
        [
            "for (int l = 0; l < lines; l++)",
            "for (int i = 0; i < width; i += PD_LANES) {",
            f"const ptrdiff_t at = (ptrdiff_t)l * {layer.batch} + i;",
            "const int left = width - i;",
            *lines,
            "}",
        ]
    )


def _input(layer: _Layer, gate: int) -> str:
    return f"pd_take(in + {gate * layer.units * layer.batch} + at, left)"


def _sum(layer: _Layer, gate: int) -> str:
    return f"pd_take(sums + {gate * layer.units} * n + l * n + i, left)"


def _gate(layer: _Layer, gate: int, function: int) -> str:
    return layer.function(function, f"({_input(layer, gate)} + {_sum(layer, gate)})")


def _all(layer: _Layer, product: _Product) -> str:
    return product.format(first=0, rows=layer.rows, state="hidden", stride="stride")


_HIDDEN = "const pd_vec old = pd_take(hidden + (ptrdiff_t)l * stride + i, left);"


def _rnn(layer: _Layer, product: _Product) -> tuple[str, str]:
    store = f"pd_give(out + at, {_gate(layer, 0, 0)}, left);"
    return "", "\n".join([_all(layer, product), _each(layer, store)])


def _lstm(layer: _Layer, product: _Product) -> tuple[str, str]:
    """The cell state lies behind the hidden states, where each step finds and leaves it."""
    step, behind = layer.step, layer.step.y.shape[0] - 1
    part = f"((ptrdiff_t){behind * layer.directions} + d) * {layer.units * layer.batch} + first"
    first = "pd_splat(0)" if step.cell is None else "pd_take(given + at, left)"
    given = "" if step.cell is None else f"const float *given = {layer.state(step.cell)};"
    start = [
        f"float *cell = {layer.context.pointer(step.y)} + {part};",
        *([given] if given else []),
        _each(layer, f"pd_give(cell + at, {first}, left);"),
    ]
    lines = [
        f"const pd_vec enter = {_gate(layer, 0, 0)};",
        f"const pd_vec leave = {_gate(layer, 1, 0)};",
        f"const pd_vec keep = {_gate(layer, 2, 0)};",
        f"const pd_vec fresh = {_gate(layer, 3, 1)};",
        "const pd_vec c = keep * pd_take(cell + at, left) + enter * fresh;",
        "pd_give(cell + at, c, left);",
        f"pd_give(out + at, leave * {layer.function(2, 'c')}, left);",
    ]
    return "\n".join(start), "\n".join([_all(layer, product), _each(layer, *lines)])


def _gru(layer: _Layer, product: _Product) -> tuple[str, str]:
    """The reset gate multiplies the state's part of the candidate, or the state before it."""
    step, units = layer.step, layer.units
    update = f"const pd_vec update = {_gate(layer, 0, 0)};"
    reset = f"const pd_vec reset = {_gate(layer, 1, 0)};"
    blend = "pd_give(out + at, (1.0f - update) * fresh + update * old, left);"
    if step.bias is not None:
        bias = np.repeat(step.bias.astype(np.float32)[..., None], layer.batch, 2)
        added = f"pd_take(bias + (ptrdiff_t)d * {units * layer.batch} + first + at, left)"
        candidate = f"({_input(layer, 2)} + reset * ({_sum(layer, 2)} + {added}))"
        lines = [update, reset, _HIDDEN, f"const pd_vec fresh = {layer.function(1, candidate)};"]
        start = f"const float *bias = {layer.context.constant(bias)};"
        return start, "\n".join([_all(layer, product), _each(layer, *lines, blend)])
    first = product.format(first=0, rows=2 * units, state="hidden", stride="stride")
    second = product.format(first=2 * units, rows=units, state="room", stride="n")
    kept = "pd_give(room + (ptrdiff_t)l * n + i, reset * old, left);"
    lines = [update, _HIDDEN, f"const pd_vec fresh = {_gate(layer, 2, 1)};", blend]
    parts = [first, _each(layer, reset, _HIDDEN, kept), second, _each(layer, *lines)]
    return "", "\n".join(parts)
