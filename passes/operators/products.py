"""Rules for products of two computed tensors: MatMul, Gemm and Einsum, all by index letters.

An index that both operands carry and the result does not is summed over; an index of the result
passes from whichever operands carry it. Summed indices are cut together in both operands, and can
go where one of the two holds zero there: that product adds nothing (a dimension of a head that is
dead in the queries alone goes from the keys too).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from prunedeploy.passes.analysis.axes import Axes, rank, static_size
from prunedeploy.passes.analysis.facts import Facts
from prunedeploy.passes.operators.layers import Layer
from prunedeploy.passes.operators.operator import Operator, Reads, opaque
from prunedeploy.reference.opsets import softmax_axes

ELLIPSIS = "..."

# index letters of each operand's axes, and of the result's
Indices = tuple[list[str], str]


def indices(node: ir.Node) -> Indices | None:
    """The node as an Einstein sum, None where it cannot be read as one."""
    ranks = [rank(value) if value is not None else None for value in node.inputs[:2]]
    if len(node.inputs) < 2 or any(width is None for width in ranks):
        return _einsum(node) if node.op_type == "Einsum" and len(node.inputs) == 1 else None
    left, right = (width or 0 for width in ranks)
    if node.op_type == "Einsum":
        return _einsum(node)
    if min(left, right) < 2:
        return None
    if node.op_type == "Gemm":
        a = "km" if node.attributes.get_int("transA", False) else "mk"
        b = "nk" if node.attributes.get_int("transB", False) else "kn"
        return [a, b], "mn"
    batch = "abcdefgh"[: max(left, right) - 2]
    return [batch[len(batch) + 2 - left :] + "mk", batch[len(batch) + 2 - right :] + "kn"], (
        batch + "mn"
    )


def _einsum(node: ir.Node) -> Indices | None:
    equation = node.attributes.get_string("equation", "").replace(" ", "")
    before, arrow, after = equation.partition("->")
    operands = before.split(",")
    if not arrow:  # letters that appear once, in alphabetical order, behind what was not named
        once = [letter for letter in before if letter.isalpha() and before.count(letter) == 1]
        after = (ELLIPSIS if ELLIPSIS in before else "") + "".join(sorted(once))
    ranks = [rank(value) if value is not None else None for value in node.inputs]
    if len(operands) != len(ranks) or None in ranks:
        return None
    missing = [
        (r or 0) - len(o.replace(ELLIPSIS, "")) for o, r in zip(operands, ranks, strict=True)
    ]
    operands = [_spelt(o, m) for o, m in zip(operands, missing, strict=True)]
    ellipses = [m for o, m in zip(before.split(","), missing, strict=True) if ELLIPSIS in o]
    after = _spelt(after, max(ellipses, default=0))
    named = all(len(o) == r for o, r in zip(operands, ranks, strict=True))
    repeated = any(len(set(letters)) < len(letters) for letters in [*operands, after])
    if repeated or not named or not set(after) <= set("".join(operands)):
        return None
    return operands, after


def _spelt(letters: str, count: int) -> str:
    """The axes of an ellipsis as digits, counted from the last one, as they are aligned."""
    return letters.replace(ELLIPSIS, "".join(map(str, reversed(range(max(count, 0))))))


def couple_product(node: ir.Node, axes: Axes) -> None:
    """The same letter, the same labels; an operand that is repeated along one pins it."""
    subscripts, values = indices(node), [v for v in node.inputs if v is not None]
    if subscripts is None or rank(node.outputs[0]) is None:
        opaque(node, axes)
        return
    operands, result = subscripts
    occurrences = [
        (value, axis, letter)
        for value, letters in zip(values, operands, strict=False)
        for axis, letter in enumerate(letters)
    ]
    for value in values[len(operands) :]:  # Gemm's addend
        axes.pin(value)
    for letter in dict.fromkeys(letter for *_, letter in occurrences):
        here = [(value, axis) for value, axis, other in occurrences if other == letter]
        if letter in result:
            here.append((node.outputs[0], result.index(letter)))
        _couple_letter(here, axes)
    if len(values) > len(operands):
        axes.pin(node.outputs[0], f"{node.op_type} ({node.name}) with an addend")


def _couple_letter(occurrences: list[tuple[ir.Value, int]], axes: Axes) -> None:
    sizes = {static_size(value, axis) for value, axis in occurrences}
    if len(sizes) > 1 or None in sizes:
        for value, axis in occurrences:
            axes.pin_axis(value, axis, "an axis that a product repeats")
        return
    known = [occurrence for occurrence in occurrences if axes.has(*occurrence)] or occurrences[:1]
    labels = axes.of(*known[0])
    for value, axis in occurrences:
        axes.assign(value, axis, labels)


def product_constants(node: ir.Node, facts: Facts) -> None:
    """A zero slice of one operand is a zero slice of the result.

    Behind a softmax any constant of the other operand stays what it is: its shares add up to one.
    """
    subscripts = indices(node)
    if subscripts is None or len(node.inputs) > 2:
        return
    operands, result = subscripts
    shares = adds_up_to_one(node)
    for axis, letter in enumerate(result):
        size = static_size(node.outputs[0], axis)
        constants = np.full(size or 0, np.nan)
        for value, letters in zip(node.inputs, operands, strict=True):
            known = _along(value, letters, letter, facts)
            if known is None or len(known) != size:
                continue
            constants = np.where(known == 0, 0.0, constants)
            if shares and value is node.inputs[1]:
                constants = np.where(np.isfinite(known), known, constants)
        facts.learn(node.outputs[0], axis, constants)


def adds_up_to_one(node: ir.Node) -> bool:
    """Whether the first operand is normalised over the one index that is summed over."""
    subscripts, first = indices(node), node.inputs[0]
    producer = first.producer() if first is not None else None
    if subscripts is None or node.op_type == "Gemm" or producer is None:
        return False
    operands, result = subscripts
    if producer.op_type != "Softmax" or len(operands) != 2:
        return False
    summed_letters = set("".join(operands)) - set(result)
    normalised = {operands[0][axis] for axis in softmax_axes(producer, len(operands[0]))}
    return summed_letters == normalised <= set(operands[1])


def summed(node: ir.Node, facts: Facts) -> Reads:
    """The axes summed over, and which of their indices add something to the result."""
    subscripts = indices(node)
    if subscripts is None:
        return []
    operands, result = subscripts
    needed = []
    for letter in dict.fromkeys("".join(operands)):
        if letter in result:
            continue
        occurrences = [
            (value, letters.index(letter))
            for value, letters in zip(node.inputs, operands, strict=False)
            if value is not None and letter in letters
        ]
        value, axis = occurrences[0]
        adds = np.ones(static_size(value, axis) or 0, bool)
        for other, position in occurrences:
            known = facts.of(other, position)
            if known is not None and len(known) == len(adds):
                adds &= ~(known == 0)
        needed.append((value, axis, adds))
    return needed


def _along(
    value: ir.Value | None, letters: str, letter: str, facts: Facts
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]] | None:
    if value is None or letter not in letters:
        return None
    return facts.of(value, letters.index(letter))


def _gemm(node: ir.Node) -> Layer | None:
    source, weight, result = node.inputs[0], node.inputs[1], node.outputs[0]
    if source is None or weight is None or node.attributes.get_int("transA", False):
        return None
    beta = node.attributes.get_float("beta", 1.0)
    if beta != 1.0 and len(node.inputs) > 2:
        return None
    w_in, w_out = (1, 0) if node.attributes.get_int("transB", False) else (0, 1)
    alpha = node.attributes.get_float("alpha", 1.0)
    return Layer(node, source, 1, weight, w_in, w_out, result, 1, 2, scale=alpha)


def _matmul(node: ir.Node) -> Layer | None:
    left, right, result = node.inputs[0], node.inputs[1], node.outputs[0]
    if left is None or right is None or left.const_value is not None or rank(right) != 2:
        return None
    last, result_rank = (rank(left) or 0) - 1, rank(result)
    if last < 1 or result_rank is None:
        return None
    return Layer(node, left, last, right, 0, 1, result, result_rank - 1, None)


# two computed tensors are a product; with known weights Gemm and MatMul are layers
_PRODUCT = Operator("Einsum", couple=couple_product, constants=product_constants, reads=summed)

OPERATORS = (
    _PRODUCT,
    replace(_PRODUCT, name="Gemm", layer=_gemm),
    replace(_PRODUCT, name="MatMul", layer=_matmul),
)
