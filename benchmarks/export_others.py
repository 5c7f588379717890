"""Networks of torchvision and timm with dead channels, as ONNX files for ``shrink_speed.py``.

    python benchmarks/export_others.py FOLDER     # in an environment with torchvision and timm
    python benchmarks/shrink_speed.py --networks "" FOLDER/*.onnx

Eleven families that models/ does not have, with random weights, at 224x224, in the four regimes of
tests/support/regimes.py. Which channels are dead follows from a layer's width alone, so that layers
which are added to one another, and a depthwise layer and the one in front of it, lose the same.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

DEAD = 0.36  # of the channels
REGIMES = ("clean", "beta", "columns", "independent")
TORCHVISION = ("shufflenet_v2_x1_0", "googlenet")
TIMM = (
    *("mobilenetv3_large_100", "efficientnet_b0", "mnasnet_100", "regnety_008", "ghostnet_100"),
    *("repvgg_a0", "resnext50_32x4d", "ese_vovnet19b_dw", "lcnet_100"),
)


def network(name: str) -> nn.Module:
    """The network with random weights, and statistics of a random batch."""
    torch.manual_seed(0)
    if name in TORCHVISION:
        import torchvision

        options = {"aux_logits": False, "init_weights": True} if name == "googlenet" else {}
        module: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    else:
        import timm

        module = timm.create_model(name, pretrained=False)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 1.0
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-0.5, 0.5)
    module.train()(torch.rand(4, 3, 112, 112))
    return module.eval()


def layers(module: nn.Module) -> list[tuple[nn.Conv2d, nn.BatchNorm2d | None]]:
    """The convolutions in the order in which they run, each with the norm that reads its result."""
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # results are kept: no id comes twice
    norms: dict[nn.Conv2d, nn.BatchNorm2d] = {}

    def ran(part: nn.Module, inputs: tuple[Tensor, ...], result: Tensor) -> None:
        if isinstance(part, nn.Conv2d):
            made[id(result)] = part, result
        elif isinstance(part, nn.BatchNorm2d) and id(inputs[0]) in made:
            norms[made[id(inputs[0])][0]] = part

    parts = [x for x in module.modules() if isinstance(x, nn.Conv2d | nn.BatchNorm2d)]
    hooks = [part.register_forward_hook(ran) for part in parts]
    module(torch.rand(1, 3, 224, 224))
    for hook in hooks:
        hook.remove()
    return [(conv, norms.get(conv)) for conv, _ in made.values()]


def dead(width: int, seed: int) -> Tensor:
    """The dead of ``width`` channels; the first never is."""
    random = torch.Generator().manual_seed(100_003 * seed + width)
    return 1 + torch.randperm(width - 1, generator=random)[: int(DEAD * width)]


def kill(module: nn.Module, regime: str) -> None:
    """Make the channels dead."""
    every = layers(module)
    if regime == "columns":
        readers: list[Any] = [conv for conv, _ in every if conv.groups == 1]
        readers += [x for x in module.modules() if isinstance(x, nn.Linear)]
        for reader in readers:
            if reader.weight.shape[1] > 3:
                reader.weight[:, dead(reader.weight.shape[1], 1)] = 0
        return
    for number, (conv, norm) in enumerate(every):
        if norm is None:
            continue
        rows = dead(conv.out_channels, number + 7 if regime == "independent" else 1)
        conv.weight[rows] = 0
        if conv.bias is not None:
            conv.bias[rows] = 0
        norm.weight[rows] = 0
        constants = torch.zeros(conv.out_channels)
        if regime == "beta":
            constants.uniform_(0.2, 1.0)
            constants[torch.rand(conv.out_channels) < 0.5] *= -1
        norm.bias[rows] = constants[rows]


@torch.no_grad()
def main() -> None:
    """Write all files."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    for name in (*TORCHVISION, *TIMM):
        for regime in REGIMES:
            module = network(name)
            kill(module, regime)
            file = folder / f"{name}.{regime}.onnx"
            torch.onnx.export(
                *(module, (torch.rand(1, 3, 224, 224),), str(file)), dynamo=False, opset_version=17
            )
            print(file)


if __name__ == "__main__":
    main()
