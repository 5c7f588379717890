"""Blocks: a set of rows times a set of columns of a layer's weight matrix.

Rows are output channels, columns indices into input channels times taps. In a grouped convolution
columns count the input channels of all groups, so that rows of two groups share none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunedeploy.core.records import Array

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Block:
    """Rows and columns, both in order; the row sets of a layer's blocks are disjoint."""

    rows: Ints
    columns: Ints

    @property
    def size(self) -> int:
        """Cells, zeros that the block may hold included."""
        return int(self.rows.size * self.columns.size)


def matrix_shape(shape: tuple[int, ...], groups: int = 1) -> tuple[int, int]:
    """Rows and columns of the matrix of a weight [outputs, inputs / groups, taps...]."""
    return shape[0], int(np.prod(shape[1:], dtype=np.int64)) * groups


def nonzeros(weight: Array, groups: int = 1) -> tuple[Ints, Ints]:
    """Row and column of every non-zero of a weight [outputs, inputs / groups, taps...]."""
    flat = weight.reshape(weight.shape[0], -1)
    row, column = (x.astype(np.int64) for x in np.nonzero(flat))
    return row, column + row // max(weight.shape[0] // groups, 1) * flat.shape[1]


def dense_mask(weight: Array, groups: int = 1) -> Mask:
    """Return the mask of the matrix's non-zeros."""
    mask = np.zeros(matrix_shape(weight.shape, groups), np.bool_)
    mask[nonzeros(weight, groups)] = True
    return mask


def cells(blocks: Iterable[Block], shape: tuple[int, int]) -> Mask:
    """The union of ``blocks`` in a matrix."""
    mask = np.zeros(shape, np.bool_)
    for block in blocks:
        mask[np.ix_(block.rows, block.columns)] = True
    return mask
