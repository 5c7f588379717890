from __future__ import annotations

from collections.abc import Callable

import pytest

from prunedeploy.models import Recipe
from prunedeploy.models._fit import Shapes


@pytest.fixture
def narrowed() -> Callable[[Recipe, int], dict[str, tuple[int, ...]]]:
    """Shapes of a recipe's network with every width divided, but for image channels and classes."""

    def narrow(recipe: Recipe, by: int) -> dict[str, tuple[int, ...]]:
        layout = recipe.layout()
        stem, classes = next(iter(layout)), layout[[*layout][-1]][0]
        return {
            name: _divide(shape, by, keep_input=name == stem, classes=classes)
            for name, shape in layout.items()
        }

    return narrow


def _divide(shape: tuple[int, ...], by: int, keep_input: bool, classes: int) -> tuple[int, ...]:
    outputs, *rest = shape
    channels = [outputs if outputs == classes else outputs // by]
    if rest:  # 1 is a depthwise convolution's input per group
        channels.append(rest[0] if keep_input or rest[0] == 1 else rest[0] // by)
    return (*channels, *rest[1:])


@pytest.fixture
def with_weights() -> Callable[[Recipe, Shapes], object]:
    """The network of a recipe for the given shapes, loaded with random weights of a fixed seed."""

    def load(recipe: Recipe, shapes: Shapes) -> object:
        import torch

        random = torch.Generator().manual_seed(0)
        state = {}
        for name, shape in shapes.items():
            if len(shape) > 1:
                fan_in = torch.Size(shape[1:]).numel()
                value = torch.randn(shape, generator=random) * (2 / fan_in) ** 0.5
            else:
                value = torch.rand(shape, generator=random) + 0.5
            state[name] = value
        module = recipe.build(shapes)
        module.load_state_dict(state, assign=True)
        return module

    return load
