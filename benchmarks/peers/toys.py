"""Micro-patterns with one operator of interest between two layers, or inside the first one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peers.ledger import Ledger

WIDTH = 16
DEAD = (1, 5, 10, 14)  # one in each quarter
UNEVEN = (1, 3, 5, 10)  # three in one half, one in the other


class Between(nn.Module):
    """``before`` -> ``operator`` -> ``after``, 16 channels between, which the operator keeps."""

    def __init__(
        self,
        operator: nn.Module | Callable[[Tensor], Tensor],
        kernel: int = 3,
        norm: bool = False,
        padding: int | None = None,
        tail: int = WIDTH,
        dead: tuple[int, ...] = DEAD,
        normalised: bool = False,
    ) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.norm = nn.BatchNorm2d(WIDTH) if norm else nn.Identity()
        self.operator = operator
        padding = kernel // 2 if padding is None else padding
        self.after = nn.Conv2d(tail, 8, kernel, padding=padding)
        self.tail, self.dead, self.normalised = tail, dead, normalised

    def forward(self, x: Tensor) -> Tensor:
        """Images to maps of 8 channels."""
        return self.after(self.operator(self.norm(self.before(x))))

    def describe(self, s: Ledger, image: Tensor) -> Tensor:
        """Channels of the operator; where it has fewer, one stands for several before it."""
        x = s.layer("before", image, "norm" if isinstance(self.norm, nn.BatchNorm2d) else "")
        if self.normalised:
            s.free_norm(f"operator.{self.operator.inner}", x)
        s.head("after", x[:: WIDTH // self.tail] if self.tail > 1 else s.new(1, mortal=False))
        return x[list(self.dead)]


class Flat(nn.Module):
    """Two convolutions, flattened to a linear layer."""

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.norm = nn.BatchNorm2d(WIDTH) if norm else nn.Identity()
        self.after = nn.Linear(WIDTH * 64, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Images to 8 features."""
        return self.after(torch.flatten(F.relu(self.norm(self.before(x))), 1))

    def describe(self, s: Ledger, image: Tensor) -> Tensor:
        """One channel is 64 features."""
        x = s.layer("before", image, "norm" if isinstance(self.norm, nn.BatchNorm2d) else "")
        s.head("after", x)
        return x[list(DEAD)]


class Split(nn.Module):
    """Two readers, each of one half of the channels as ``parts`` cuts them."""

    def __init__(
        self, parts: Callable[[Tensor], tuple[Tensor, Tensor]], ids: str, dead: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.left = nn.Conv2d(WIDTH // 2, 8, 3, padding=1)
        self.right = nn.Conv2d(WIDTH // 2, 8, 1)
        self.parts, self.ids, self.dead = parts, ids, dead

    def forward(self, x: Tensor) -> Tensor:
        """Images to maps of 8 channels."""
        left, right = self.parts(F.relu(self.before(x)))
        return self.left(left) + self.right(right)

    def describe(self, s: Ledger, image: Tensor) -> Tensor:
        """Halves one behind the other, or one channel each in turn."""
        x = s.layer("before", image)
        halves = (x[::2], x[1::2]) if self.ids == "in turn" else x.chunk(2)
        out = s.new(8, mortal=False)
        for name, half in zip(("left", "right"), halves, strict=True):
            s.layer(name, half, writes=out)
        return x[list(self.dead)]


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """``torch.chunk``."""
    left, right = x.chunk(2, 1)
    return left, right


def in_turn(x: Tensor) -> tuple[Tensor, Tensor]:
    """Slices of step 2."""
    return x[:, ::2], x[:, 1::2]


def shuffle(x: Tensor) -> Tensor:
    """Channels of two groups in turn, as ShuffleNet does."""
    n, c, h, w = x.shape
    return x.reshape(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class Shuffled(nn.Module):
    """A channel shuffle between two convolutions."""

    def __init__(self, dead: tuple[int, ...] = DEAD) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.after = nn.Conv2d(WIDTH, 8, 3, padding=1)
        self.dead = dead

    def forward(self, x: Tensor) -> Tensor:
        """Images to maps of 8 channels."""
        return self.after(shuffle(F.relu(self.before(x))))

    def describe(self, s: Ledger, image: Tensor) -> Tensor:
        """The reader has them in another order."""
        x = s.layer("before", image)
        s.head("after", x.reshape(2, -1).T.reshape(-1))
        return x[list(self.dead)]


class Middle(nn.Module):
    """``before`` -> a layer of interest with 16 channels on both sides -> ``after``.

    ``sides``: with "rows", what dies is zero in the layer itself and not before it.
    """

    def __init__(
        self,
        layer: nn.Module,
        reads: tuple[int, ...] = (),
        writes: tuple[int, ...] = (),
        sides: str = "both",
    ) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.layer = layer
        self.after = nn.Conv2d(WIDTH, 8, 3, padding=1)
        self.reads, self.writes, self.sides = reads or DEAD, writes or DEAD, sides

    def forward(self, x: Tensor) -> Tensor:
        """Images to maps of 8 channels."""
        return self.after(F.relu(self.layer(F.relu(self.before(x)))))

    def describe(self, s: Ledger, image: Tensor) -> Tensor:
        """Dead on both sides of the layer; a depthwise one has the same on both."""
        x = s.layer("before", image, live=self.sides == "rows")
        y = s.layer("layer", x)
        s.head("after", y)
        return torch.cat([x[list(self.reads)], y[list(self.writes)]])


class Squeeze(nn.Module):
    """Squeeze and excite: the mean of every channel decides how much of it goes on."""

    def __init__(self, channels: int = WIDTH, inner: int = 4) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, inner, 1)
        self.expand = nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps to maps."""
        gate = self.expand(F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1))))
        return x * torch.sigmoid(gate)

    def enter(self, s: Ledger, name: str, x: Tensor, live: bool) -> None:
        """Write the two layers down."""
        inner = s.layer(f"{name}.reduce", x)
        s.layer(f"{name}.expand", inner, writes=x, gate=True, live=live)


class Excited(nn.Module):
    """Squeeze and excite between two convolutions; gates of dead channels may be ``live``."""

    def __init__(self, live: bool = False) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.squeeze, self.live = Squeeze(), live
        self.after = nn.Conv2d(WIDTH, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Images to maps of 8 channels."""
        return self.after(self.squeeze(F.relu(self.before(x))))

    def describe(self, s: Ledger, image: Tensor) -> Tensor:
        """The gate of a dead channel goes with it."""
        x = s.layer("before", image)
        self.squeeze.enter(s, "squeeze", x, self.live)
        s.head("after", x)
        return x[list(DEAD)]


class Wrapped(nn.Module):
    """A function, or a norm of channels last, as a module; ``inner`` is the norm's name."""

    inner = "norm"

    def __init__(self, norm: nn.Module, last: bool = False) -> None:
        super().__init__()
        self.norm, self.last = norm, last

    def forward(self, x: Tensor) -> Tensor:
        """Maps to maps."""
        if self.last:
            return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.norm(x)


class Mean(nn.Module):
    """The mean over all channels, as one map."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps to a map."""
        return x.mean(1, keepdim=True)
