"""The ten architectures at 64 x 64, 1,000 classes or 2, each with its structure by hand.

ResNet, MobileNetV2 and DenseNet are the package's reference networks, whose structures stand in
``tests/support/regimes.py``; the rest are written here as plainly as they can be traced.
"""

from __future__ import annotations

from collections.abc import Callable

import regimes
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peers.case import Spec
from peers.joined import conv
from peers.ledger import REGIMES, Ledger
from peers.toys import shuffle
from prunedeploy.models import by_name


class Reference(nn.Module):
    """A reference network of the package, under a module that describes it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.network = by_name(name).factory()

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.network(x)

    def describe(self, s: Ledger, image: Tensor) -> None:
        """As its family does."""
        s.network = self.network
        regimes.FAMILIES[type(self.network).__name__](s, image)


class Vgg16(nn.Module):
    """VGG-16 with BatchNorm, flattened at 2 x 2 into a classifier of two layers."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for depth, width in zip((2, 2, 3, 3, 3), (64, 128, 256, 512, 512), strict=True):
            for _ in range(depth):
                layers += [conv(inputs, width), nn.BatchNorm2d(width), nn.ReLU()]
                inputs = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.hidden, self.classifier = nn.Linear(512 * 4, 512), nn.Linear(512, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.classifier(F.relu(self.hidden(torch.flatten(self.features(x), 1))))

    def describe(self, s: Ledger, image: Tensor) -> None:
        """A chain."""
        x = image
        for k, layer in enumerate(self.features):
            if isinstance(layer, nn.Conv2d):
                x = s.layer(f"features.{k}", x, f"features.{k + 1}")
        s.head("classifier", s.layer("hidden", x))


class Excite(nn.Module):
    """Squeeze and excite with a hard sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce, self.expand = (
            conv(channels, channels // 4, 1),
            conv(channels // 4, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps to maps."""
        return x * F.hardsigmoid(self.expand(F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1)))))


class MobileBlock(nn.Module):
    """Inverted residual of MobileNetV3: up, depthwise, perhaps squeeze and excite, down."""

    def __init__(self, inputs: int, inner: int, outputs: int, kernel: int, step: int, se: bool):
        super().__init__()
        self.up, self.norm1 = conv(inputs, inner, 1, False), nn.BatchNorm2d(inner)
        self.deep = conv(inner, inner, kernel, False, stride=step, groups=inner)
        self.norm2 = nn.BatchNorm2d(inner)
        self.excite = Excite(inner) if se else nn.Identity()
        self.down, self.norm3 = conv(inner, outputs, 1, False), nn.BatchNorm2d(outputs)
        self.act: nn.Module = nn.Hardswish() if se else nn.ReLU()
        self.residual = step == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Maps to maps."""
        y = self.act(self.norm1(self.up(x)))
        y = self.excite(self.act(self.norm2(self.deep(y))))
        y = self.norm3(self.down(y))
        return x + y if self.residual else y

    def enter(self, s: Ledger, name: str, x: Tensor) -> Tensor:
        """Write the block down."""
        y = s.layer(f"{name}.up", x, f"{name}.norm1")
        s.layer(f"{name}.deep", y, f"{name}.norm2")
        if isinstance(self.excite, Excite):
            inner = s.layer(f"{name}.excite.reduce", y)
            s.layer(f"{name}.excite.expand", inner, writes=y, gate=True)
        return s.layer(f"{name}.down", y, f"{name}.norm3", writes=x if self.residual else None)


class MobileNetV3(nn.Module):
    """MobileNetV3-small, as good as: hard swish, squeeze and excite."""

    PLAN = (
        (16, 64, 24, 3, 2, False),
        (24, 72, 24, 3, 1, False),
        (24, 96, 40, 5, 2, True),
        (40, 240, 40, 5, 1, True),
        (40, 240, 40, 5, 1, True),
        (40, 120, 48, 5, 1, True),
        (48, 144, 48, 5, 1, True),
        (48, 288, 96, 5, 2, True),
        (96, 576, 96, 5, 1, True),
    )

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = conv(3, 16, 3, False, stride=2), nn.BatchNorm2d(16)
        self.blocks = nn.Sequential(*(MobileBlock(*row) for row in self.PLAN))
        self.last, self.norm2 = conv(96, 576, 1, False), nn.BatchNorm2d(576)
        self.hidden, self.classifier = nn.Linear(576, 1024), nn.Linear(1024, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.blocks(F.hardswish(self.norm(self.stem(x))))
        x = F.adaptive_avg_pool2d(F.hardswish(self.norm2(self.last(x))), 1)
        return self.classifier(F.hardswish(self.hidden(torch.flatten(x, 1))))

    def describe(self, s: Ledger, image: Tensor) -> None:
        """A stream a stage, and the inside of every block."""
        x = s.layer("stem", image, "norm")
        for k, block in enumerate(self.blocks):
            x = block.enter(s, f"blocks.{k}", x)
        x = s.layer("last", x, "norm2")
        s.head("classifier", s.layer("hidden", x))


class ShuffleUnit(nn.Module):
    """ShuffleNetV2's unit: half the channels pass, or at stride 2 all go both ways."""

    def __init__(self, inputs: int, outputs: int, step: int) -> None:
        super().__init__()
        half, read = outputs // 2, inputs if step == 2 else inputs // 2
        self.step = step
        if step == 2:
            self.side = conv(inputs, inputs, 3, False, stride=2, groups=inputs)
            self.norm0 = nn.BatchNorm2d(inputs)
            self.point, self.norm4 = conv(inputs, half, 1, False), nn.BatchNorm2d(half)
        self.one, self.norm1 = conv(read, half, 1, False), nn.BatchNorm2d(half)
        self.deep = conv(half, half, 3, False, stride=step, groups=half)
        self.norm2 = nn.BatchNorm2d(half)
        self.two, self.norm3 = conv(half, half, 1, False), nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        """Maps to maps."""
        if self.step == 2:
            left, right = F.relu(self.norm4(self.point(self.norm0(self.side(x))))), x
        else:
            left, right = x.chunk(2, 1)
        right = self.norm2(self.deep(F.relu(self.norm1(self.one(right)))))
        right = F.relu(self.norm3(self.two(right)))
        return shuffle(torch.cat([left, right], 1))

    def enter(self, s: Ledger, name: str, x: Tensor) -> Tensor:
        """Write the unit down. The depthwise convolution at the side shares what it reads."""
        left, right = (x, x) if self.step == 2 else x.chunk(2)
        if self.step == 2:
            s.layer(f"{name}.side", x, f"{name}.norm0", sole=False)
            left = s.layer(f"{name}.point", x, f"{name}.norm4")
        right = s.layer(f"{name}.one", right, f"{name}.norm1")
        s.layer(f"{name}.deep", right, f"{name}.norm2")
        right = s.layer(f"{name}.two", right, f"{name}.norm3")
        return torch.cat([left, right]).reshape(2, -1).T.reshape(-1)


