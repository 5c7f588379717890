"""Reference networks: what they become, and that it computes the same."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from lowered import TOLERANCE, check, reference, steps
from plan_interpreter import evaluate
from torch import Tensor, nn

from prunedeploy.models import by_name
from prunedeploy.runtimes.sparse.plan.lower import lower
from prunedeploy.runtimes.sparse.plan.steps import Conv, Plan
from prunedeploy.shrinking.export import to_model

# besides the layers: copies of a batch of one; a larger one is also copied out
EXPECTED = {
    "resnet18": {"Conv": 21, "Pool": 1, "Reduce": 1, "Copy": 1},
    "mobilenet_v2": {"Conv": 53, "Reduce": 1, "Copy": 1},
    "vgg16_bn_cifar": {"Copy": 1},
    "squeezenet1_1": {"Conv": 26, "Pool": 3, "Reduce": 1, "Copy": 1},
    "densenet121": {"Conv": 121, "Pool": 4, "Map": 62, "Reduce": 1, "Copy": 1},
}
SLOW = ("mobilenet_v2", "densenet121")
OTHERS = ("mobilenet_v1", "resnet20")


@cache
def network(name: str) -> ir.Model:
    recipe = by_name(name)
    torch.manual_seed(0)
    module = recipe.factory().eval()
    for key, value in module.named_buffers():
        if key.endswith("running_mean"):
            value.normal_(0, 0.1)
        if key.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    channels, side, _ = recipe.input_shape
    return to_model(module, (1, channels, *2 * (side if "vgg" in name else min(side, 64),)))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in EXPECTED]
)
def test_network(name: str) -> None:
    found = steps(check(network(name)))
    assert {kind: found[kind] for kind in EXPECTED[name]} == EXPECTED[name]
    assert name == "vgg16_bn_cifar" or found == EXPECTED[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_other_networks(name: str) -> None:
    assert set(steps(check(network(name)))) <= {"Conv", "Pool", "Reduce", "Copy"}


def test_batches() -> None:
    for batch in (2, 5):
        found = steps(check(network("resnet18"), batch))
        assert found == {"Conv": 21, "Pool": 1, "Reduce": 1, "Copy": 2}


def test_residual_sums_and_activations_are_part_of_their_layers() -> None:
    plan = lower(network("resnet18"), 1)
    assert isinstance(plan, Plan)
    layers = [step for step in plan.steps if isinstance(step, Conv)]
    assert sum(step.residual is not None for step in layers) == 8
    assert sum(step.activation.op == "relu" for step in layers) == 17


def test_memory_is_used_again() -> None:
    plan = lower(network("resnet18"), 1)
    assert isinstance(plan, Plan)
    assert plan.arena < sum(b.size for b in plan.buffers if b.space == "arena") / 2


@pytest.mark.parametrize("change", ["residual", "activation", "bias", "pads"])
def test_a_plan_that_computes_anything_else_is_seen(change: str) -> None:
    model = network("resnet18")
    plan = lower(model, 1)
    assert isinstance(plan, Plan)
    index = next(i for i, s in enumerate(plan.steps) if isinstance(s, Conv) and s.residual)
    broken: dict[str, dict[str, object]] = {
        "residual": {"residual": None},
        "activation": {"activation": plan.steps[-1].activation},  # type: ignore[union-attr]
        "bias": {"bias": plan.steps[index].bias + np.float32(0.01)},  # type: ignore[union-attr]
        "pads": {"pads": (2, 1, 0, 1)},
    }
    steps_ = list(plan.steps)
    steps_[index] = replace(steps_[index], **broken[change])  # type: ignore[arg-type]
    x = np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32)
    feeds = {plan.inputs[0].name: x}
    (wanted,) = reference(model, feeds)
    found = evaluate(replace(plan, steps=tuple(steps_)), feeds)[plan.outputs[0].name]
    assert np.abs(found - wanted).max() > TOLERANCE * np.abs(wanted).max()


class Squeeze(nn.Module):
    """Squeeze-and-excite, with the hard functions of MobileNetV3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))
        return x * F.hardsigmoid(self.up(gate))


def shuffle(x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2)
    return x.reshape(batch, channels, height, width)


class Mixed(nn.Module):
    """What else convolutional networks are made of, at odd sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, 2, 1)
        self.norm, self.squeeze = nn.GroupNorm(3, 12), Squeeze(12)
        self.branch = nn.Sequential(
            nn.Conv2d(6, 6, 1), nn.PReLU(6), nn.Conv2d(6, 6, 3, 1, 1, groups=6)
        )
        self.lower = nn.Conv2d(12, 16, 3, 2, 1)
        self.up = nn.ConvTranspose2d(16, 8, 4, 2, 1)
        self.smooth = nn.Conv2d(20, 8, 3, 1, 1)
        self.merge = nn.Conv2d(20, 5, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.hardswish(self.norm(self.stem(x)))
        left, right = x.chunk(2, 1)
        x = shuffle(torch.cat([left, self.branch(right)], 1))
        x = self.squeeze(x)
        deep = F.silu(self.lower(x))
        y = self.smooth(torch.cat([x, F.leaky_relu(self.up(deep))], 1))
        far = F.interpolate(F.max_pool2d(deep, 2), size=x.shape[2:], mode="bilinear")
        near = F.interpolate(y, scale_factor=2, mode="nearest")
        return self.merge(torch.cat([far[:, :12], y], 1)), F.gelu(near).mean((2, 3))


def test_everything_else() -> None:
    torch.manual_seed(0)
    model = to_model(Mixed().eval(), (1, 3, 28, 20))
    for batch in (1, 3):
        found = steps(check(model, batch))
        assert found["Copy"] <= 7 + (batch > 1)
