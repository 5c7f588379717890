"""Lengths of axes as products: a number, and the names of the dynamic lengths in it.

Exporters merge a dynamic axis with others (``4*n`` rows of images and channels) and take it apart
again. As products such lengths can be compared, multiplied and divided, so that what a reshape
does to each axis follows without knowing ``n``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce

import onnx_ir as ir

Run = tuple[list[int], list[int]]  # axes before and after that hold the same elements


@dataclass(frozen=True)
class Length:
    """``number`` times the dynamic lengths that are named."""

    number: int = 1
    names: tuple[str, ...] = field(default=())  # sorted, one entry a factor

    @classmethod
    def of(cls, dim: int | str) -> Length:
        """A number, a name, or a product of them: ``12``, ``n``, ``4*n``, ``h*w``."""
        factors = dim.split("*") if isinstance(dim, str) else [str(dim)]
        factors = [factor.strip() for factor in factors]
        if not all(factor.isidentifier() or factor.isdecimal() for factor in factors):
            return cls(1, (str(dim),))
        numbers = [int(factor) for factor in factors if factor.isdecimal()]
        return cls(math.prod(numbers), tuple(sorted(f for f in factors if not f.isdecimal())))

    def __mul__(self, other: Length) -> Length:
        return Length(self.number * other.number, tuple(sorted(self.names + other.names)))

    def over(self, other: Length) -> Length | None:
        """The quotient; None where it does not come out even for every value of the names."""
        rest = Counter(self.names)
        rest.subtract(other.names)
        if not other.number or self.number % other.number or min(rest.values(), default=0) < 0:
            return None
        return Length(self.number // other.number, tuple(sorted(rest.elements())))

    @property
    def dim(self) -> int | str:
        """As it is written in a shape."""
        if not self.names:
            return self.number
        return "*".join([*([str(self.number)] if self.number != 1 else []), *self.names])

    @property
    def size(self) -> tuple[int, int]:
        """Grows with every factor: the order in which runs of axes are extended."""
        return len(self.names), self.number


ONE = Length()


def product(lengths: Sequence[Length]) -> Length:
    """The number of elements of some axes."""
    return reduce(Length.__mul__, lengths, ONE)


def lengths_of(value: ir.Value) -> list[Length] | None:
    """The lengths of all axes; one without a name gets a name that nothing else has."""
    if value.shape is None:
        return None
    lengths = []
    for axis, dim in enumerate(value.shape):
        known = dim if isinstance(dim, int) else dim.value
        lengths.append(Length.of(f"axis {axis} of {id(value)}" if known is None else known))
    return lengths


def solved(before: list[Length], after: list[Length]) -> tuple[list[Length], list[Length]] | None:
    """The lengths on both sides of a reshape, so that both hold as many elements.

    Where they do not, a single length whose name the other side lacks follows from the others.
    None where that leaves it open, or a tensor is empty: then any axis may be any other.
    """
    if not all(length.number for length in (*before, *after)):
        return None
    if product(before) == product(after):
        return before, after
    for left, right, swapped in ((before, after, False), (after, before, True)):
        theirs = {name for length in left for name in length.names}
        strange = [i for i, length in enumerate(right) if not theirs.issuperset(length.names)]
        others = [length for i, length in enumerate(right) if i not in strange]
        rest = product(left).over(product(others))
        if len(strange) == 1 and rest is not None:
            known = [rest if i in strange else length for i, length in enumerate(right)]
            return (known, left) if swapped else (left, known)
    return None


def groups(before: list[Length], after: list[Length]) -> list[Run] | None:
    """Runs of axes, before and after a reshape, that hold the same elements; None: not known.

    Shortest runs, from the front.
    """
    if (both := solved(before, after)) is None:
        return None
    before, after = both
    runs: list[Run] = []
    i = j = 0
    while i < len(before) or j < len(after):
        left, right = [i] if i < len(before) else [], [j] if j < len(after) else []
        i, j = i + 1, j + 1
        while left and right:
            one = product([before[axis] for axis in left])
            other = product([after[axis] for axis in right])
            if one == other:
                break
            if (one.size < other.size and i < len(before)) or j >= len(after):
                left, i = [*left, i], i + 1
            else:
                right, j = [*right, j], j + 1
        runs.append((left, right))
    return runs
