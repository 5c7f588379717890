"""Micro-patterns where values meet: adds, concatenations, branches, shared weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peers.ledger import Ledger
from peers.toys import DEAD, WIDTH


def conv(
    inputs: int, outputs: int, kernel: int = 3, bias: bool = True, **options: int
) -> nn.Conv2d:
    """A convolution that keeps the size of the map."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias, **options)


class Residual(nn.Module):
    """x + f(x) between a stem and a head; ``branch``: what dies is all of f."""

    def __init__(self, branch: bool = False) -> None:
        super().__init__()
        self.stem, self.norm = conv(3, WIDTH, bias=False), nn.BatchNorm2d(WIDTH)
        self.one, self.norm1 = conv(WIDTH, WIDTH, bias=False), nn.BatchNorm2d(WIDTH)
        self.two, self.norm2 = conv(WIDTH, WIDTH, bias=False), nn.BatchNorm2d(WIDTH)
        self.head = conv(WIDTH, 8)
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        """Images to maps of 8 channels."""
        x = F.relu(self.norm(self.stem(x)))
        y = self.norm2(self.two(F.relu(self.norm1(self.one(x)))))
        return self.head(F.relu(x + y))

    def describe(self, s: Ledger, image: Tensor) -> Tensor:
        """The stream is one set of channels."""
        x = s.layer("stem", image, "norm")
        y = s.layer("one", x, "norm1")
        # the last layer of a dead branch writes nothing: its rows are channels of their own
        end = s.layer("two", y, "norm2", writes=None if self.branch else x)
        s.head("head", x)
        return torch.cat([y, end]) if self.branch else torch.cat([x[list(DEAD)], y[list(DEAD)]])


class Concat(nn.Module):
    """Two convolutions side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = conv(3, WIDTH), conv(3, WIDTH, 1)
        self.head = conv(2 * WIDTH, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Images to maps of 8 channels."""
        return self.head(torch.cat([F.relu(self.left(x)), F.relu(self.right(x))], 1))

    def describe(self, s: Ledger, image: Tensor) -> Tensor:
        """A concatenation of numbers."""
        left, right = s.layer("left", image), s.layer("right", image)
        s.head("head", torch.cat([left, right]))
        return torch.cat([left[list(DEAD)], right[[0, 2, 3]]])


class Inception(nn.Module):
    """Four branches, one of them pooled, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, WIDTH)
        self.one = conv(WIDTH, 8, 1)
        self.reduce, self.three = conv(WIDTH, 8, 1), conv(8, WIDTH)
        self.reduce5, self.five = conv(WIDTH, 4, 1), conv(4, 8, 5)
        self.pooled = conv(WIDTH, 8, 1)
        self.head = conv(40, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Images to maps of 8 channels."""
        x = F.relu(self.stem(x))
        three = self.three(F.relu(self.reduce(x)))
        five = self.five(F.relu(self.reduce5(x)))
        pooled = self.pooled(F.max_pool2d(x, 3, 1, 1))
        return self.head(F.relu(torch.cat([self.one(x), three, five, pooled], 1)))

    def describe(self, s: Ledger, image: Tensor) -> None:
        """A fraction of every branch."""
        x = s.layer("stem", image)
        branches = [
            s.layer("one", x),
            s.layer("three", s.layer("reduce", x)),
            s.layer("five", s.layer("reduce5", x)),
            s.layer("pooled", x),
        ]
        s.head("head", torch.cat(branches))


class Dense(nn.Module):
    """Three dense layers: each reads, through a norm of its own, all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, WIDTH)
        self.norms = nn.ModuleList(nn.BatchNorm2d(WIDTH + 8 * k) for k in range(4))
        self.convs = nn.ModuleList(conv(WIDTH + 8 * k, 8, bias=False) for k in range(3))
        self.head = nn.Linear(WIDTH + 24, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Images to 8 features."""
        x = self.stem(x)
        for norm, layer in zip(self.norms, self.convs, strict=False):
            x = torch.cat([x, layer(F.relu(norm(x)))], 1)
        x = F.relu(self.norms[3](x))
        return self.head(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))

    def describe(self, s: Ledger, image: Tensor) -> None:
        """A fraction of what every layer adds."""
        x = s.layer("stem", image)
        for k in range(3):
            s.free_norm(f"norms.{k}", x)
            x = torch.cat([x, s.layer(f"convs.{k}", x)])
        s.free_norm("norms.3", x)
        s.head("head", x)


