"""Values between the operators of a torch program: tensors, and integers that are known.

A network with a dynamic batch computes some shapes. Such integers never become tensors: they stay
NumPy arrays, of objects where torch's symbolic sizes are among them, so that torch.export can see
through the arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


class CannotExpress(Exception):  # noqa: N818 - it says what is the matter, and is never shown bare
    """This form of the operator has no torch program."""


@dataclass(frozen=True)
class Known:
    """Numbers that are known when the program is made, up to symbolic sizes.

    ``tensor`` is the buffer that holds them in the program, where they are a constant of it.
    """

    array: Any
    tensor: Tensor | None = None


Value = Tensor | Known | None


def known(array: Any) -> Known:
    """Integers as they come out of arithmetic: NumPy's where all are plain, else objects."""
    objects = np.asarray(array, dtype=object)
    plain = all(isinstance(n, int | np.integer | bool | np.bool_) for n in objects.reshape(-1))
    return Known(objects.astype(np.int64) if plain else objects)


def ints(value: Value) -> list[Any]:
    """A list of sizes, positions or axes.

    Raises:
        CannotExpress: they are computed from the network's inputs.
    """
    if not isinstance(value, Known):
        raise CannotExpress("its shapes or positions are computed from the inputs")
    return [int(n) if isinstance(n, np.integer) else n for n in value.array.reshape(-1)]


def numbers(value: Value) -> list[float]:
    """Known numbers of any kind.

    Raises:
        CannotExpress: they are computed.
    """
    if not isinstance(value, Known):
        raise CannotExpress("numbers that it must know beforehand are computed")
    return [float(n) for n in value.array.reshape(-1)]


def tensor(value: Value, like: Tensor | None = None) -> Tensor | None:
    """The value as a tensor; known integers become a constant, on the device of ``like``.

    Raises:
        CannotExpress: sizes of the inputs are used as data.
    """
    if value is None or isinstance(value, Tensor):
        return value
    if value.tensor is not None:
        return value.tensor
    if value.array.dtype == object:
        raise CannotExpress("it computes with the sizes of the inputs")
    device = None if like is None else like.device
    return torch.tensor(value.array.tolist(), dtype=torch.int64, device=device)


def of_array(array: Any) -> Tensor:
    """A copy of a NumPy array, in its own type."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.astype(np.float32)).bfloat16()
    return torch.from_numpy(np.array(array, order="C"))


def tensors(values: Sequence[Value]) -> list[Tensor | None]:
    """All of them as tensors."""
    like = next((v for v in values if isinstance(v, Tensor)), None)
    return [tensor(value, like) for value in values]


def axes_of(numbers: Iterable[int], rank: int) -> list[int]:
    """Axes counted from the front."""
    return [int(n) % rank for n in numbers]
