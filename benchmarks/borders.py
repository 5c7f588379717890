"""Constants under zero padding: a map added to the result, against a channel that carries them.

    python benchmarks/borders.py [--networks resnet56,resnet50] [--rounds 100] [--threads 1]

In every residual block half of the inner channels have zero weights behind a BatchNorm that was
left alone, so that they hold constants which reach padded convolutions: what masks on convolutions
leave. Each network is shrunk both ways, and both engines run in turn with the dense one.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from unittest import mock

import torch
from torch import nn

import prunedeploy
from prunedeploy.models import by_name


def half_dead(name: str) -> nn.Module:
    """The network with random weights; half of each block's inner channels hold constants."""
    torch.manual_seed(0)
    module = by_name(name).factory().eval()
    for key, layer in module.named_modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.bias, -0.3, 0.5)
        inner = key.startswith("layer") and key.endswith((".conv1", ".conv2"))
        last = f"{key[:-1]}{int(key[-1]) + 1}" if inner else ""
        if isinstance(layer, nn.Conv2d) and last in dict(module.named_modules()):
            layer.weight.data[: layer.out_channels // 2] = 0
    return module


def measure(name: str, rounds: int, threads: int, batch: int) -> str:
    """One row: the ratio of each way to the dense network, and the way's parameters."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / f"{name}.pt"
        torch.save(half_dead(name).state_dict(), checkpoint)
        ways = {"map": None, "channel": mock.PropertyMock(return_value=False)}
        engines, sizes = [], []
        for way, patch in ways.items():
            target = "prunedeploy.passes.operators.layers.Layer.mappable"
            with mock.patch(target, patch) if patch is not None else mock.MagicMock():
                shrunk = prunedeploy.shrink(checkpoint, f"{folder}/{way}.onnx")
            sizes.append(shrunk.after.parameters)
            engines.append(prunedeploy.build(shrunk.model, output=f"{folder}/{way}").path)
        result = prunedeploy.bench(engines, rounds=rounds, threads=threads, batch=batch)
    cells = [
        f"{size:,} | {ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
        for size, ratio in zip(sizes, result.ratios, strict=True)
    ]
    return f"| {name} | {batch} | {' | '.join(cells)} |"


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description="a map against a carrying channel")
    parser.add_argument("--networks", default="resnet20,resnet56,resnet18,resnet50")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    print(
        "| network | batch | parameters, map | times faster | parameters, channel | times faster |"
    )
    print("|---|---:|---:|---:|---:|---:|")
    for name in options.networks.split(","):
        print(measure(name, options.rounds, options.threads, options.batch), flush=True)


if __name__ == "__main__":
    main()
