"""Sizes for the open dimensions of a model's inputs: one name, one size."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from prunedeploy.core.records import Dim

BATCH_AXIS = 0
OPEN_SIZE = 32  # of a dimension beside the batch that a model leaves open
OPERATORS: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


class Spec(Protocol):
    """An input: anything with a name and a shape."""

    @property
    def name(self) -> str:
        """The input's name."""
        ...

    @property
    def shape(self) -> tuple[Dim, ...]:
        """Numbers, names of open sizes, and ``?`` for open sizes without a name."""
        ...


def resolve(
    inputs: Iterable[Spec], batch: int, size: int, known: Mapping[str, int] | None = None
) -> dict[str, tuple[int, ...]]:
    """The shape of every input, once its open sizes are chosen.

    Args:
        inputs: what a model takes. A name that stands for a size is of one size wherever it
            stands; exporters also write sums and products of such names.
        batch: of every name that stands first in the shape of an input.
        size: of every other name, and of what has none beside the batch.
        known: sizes of names that are given.

    Returns:
        Shapes by the names of the inputs.
    """
    inputs = tuple(inputs)
    sizes = dict(known or {})
    for spec in inputs:
        for dim in spec.shape[:1]:
            if isinstance(dim, str) and dim.isidentifier():
                sizes.setdefault(dim, batch)
    return {
        spec.name: tuple(
            dim
            if isinstance(dim, int)
            else _size(dim, batch if axis == BATCH_AXIS else size, sizes)
            for axis, dim in enumerate(spec.shape)
        )
        for spec in inputs
    }


def _size(dim: str, otherwise: int, sizes: dict[str, int]) -> int:
    if dim in sizes:
        return sizes[dim]
    if dim == "?":
        return otherwise
    try:
        size = _value(ast.parse(dim, mode="eval").body, sizes, otherwise)
    except (SyntaxError, ValueError, RecursionError, ZeroDivisionError):
        size = 0  # not a sum or product: a name like any other
    sizes[dim] = size if size > 0 else otherwise
    return sizes[dim]


def _value(tree: ast.expr, sizes: dict[str, int], otherwise: int) -> int:
    if isinstance(tree, ast.Name):
        return sizes.setdefault(tree.id, otherwise)
    if isinstance(tree, ast.Constant) and isinstance(tree.value, int):
        return tree.value
    if isinstance(tree, ast.BinOp) and type(tree.op) in OPERATORS:
        left, right = (_value(side, sizes, otherwise) for side in (tree.left, tree.right))
        return OPERATORS[type(tree.op)](left, right)
    raise ValueError(f"no size: {ast.dump(tree)}")