class Rep(nn.Module):
    """RepVGG as it is trained: 3x3, 1x1 and identity, each with its BatchNorm, added up."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = conv(3, WIDTH, bias=False), nn.BatchNorm2d(WIDTH)
        self.three, self.norm3 = conv(WIDTH, WIDTH, bias=False), nn.BatchNorm2d(WIDTH)
        self.one, self.norm1 = conv(WIDTH, WIDTH, 1, bias=False), nn.BatchNorm2d(WIDTH)
        self.norm0 = nn.BatchNorm2d(WIDTH)
        self.head = conv(WIDTH, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Images to maps of 8 channels."""
        x = F.relu(self.norm(self.stem(x)))
        y = self.norm3(self.three(x)) + self.norm1(self.one(x)) + self.norm0(x)
        return self.head(F.relu(y))

    def describe(self, s: Ledger, image: Tensor) -> Tensor:
        """The identity makes one set of channels of what goes in and what comes out."""
        x = s.layer("stem", image, "norm")
        for name, norm in (("three", "norm3"), ("one", "norm1")):
            s.layer(name, x, norm, writes=x)
        s.free_norm("norm0", x)
        s.head("head", x)
        return x[list(DEAD)]


class Inverted(nn.Module):
    """MobileNet's inverted residual: 1x1 up, depthwise, 1x1 down, added."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, WIDTH)
        self.up, self.norm1 = conv(WIDTH, 32, 1, bias=False), nn.BatchNorm2d(32)
        self.deep, self.norm2 = conv(32, 32, bias=False, groups=32), nn.BatchNorm2d(32)
        self.down, self.norm3 = conv(32, WIDTH, 1, bias=False), nn.BatchNorm2d(WIDTH)
        self.head = conv(WIDTH, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Images to maps of 8 channels."""
        x = self.stem(x)
        y = F.relu6(self.norm1(self.up(x)))
        y = F.relu6(self.norm2(self.deep(y)))
        return self.head(x + self.norm3(self.down(y)))

    def describe(self, s: Ledger, image: Tensor) -> None:
        """A fraction of the stream and of the inner channels."""
        x = s.layer("stem", image)
        y = s.layer("deep", s.layer("up", x, "norm1"), "norm2")
        s.layer("down", y, "norm3", writes=x)
        s.head("head", x)


class ConvNext(nn.Module):
    """ConvNeXt's block; its norm over all channels keeps the stream, its neurons may die."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, WIDTH)
        self.deep = conv(WIDTH, WIDTH, 7, groups=WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 64), nn.Linear(64, WIDTH)
        self.scale = nn.Parameter(torch.ones(WIDTH))
        self.head = conv(WIDTH, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Images to maps of 8 channels."""
        x = self.stem(x)
        y = self.norm(self.deep(x).permute(0, 2, 3, 1))
        y = self.scale * self.down(F.gelu(self.up(y)))
        return self.head(x + y.permute(0, 3, 1, 2))

    def describe(self, s: Ledger, image: Tensor) -> Tensor:
        """A quarter of the neurons."""
        x = s.layer("stem", image)
        y = s.layer("up", s.layer("deep", x))
        s.layer("down", y, writes=x)
        s.head("head", x)
        return y[::4]


class Skip(nn.Module):
    """A U-Net of one level: down, a transposed convolution up, concatenated with the skip."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.bottom = conv(3, WIDTH), conv(WIDTH, 32)
        self.up = nn.ConvTranspose2d(32, WIDTH, 2, stride=2)
        self.join, self.head = conv(2 * WIDTH, WIDTH), conv(WIDTH, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Images to maps of 8 channels."""
        x = F.relu(self.down(x))
        y = F.relu(self.bottom(F.max_pool2d(x, 2)))
        return self.head(F.relu(self.join(torch.cat([x, F.relu(self.up(y))], 1))))

    def describe(self, s: Ledger, image: Tensor) -> None:
        """A fraction of everything."""
        x = s.layer("down", image)
        y = s.layer("up", s.layer("bottom", x))
        s.head("head", s.layer("join", torch.cat([x, y])))


class Siamese(nn.Module):
    """One pair of convolutions, run on two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = conv(3, WIDTH), conv(WIDTH, WIDTH)
        self.head = conv(WIDTH, 8)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Two batches of images to one of maps of 8 channels."""
        left = F.relu(self.two(F.relu(self.one(left))))
        right = F.relu(self.two(F.relu(self.one(right))))
        return self.head(left - right)

    def describe(self, s: Ledger, image: Tensor) -> Tensor:
        """Weights are counted once."""
        x = s.layer("one", image)
        y = s.layer("two", x)
        s.head("head", y)
        return torch.cat([x[list(DEAD)], y[list(DEAD)]])


class Many(nn.Module):
    """Two inputs and two outputs, one of which leaves in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = conv(3, WIDTH), conv(3, WIDTH)
        self.one, self.two = conv(WIDTH, 8), conv(2 * WIDTH, 8)

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Two batches of images to two batches of maps of 8 channels."""
        left, right = F.relu(self.left(left)), F.relu(self.right(right))
        return self.one(left), self.two(torch.cat([left, right], 1))

    def describe(self, s: Ledger, image: Tensor) -> Tensor:
        """Both outputs keep all their channels."""
        left, right = s.layer("left", image), s.layer("right", image)
        s.head("one", left)
        s.head("two", torch.cat([left, right]))
        return torch.cat([left[list(DEAD)], right[list(DEAD)]])