class ShuffleNetV2(nn.Module):
    """ShuffleNetV2 x1.0."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = conv(3, 24, 3, False, stride=2), nn.BatchNorm2d(24)
        units, inputs = [], 24
        for depth, width in ((4, 116), (8, 232), (4, 464)):
            for k in range(depth):
                units.append(ShuffleUnit(inputs, width, 1 if k else 2))
                inputs = width
        self.units = nn.Sequential(*units)
        self.last, self.norm2 = conv(464, 1024, 1, False), nn.BatchNorm2d(1024)
        self.classifier = nn.Linear(1024, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.units(F.max_pool2d(F.relu(self.norm(self.stem(x))), 3, 2, 1))
        x = F.adaptive_avg_pool2d(F.relu(self.norm2(self.last(x))), 1)
        return self.classifier(torch.flatten(x, 1))

    def describe(self, s: Ledger, image: Tensor) -> None:
        """Concatenations and shuffles are orders of numbers."""
        x = s.layer("stem", image, "norm")
        for k, unit in enumerate(self.units):
            x = unit.enter(s, f"units.{k}", x)
        s.head("classifier", s.layer("last", x, "norm2"))


class Double(nn.Module):
    """Two convolutions with BatchNorm and ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.one, self.norm1 = conv(inputs, outputs, bias=False), nn.BatchNorm2d(outputs)
        self.two, self.norm2 = conv(outputs, outputs, bias=False), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Maps to maps."""
        return F.relu(self.norm2(self.two(F.relu(self.norm1(self.one(x))))))

    @staticmethod
    def enter(s: Ledger, name: str, x: Tensor) -> Tensor:
        """Write the two down."""
        return s.layer(f"{name}.two", s.layer(f"{name}.one", x, f"{name}.norm1"), f"{name}.norm2")


class UNet(nn.Module):
    """A U-Net of three levels, 32 channels at the top."""

    WIDTHS = (32, 64, 128, 256)

    def __init__(self) -> None:
        super().__init__()
        pairs = list(zip((3, *self.WIDTHS), self.WIDTHS, strict=False))
        self.down = nn.ModuleList(Double(a, b) for a, b in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2) for a, b in pairs[:0:-1])
        self.join = nn.ModuleList(Double(2 * a, a) for a, _ in pairs[:0:-1])
        self.head = conv(32, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Images to maps of 2 classes."""
        skips: list[Tensor] = []
        for k, layer in enumerate(self.down):
            x = layer(F.max_pool2d(x, 2) if k else x)
            skips.append(x)
        skips.pop()
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([skips.pop(), up(x)], 1))
        return self.head(x)

    def describe(self, s: Ledger, image: Tensor) -> None:
        """Skips are concatenated before what comes from below."""
        x, skips = image, []
        for k in range(4):
            x = Double.enter(s, f"down.{k}", x)
            skips.append(x)
        skips.pop()
        for k in range(3):
            x = torch.cat([skips.pop(), s.layer(f"up.{k}", x)])
            x = Double.enter(s, f"join.{k}", x)
        s.head("head", x)


