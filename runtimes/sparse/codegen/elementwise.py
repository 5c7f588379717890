"""Functions of single elements: their code, in one loop over everything.

Where all views lie alike, the nest of loops becomes one; the innermost is computed a vector at a
time. A view that lies otherwise in it is read an element at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from prunedeploy.runtimes.sparse.codegen._context import Code, Context
from prunedeploy.runtimes.sparse.codegen.functions import call, literal
from prunedeploy.runtimes.sparse.codegen.views import Nest, nest, over_read, padded_planes
from prunedeploy.runtimes.sparse.plan.steps import Instr, Map
from prunedeploy.runtimes.sparse.plan.views import plane_stride

CHUNK = 2048  # elements of the innermost loop that a thread takes at once
POWERS = {
    1.0: "{0}",
    2.0: "({0} * {0})",
    3.0: "pd_cube({0})",
    -1.0: "(1.0f / {0})",
    0.5: "pd_root({0})",
}


def emit(step: Map, context: Context) -> Code:
    """Loops around the code: chunks of rows, shared by the threads."""
    loops = _loops(step, context)
    if not loops.rank:
        loops = Nest((1,), tuple((1,) for _ in loops.strides))
    outer = loops.take(range(loops.rank - 1))
    count = loops.shape[-1]
    views = (step.y, *step.inputs)
    names = ["y", *(f"x{n}" for n in range(len(step.inputs)))]
    lines = outer.arrays("shape", *(f"s_{name}" for name in names))
    chunks = -(-count // CHUNK)
    lines += [
        "int begin, end;",
        f"pd_share(w, {outer.size * chunks}, &begin, &end);",
        "for (int item = begin; item < end; item++) {",
        f"const int row = item / {chunks}, first = item % {chunks} * {CHUNK};",
        f"const int last = {count} - first < {CHUNK} ? {count} : first + {CHUNK};",
    ]
    for name, view in zip(names, views, strict=True):
        const = "" if name == "y" else "const "
        offset = f"pd_at(row, {outer.rank}, shape, s_{name})"
        lines.append(f"{const}float *{name} = {context.pointer(view)} + {offset};")
    for name, stride in zip(names[1:], loops.inner()[1:], strict=True):
        if stride == 0:
            lines.append(f"const pd_vec v_{name} = pd_splat(*{name});")
    lines += [*_body(step, loops, count), "}"]
    return Code("\n".join(lines), (), ("map.h",), choice="flat" if outer.rank == 0 else "nest")


def _loops(step: Map, context: Context) -> Nest:
    """The nest of loops; over whole planes, with what rounds them, where nobody minds."""
    views = (step.y, *step.inputs)
    loops = nest(step.y.shape, [view.strides for view in views])
    if loops.rank < 2 or loops.inner()[0] != 1:
        return loops
    pixels, stride = loops.shape[-1], loops.strides[0][-2]
    for view, inner, outer in zip(
        views, loops.inner(), [strides[-2] for strides in loops.strides], strict=True
    ):
        if inner == 0:
            continue
        # what is read there has to be there, and to lie as it does in y, for one loop over all
        if inner != 1 or outer != stride or not over_read(context, view):
            return loops
    if not padded_planes(context.plan, step.y, pixels, stride):
        return loops
    shape = (*loops.shape[:-1], plane_stride(pixels))
    return nest(shape, loops.strides)


def _body(step: Map, loops: Nest, count: int) -> list[str]:
    """The innermost loop, whole vectors and then the rest."""
    inner = loops.inner()
    whole = ["int i = first;", "for (; i + PD_LANES <= last; i += PD_LANES) {"]
    whole += [*_vector(step, inner, "PD_LANES"), "}"]
    if count % 16 == 0 and CHUNK % 16 == 0:  # of every ISA
        return whole
    rest = ["if (i < last) {", "const int left = last - i;", *_vector(step, inner, "left"), "}"]
    return whole + rest


def _vector(step: Map, strides: Sequence[int], left: str) -> list[str]:
    """One vector: what is read, the code, what is written."""
    whole = left == "PD_LANES"
    lines, values = [], []
    for number, stride in enumerate(strides[1:]):
        name = f"x{number}"
        values.append(f"v_{name}" if stride == 0 else f"u_{name}")
        at = f"{name} + i" if stride == 1 else f"{name} + (ptrdiff_t)i * {stride}"
        if stride == 1:
            load = f"pd_loadu({at})" if whole else f"pd_load_n({at}, left, 0)"
        else:
            load = f"pd_gather({at}, {stride}, {left})"
        if stride != 0:
            lines.append(f"const pd_vec u_{name} = {load};")
    values += [f"pd_splat({literal(constant)})" for constant in step.constants]
    known = {len(step.inputs) + n: constant for n, constant in enumerate(step.constants)}
    for number, instr in enumerate(step.code):
        lines.append(f"const pd_vec t{number} = {_instr(instr, values, known)};")
        values.append(f"t{number}")
    result, stride = values[-1], strides[0]
    at = "y + i" if stride == 1 else f"y + (ptrdiff_t)i * {stride}"
    if stride != 1:
        store = f"pd_scatter({at}, {stride}, {result}, {left});"
    else:
        store = f"pd_storeu({at}, {result});" if whole else f"pd_store_n({at}, {result}, left);"
    return [*lines, store]


def _instr(instr: Instr, values: Sequence[str], known: dict[int, float]) -> str:
    """C expression; a power of a known exponent without pow."""
    operands = [values[i] for i in instr.operands]
    if instr.op == "pow":
        exponent = known.get(instr.operands[1], math.nan)
        if exponent in POWERS:
            return POWERS[exponent].format(operands[0])
    return call(instr, operands)
