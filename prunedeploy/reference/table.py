"""The types that tables of kernels consist of.

A kernel is a function of a node and its inputs as NumPy arrays, None for one that is left out. It
returns one array, or a tuple of all outputs. A version of an operator has the opset that brought it
as its number, as in ``onnx.defs``: ``Softmax`` has the versions 1, 11 and 13, and a model of opset
12 means version 11.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Kernel = Callable[..., Any]
Versions = dict[int, Kernel | None]
Table = dict[str, Versions]

Numbers = NDArray[Any]


def same(kernel: Kernel, *versions: int) -> Versions:
    """The versions of an operator that ``kernel`` computes all alike."""
    return dict.fromkeys(versions, kernel)


def withdrawn(version: int) -> Versions:
    """The version in which ONNX gave the operator up: no model of that opset may have it."""
    return {version: None}


def number(node: ir.Node, name: str, default: float) -> float:
    """A float attribute, with the value that ONNX stores: attributes are float32."""
    return float(np.float32(node.attributes.get_float(name, default)))


def integer(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute."""
    return int(node.attributes.get_int(name, default))


def integers(node: ir.Node, name: str, default: list[int] | None = None) -> list[int]:
    """An attribute that lists integers; ``default``, or none, where it is left out."""
    return [int(i) for i in node.attributes.get_ints(name, default or [])]


def text(node: ir.Node, name: str, default: str) -> str:
    """A text attribute."""
    return str(node.attributes.get_string(name, default))


def has(node: ir.Node, name: str) -> bool:
    """Whether the attribute is there, whatever its value."""
    return name in node.attributes


def listed(array: Any) -> list[int]:
    """An input that lists integers."""
    return [int(i) for i in np.asarray(array).reshape(-1)]


def wanted(node: ir.Node, index: int) -> bool:
    """Whether the node has an output ``index``, whose name is not left empty."""
    return index < len(node.outputs) and bool(node.outputs[index].name)


def along(vector: Numbers, axis: int, rank: int) -> Numbers:
    """A vector as an array of ``rank`` axes, of which ``axis`` alone is longer than one."""
    return vector.reshape([-1 if each == axis else 1 for each in range(rank)])


def within(axis: int, rank: int, what: str = "axis") -> int:
    """An axis counted from the front.

    Raises:
        ValueError: there is no such axis.
    """
    if not -rank <= axis < rank:
        raise ValueError(f"{what} {axis} of {rank} axes")
    return axis % rank