class VitBlock(nn.Module):
    """Three heads of 64, one linear layer for queries, keys and values; an MLP of 768."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(192), nn.LayerNorm(192)
        self.qkv, self.out = nn.Linear(192, 576), nn.Linear(192, 192)
        self.up, self.down = nn.Linear(192, 768), nn.Linear(768, 192)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 65, 192] to the same."""
        n, t, c = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(n, t, 3, 3, 64).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(y.transpose(1, 2).reshape(n, t, c))
        return x + self.down(F.gelu(self.up(self.norm2(x))))

    @staticmethod
    def enter(s: Ledger, name: str, x: Tensor) -> None:
        """A head is one number: it dies as a whole. The stream stays, its norms read all of it."""
        heads = s.new(3).repeat_interleave(64)
        s.layer(f"{name}.qkv", x, writes=heads.repeat(3))
        s.layer(f"{name}.out", heads, writes=x)
        s.layer(f"{name}.down", s.layer(f"{name}.up", x), writes=x)


class Vit(nn.Module):
    """ViT-tiny on patches of 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 192, 8, 8)
        self.token = nn.Parameter(torch.zeros(1, 1, 192))
        self.position = nn.Parameter(torch.zeros(1, 65, 192))
        self.blocks = nn.Sequential(*(VitBlock() for _ in range(12)))
        self.norm, self.classifier = nn.LayerNorm(192), nn.Linear(192, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.classifier(self.norm(self.blocks(x))[:, 0])

    def describe(self, s: Ledger, image: Tensor) -> None:
        """Heads and neurons of every block."""
        x = s.layer("patch", image, writes=s.new(192, mortal=False))
        for k in range(12):
            VitBlock.enter(s, f"blocks.{k}", x)
        s.head("classifier", x)


class NextBlock(nn.Module):
    """ResNeXt's bottleneck: 32 groups."""

    def __init__(self, inputs: int, inner: int, step: int) -> None:
        super().__init__()
        outputs = 2 * inner
        self.one, self.norm1 = conv(inputs, inner, 1, False), nn.BatchNorm2d(inner)
        self.two = conv(inner, inner, 3, False, stride=step, groups=32)
        self.norm2 = nn.BatchNorm2d(inner)
        self.three, self.norm3 = conv(inner, outputs, 1, False), nn.BatchNorm2d(outputs)
        self.wider = inputs != outputs
        if self.wider:
            self.short = conv(inputs, outputs, 1, False, stride=step)
            self.norm4 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Maps to maps."""
        y = F.relu(self.norm2(self.two(F.relu(self.norm1(self.one(x))))))
        short = self.norm4(self.short(x)) if self.wider else x
        return F.relu(self.norm3(self.three(y)) + short)

    def enter(self, s: Ledger, name: str, x: Tensor) -> Tensor:
        """Write the block down."""
        out = s.layer(f"{name}.short", x, f"{name}.norm4") if self.wider else x
        y = s.layer(f"{name}.two", s.layer(f"{name}.one", x, f"{name}.norm1"), f"{name}.norm2")
        return s.layer(f"{name}.three", y, f"{name}.norm3", writes=out)


class ResNext50(nn.Module):
    """ResNeXt-50 32x4d; how many die differs from group to group."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        blocks, inputs = [], 64
        for stage, depth in enumerate((3, 4, 6, 3)):
            for k in range(depth):
                blocks.append(NextBlock(inputs, 128 << stage, 2 if stage and not k else 1))
                inputs = 256 << stage
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(2048, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.blocks(F.max_pool2d(F.relu(self.norm(self.stem(x))), 3, 2, 1))
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))

    def describe(self, s: Ledger, image: Tensor) -> None:
        """A stream a stage."""
        x = s.layer("stem", image, "norm")
        for k, block in enumerate(self.blocks):
            x = block.enter(s, f"blocks.{k}", x)
        s.head("classifier", x)


def _at_64(name: str, factory: Callable[[], nn.Module]) -> Spec:
    return Spec(name, factory, REGIMES, ((2, 3, 64, 64),))


ARCHITECTURES = (
    _at_64("ResNet-18", lambda: Reference("resnet18")),
    _at_64("ResNet-50", lambda: Reference("resnet50")),
    _at_64("VGG16-BN", Vgg16),
    _at_64("MobileNetV2", lambda: Reference("mobilenet_v2")),
    _at_64("MobileNetV3-like, SE", MobileNetV3),
    _at_64("DenseNet-121", lambda: Reference("densenet121")),
    _at_64("ShuffleNetV2", ShuffleNetV2),
    _at_64("U-Net", UNet),
    _at_64("ViT-tiny", Vit),
    _at_64("ResNeXt-50", ResNext50),
)
