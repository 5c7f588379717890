"""Networks with an operator that the sparse runtime lacks, with scattered zeros, as ONNX.

Zeros and weights are as in ``cpu_models.py``: the least weights of every convolution and linear
layer but the first and the last. Recurrent and three-dimensional layers stay dense.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cpu_models
import torch
from torch import Tensor, nn

from prunedeploy.graph import model as models
from prunedeploy.shrinking.export import to_model


def conv(into: int, out: int, stride: int = 1, padding_mode: str = "zeros") -> nn.Sequential:
    """A 3x3 convolution with BatchNorm and ReLU."""
    layer = nn.Conv2d(into, out, 3, stride, 1, bias=False, padding_mode=padding_mode)
    return nn.Sequential(layer, nn.BatchNorm2d(out), nn.ReLU())


def stack(into: int, *widths: int) -> nn.Sequential:
    """Pairs of convolutions, each pair on half the rows and columns."""
    pairs = []
    for width in widths:
        pairs += [conv(into, width, 2), conv(width, width)]
        into = width
    return nn.Sequential(*pairs)


class UNet(nn.Module):
    """Two levels down and up again; the padding is circular, a Pad before every convolution."""

    def __init__(self) -> None:
        super().__init__()

        def pair(into: int, out: int, stride: int) -> nn.Sequential:
            return nn.Sequential(conv(into, out, stride, "circular"), conv(out, out, 1, "circular"))

        self.down = nn.ModuleList([pair(3, 32, 1), pair(32, 64, 2), pair(64, 128, 2)])
        self.up = nn.ModuleList([pair(192, 64, 1), pair(96, 32, 1)])
        self.head = nn.Conv2d(32, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, 8, H, W)."""
        kept = []
        for level in self.down:
            x = level(x)
            kept.append(x)
        for level, skip in zip(self.up, kept[-2::-1], strict=True):
            x = level(torch.cat([nn.functional.interpolate(x, scale_factor=2), skip], 1))
        y: Tensor = self.head(x)
        return y


class Recurrent(nn.Module):
    """Reads text: convolutions, then an LSTM or GRU along the columns."""

    def __init__(self, kind: type[nn.LSTM | nn.GRU]) -> None:
        super().__init__()
        self.features = nn.Sequential(conv(3, 64), stack(64, 128, 128), conv(128, 256))
        self.steps = kind(256, 64, batch_first=True, bidirectional=True)
        self.head = nn.Linear(128, 40)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 32, W) to (N, W / 4, 40)."""
        y: Tensor = self.head(self.steps(self.features(x).mean(2).transpose(1, 2))[0])
        return y


class Scattered(nn.Module):
    """Overwrites some rows of the features in the middle of the network: ScatterND."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = stack(3, 64, 128), stack(128, 256, 256)
        self.register_buffer("rows", torch.tensor([3, 7, 11]))
        self.head = nn.Linear(256, 100)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, 100)."""
        x = self.before(x)
        x = x.index_copy(2, self.rows, x[:, :, :3] * 0.5)
        y: Tensor = self.head(self.after(x).mean((2, 3)))
        return y


class Volume(nn.Module):
    """Slices of a volume as channels of a 2-D network, then a convolution over three axes."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(conv(16, 64), stack(64, 128, 256))
        self.volume = nn.Conv3d(16, 8, 3, padding=1)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 16, H, W) to (N, 10)."""
        x = self.volume(self.features(x).unflatten(1, (16, 16))).relu()
        y: Tensor = self.head(x.mean((2, 3, 4)))
        return y


class Detector(nn.Module):
    """A dense head over every place, of which the best 50 are taken: TopK and gathers."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(stack(3, 32, 64, 128), conv(128, 128))
        self.score, self.box = nn.Conv2d(128, 1, 1), nn.Conv2d(128, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, 50, 5)."""
        x = self.features(x)
        scores, best = self.score(x).flatten(1).sigmoid().topk(50)
        boxes = self.box(x).flatten(2).gather(2, best.unsqueeze(1).expand(-1, 4, -1))
        return torch.cat([scores.unsqueeze(1), boxes], 1).transpose(1, 2)


class Transformed(nn.Module):
    """A spatial transformer: GridSample between two stacks of convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = stack(3, 64, 128), stack(128, 256, 256)
        self.where, self.head = nn.Linear(128, 6), nn.Linear(256, 100)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, 100)."""
        x = self.before(x)
        theta = self.where(x.mean((2, 3))).tanh().unflatten(1, (2, 3))
        grid = torch.linspace(-1, 1, x.shape[-1])
        rows, columns = torch.meshgrid(grid, grid, indexing="ij")
        base = torch.stack([columns, rows, torch.ones_like(rows)], -1)
        places = torch.einsum("hwk,njk->nhwj", base, theta)
        x = nn.functional.grid_sample(x, places, align_corners=True)
        y: Tensor = self.head(self.after(x).mean((2, 3)))
        return y


class Thinned(nn.Module):
    """A transformer that keeps the better half of its tokens in the middle: TopK and a gather."""

    def __init__(self, width: int = 384) -> None:
        super().__init__()
        self.before, self.after = (
            nn.Sequential(*(cpu_models.EncoderLayer(width, 6, 4 * width) for _ in range(2)))
            for _ in range(2)
        )
        self.score = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, S, D) to (N, S / 2, D)."""
        x = self.before(x)
        best = self.score(x).squeeze(-1).topk(x.shape[1] // 2).indices
        x = x.gather(1, best.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
        y: Tensor = self.after(x)
        return y


@dataclass(frozen=True)
class Network:
    """A row of ``NETWORKS``: what the sparse runtime lacks, one sample's shape, the network."""

    lacks: str
    shape: tuple[int, ...]
    make: Callable[[], nn.Module]


NETWORKS: dict[str, Network] = {
    "crnn": Network("LSTM", (3, 32, 160), lambda: Recurrent(nn.LSTM)),
    "gru": Network("GRU", (3, 32, 160), lambda: Recurrent(nn.GRU)),
    "unet": Network("circular padding", (3, 96, 96), UNet),
    "scatter": Network("ScatterND", (3, 96, 96), Scattered),
    "volume": Network("Conv over 3 axes", (16, 48, 48), Volume),
    "detector": Network("TopK, GatherElements", (3, 160, 160), Detector),
    "stn": Network("GridSample", (3, 96, 96), Transformed),
    "thinned": Network("TopK, GatherElements", (128, 384), Thinned),
}


def write(name: str, sparsity: float, path: Path) -> None:
    """Export a network whose batch is open."""
    network = NETWORKS[name]
    torch.manual_seed(0)
    with torch.no_grad():
        module = network.make()
        cpu_models.prune(cpu_models.layers_of(module)[1:-1], sparsity)
        cpu_models.calibrate(module, network.shape)
    program = to_model(module, (1, *network.shape))
    cpu_models.simplify(program)
    models.save(program, path)
