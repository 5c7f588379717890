"""Networks as people write them themselves: recurrent ones, detectors, U-Nets; random weights."""

# ruff: noqa: D102 -- a forward does what its class says
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from operators_network import IMAGE, Network
from torch import Tensor, nn
from torch.nn import functional as F


def _net(module: nn.Module, *shape: int) -> Network:
    return Network(module, (torch.randn(shape),), ("input",))


def _tokens(module: nn.Module, *shape: int) -> Network:
    return Network(module, (torch.randint(0, 50, shape),), ("tokens",))


class Recurrent(nn.Module):
    """A recurrent layer, or several, over features, and a linear layer on what it gives."""

    def __init__(self, kind: type[nn.RNNBase], last: bool = False, **options: Any) -> None:
        super().__init__()
        self.layer = kind(20, 24, batch_first=True, **options)
        sides = 2 if options.get("bidirectional") else 1
        self.linear = nn.Linear(sides * (options.get("proj_size") or 24), 10)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.layer(x)
        return self.linear(y[:, -1] if self.last else y)


class Speech(nn.Module):
    """As DeepSpeech 2: convolutions over a spectrogram, GRUs in both directions, CTC's scores."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(
            nn.Conv2d(1, 8, (11, 5), (2, 2), (5, 2)), nn.BatchNorm2d(8), nn.Hardtanh(0, 20),
            nn.Conv2d(8, 8, (11, 5), (1, 2), (5, 2)), nn.BatchNorm2d(8), nn.Hardtanh(0, 20),
        )  # fmt: skip
        self.layers = nn.GRU(8 * 10, 32, 2, bidirectional=True)
        self.linear = nn.Linear(64, 29)

    def forward(self, x: Tensor) -> Tensor:
        y = self.front(x[:, None])
        n, c, t, f = y.shape
        y = y.permute(2, 0, 1, 3).reshape(t, n, c * f)
        y, _ = self.layers(y)
        return self.linear(y).log_softmax(-1)


class Text(nn.Module):
    """A convolutional recurrent network that reads a line of text."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(
            nn.Conv2d(1, 8, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, 1, 1), nn.ReLU(), nn.MaxPool2d((2, 1)),
        )  # fmt: skip
        self.layer = nn.LSTM(16, 24, bidirectional=True)
        self.linear = nn.Linear(48, 12)

    def forward(self, x: Tensor) -> Tensor:
        y = self.front(x).mean(2).permute(2, 0, 1)
        return self.linear(self.layer(y)[0])


class LanguageModel(nn.Module):
    """Embeddings, an LSTM that goes on from given states, scores; the states come back."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 20)
        self.layer = nn.LSTM(20, 24, 2, batch_first=True)
        self.linear = nn.Linear(24, 50)

    def forward(self, tokens: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, (h, c) = self.layer(self.table(tokens), (h, c))
        return self.linear(y), h, c


class Cells(nn.Module):
    """An LSTM cell in a loop that torch unrolls."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.linear = nn.LSTMCell(20, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = c = torch.zeros(x.shape[0], 24)
        for t in range(6):
            h, c = self.cell(x[:, t], (h, c))
        return self.linear(h)


class Attend(nn.Module):
    """torch's own transformer, with a causal mask."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 48, batch_first=True, **options)
        self.layers = nn.TransformerEncoder(layer, 2)
        self.linear = nn.Linear(32, 50)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        return self.linear(self.layers(self.table(tokens), mask, is_causal=True))


class Blocks(nn.Sequential):
    """Two convolutions of a U-Net."""

    def __init__(self, ins: int, outs: int, volume: bool = False, mode: str = "zeros") -> None:
        conv, norm = (nn.Conv3d, nn.BatchNorm3d) if volume else (nn.Conv2d, nn.BatchNorm2d)
        super().__init__(
            conv(ins, outs, 3, padding=1, padding_mode=mode), norm(outs), nn.ReLU(),
            conv(outs, outs, 3, padding=1, padding_mode=mode), norm(outs), nn.ReLU(),
        )  # fmt: skip


class UNet(nn.Module):
    """Two levels; upsampled by a transposed convolution or by interpolation."""

    def __init__(self, up: str = "conv", volume: bool = False, mode: str = "zeros") -> None:
        super().__init__()
        self.pool = nn.MaxPool3d(2) if volume else nn.MaxPool2d(2)
        self.down = nn.ModuleList(
            [Blocks(3, 8, volume, mode), Blocks(8, 16, volume, mode), Blocks(16, 32, volume, mode)]
        )
        transposed = nn.ConvTranspose3d if volume else nn.ConvTranspose2d

        def upsample(ins: int, outs: int) -> nn.Module:
            if up == "conv":
                return transposed(ins, outs, 2, 2)
            conv = nn.Conv3d if volume else nn.Conv2d
            options = {} if up == "nearest" else {"align_corners": True}
            return nn.Sequential(
                nn.Upsample(scale_factor=2, mode=up, **options), conv(ins, outs, 1)
            )

        self.up = nn.ModuleList([upsample(32, 16), upsample(16, 8)])
        self.after = nn.ModuleList([Blocks(32, 16, volume, mode), Blocks(16, 8, volume, mode)])
        self.last = (nn.Conv3d if volume else nn.Conv2d)(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        left = []
        for level, blocks in enumerate(self.down):
            x = blocks(self.pool(x) if level else x)
            left.append(x)
        for up, after, old in zip(self.up, self.after, left[-2::-1], strict=True):
            x = after(torch.cat([up(x), old], 1))
        return self.last(x)


class Classes(nn.Module):
    """A network whose result is the best class of every pixel."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).argmax(1)


def _silu(ins: int, outs: int, kernel: int = 3, stride: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(ins, outs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outs), nn.SiLU(),
    )  # fmt: skip


class Pyramid(nn.Module):
    """As YOLO 8 and 11: stages, fast spatial pyramid pooling, attention, boxes by distribution.

    ``end`` is what follows the boxes and scores: "raw" nothing, "nms" torchvision's, "topk" the
    best by score, as YOLO 10 and 26 have it.
    """

    def __init__(self, end: str = "raw", classes: int = 6, limit: int = 5) -> None:
        super().__init__()
        self.end, self.classes, self.limit = end, classes, limit
        self.stem = nn.Sequential(_silu(3, 8, 3, 2), _silu(8, 16, 3, 2))
        self.split = _silu(16, 32, 1)
        self.inner = _silu(16, 16)
        self.join = _silu(48, 32, 1)
        self.down = _silu(32, 32, 3, 2)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.pooled = _silu(128, 32, 1)
        self.qkv, self.position = nn.Conv2d(32, 64, 1), nn.Conv2d(32, 32, 3, 1, 1, groups=32)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.merge = _silu(64, 32, 1)
        self.heads = nn.ModuleList(
            nn.ModuleList([nn.Conv2d(32, 4 * 8, 1), nn.Conv2d(32, classes, 1)]) for _ in range(2)
        )
        grids = []
        for size, stride in ((16, 4), (8, 8)):
            at = (torch.arange(size) + 0.5) * stride
            y, x = torch.meshgrid(at, at, indexing="ij")
            grids.append(torch.stack([x, y, torch.full_like(x, stride)]).flatten(1))
        self.register_buffer("anchors", torch.cat(grids, 1))
        self.register_buffer("bins", torch.arange(8.0))

    def forward(self, x: Tensor) -> Any:
        x = self.split(self.stem(x))
        a, b = x.chunk(2, 1)
        fine = self.join(torch.cat([a, b, self.inner(b)], 1))
        x = self.down(fine)
        pools = [x]
        for _ in range(3):
            pools.append(self.pool(pools[-1]))
        x = self._attend(self.pooled(torch.cat(pools, 1)))
        maps = self.merge(torch.cat([self.up(x), fine], 1)), x
        boxes = torch.cat([h[0](m).flatten(2) for h, m in zip(self.heads, maps, strict=True)], 2)
        scores = torch.cat([h[1](m).flatten(2) for h, m in zip(self.heads, maps, strict=True)], 2)
        boxes = (
            boxes.view(x.shape[0], 4, 8, -1).softmax(2).mul(self.bins[None, None, :, None]).sum(2)
        )
        low, high = boxes.chunk(2, 1)
        middle, stride = self.anchors[:2], self.anchors[2:]
        boxes = torch.cat([middle - low * stride, middle + high * stride], 1)
        return self._finish(boxes, scores.sigmoid())

    def _attend(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        q, k, v = self.qkv(x).view(n, 2, 32, h * w).split([8, 8, 16], 2)
        scores = (q.transpose(-2, -1) @ k * 8**-0.5).softmax(-1)
        y = (v @ scores.transpose(-2, -1)).view(n, 32, h, w)
        return x + y + self.position(v.reshape(n, 32, h, w))

    def _finish(self, boxes: Tensor, scores: Tensor) -> Any:
        if self.end == "raw":
            return torch.cat([boxes, scores], 1)
        if self.end == "nms":
            import torchvision

            best, label = scores[0].max(0)
            kept = torchvision.ops.nms(boxes[0].T, best, 0.5)[: self.limit]
            return boxes[0].T[kept], best[kept], label[kept]
        boxes, scores = boxes.transpose(1, 2), scores.transpose(1, 2)
        index = scores.amax(-1).topk(self.limit)[1].unsqueeze(-1)
        boxes = boxes.gather(1, index.repeat(1, 1, 4))
        scores = scores.gather(1, index.repeat(1, 1, self.classes))
        best, order = scores.flatten(1).topk(self.limit)
        row = torch.arange(boxes.shape[0])[:, None]
        labels = (order % self.classes)[..., None].float()
        return torch.cat([boxes[row, order // self.classes], best[..., None], labels], -1)


class Queries(nn.Module):
    """As DETR's demo: convolutions, torch's transformer, learned queries, boxes and classes."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(_silu(3, 16, 3, 4), _silu(16, 32, 3, 2))
        self.transformer = nn.Transformer(32, 4, 1, 1, 48, batch_first=True)
        self.query = nn.Parameter(torch.randn(7, 32))
        self.row, self.column = (nn.Parameter(torch.randn(20, 16)) for _ in range(2))
        self.classes, self.boxes = nn.Linear(32, 5), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.front(x)
        n, _, h, w = x.shape
        position = torch.cat(
            [
                self.column[:w].unsqueeze(0).repeat(h, 1, 1),
                self.row[:h].unsqueeze(1).repeat(1, w, 1),
            ],
            -1,
        ).flatten(0, 1)
        tokens = position + x.flatten(2).transpose(1, 2)
        y = self.transformer(tokens, self.query.expand(n, -1, -1))
        return self.classes(y), self.boxes(y).sigmoid()


class Style(nn.Module):
    """Style transfer: reflected borders, instance norm, residual blocks, upsampling."""

    def __init__(self) -> None:
        super().__init__()

        def block(ins: int, outs: int, kernel: int, stride: int = 1) -> nn.Module:
            return nn.Sequential(
                nn.ReflectionPad2d(kernel // 2), nn.Conv2d(ins, outs, kernel, stride),
                nn.InstanceNorm2d(outs, affine=True), nn.ReLU(),
            )  # fmt: skip

        self.down = nn.Sequential(block(3, 8, 9), block(8, 16, 3, 2))
        self.middle = block(16, 16, 3)
        self.up = nn.Upsample(scale_factor=2)
        self.last = nn.Sequential(block(16, 8, 3), nn.ReflectionPad2d(4), nn.Conv2d(8, 3, 9))

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        return self.last(self.up(x + self.middle(x)))


class Zoom(nn.Module):
    """Super-resolution: pixel shuffle, and the bicubic image added."""

    def __init__(self, mode: str = "bicubic", **options: Any) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, 1, 1), nn.PReLU(), nn.Conv2d(16, 12, 3, 1, 1), nn.PixelShuffle(2)
        )
        self.how = {"mode": mode, "scale_factor": 2, "align_corners": False, **options}

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) + F.interpolate(x, **self.how)


class Warp(nn.Module):
    """A spatial transformer network."""

    def __init__(self) -> None:
        super().__init__()
        self.find = nn.Sequential(
            nn.Conv2d(3, 8, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
            nn.Linear(128, 6), nn.Tanh(),
        )  # fmt: skip
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 5)
        )

    def forward(self, x: Tensor) -> Tensor:
        grid = F.affine_grid(self.find(x).view(-1, 2, 3), list(x.shape), align_corners=False)
        return self.layers(F.grid_sample(x, grid, align_corners=False))


class Unfolded(nn.Module):
    """Local attention by unfold, folded back (VOLO, patch networks)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        parts = F.unfold(x, 3, padding=1, stride=2)
        parts = parts * parts.sigmoid()
        return self.last(F.fold(parts, x.shape[2:], 3, padding=1, stride=2))


class Dilated(nn.Module):
    """A temporal convolutional network: causal padding, dilated convolutions, gates."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv1d(16, 32, 3, dilation=2**i) for i in range(3))
        self.first, self.last = nn.Conv1d(4, 16, 1), nn.Conv1d(16, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for i, layer in enumerate(self.layers):
            a, b = layer(F.pad(x, (2 ** (i + 1), 0))).chunk(2, 1)
            x = x + a.tanh() * b.sigmoid()
        return self.last(x)


class Pixels(nn.Module):
    """A network that takes bytes, as cameras give them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.permute(0, 3, 1, 2).float() / 255)


class Bag(nn.Module):
    """The mean of embeddings that are not padding, as sentence encoders have it."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.linear = nn.Embedding(50, 24), nn.Linear(24, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        kept = (tokens != 0).float()[..., None]
        y = (self.table(tokens) * kept).sum(1) / kept.sum(1).clamp(min=1)
        return self.linear(F.normalize(y))


def _pixels() -> Network:
    return Network(
        Pixels(), (torch.randint(0, 256, (1, 48, 48, 3), dtype=torch.uint8),), ("image",)
    )


def _language_model() -> Network:
    states = torch.randn(2, 1, 24), torch.randn(2, 1, 24)
    return Network(LanguageModel(), (torch.randint(0, 50, (1, 7)), *states), ("tokens", "h", "c"))


OWN: dict[str, Callable[[], Network]] = {
    "lstm": lambda: _net(Recurrent(nn.LSTM), 1, 9, 20),
    "lstm_last": lambda: _net(Recurrent(nn.LSTM, last=True, num_layers=2), 1, 9, 20),
    "lstm_both": lambda: _net(Recurrent(nn.LSTM, bidirectional=True, num_layers=2), 1, 9, 20),
    "lstm_projected": lambda: _net(Recurrent(nn.LSTM, proj_size=12), 1, 9, 20),
    "lstm_states": _language_model,
    "lstm_cells": lambda: _net(Cells(), 1, 6, 20),
    "gru": lambda: _net(Recurrent(nn.GRU), 1, 9, 20),
    "gru_both": lambda: _net(Recurrent(nn.GRU, bidirectional=True, num_layers=2), 1, 9, 20),
    "rnn": lambda: _net(Recurrent(nn.RNN), 1, 9, 20),
    "deepspeech": lambda: _net(Speech(), 1, 40, 40),
    "crnn": lambda: _net(Text(), 1, 1, 16, 48),
    "encoder": lambda: _tokens(Attend(), 1, 12),
    "encoder_norm_first": lambda: _tokens(Attend(norm_first=True, activation="gelu"), 1, 12),
    "bag": lambda: _tokens(Bag(), 1, 12),
    "tcn": lambda: _net(Dilated(), 1, 4, 50),
    "unet": lambda: _net(UNet(), 1, 3, 32, 32),
    "unet_bilinear": lambda: _net(UNet("bilinear"), 1, 3, 32, 32),
    "unet_reflect": lambda: _net(UNet("nearest", mode="reflect"), 1, 3, 32, 32),
    "unet_circular": lambda: _net(UNet("bicubic", mode="circular"), 1, 3, 32, 32),
    "unet_classes": lambda: _net(Classes(UNet()), 1, 3, 32, 32),
    "unet3d": lambda: _net(UNet(volume=True), 1, 3, 8, 16, 16),
    "unet3d_trilinear": lambda: _net(UNet("trilinear", volume=True), 1, 3, 8, 16, 16),
    "yolo": lambda: _net(Pyramid(), *IMAGE),
    "yolo_topk": lambda: _net(Pyramid("topk"), *IMAGE),
    "yolo_nms": lambda: _net(Pyramid("nms"), *IMAGE),
    "detr": lambda: _net(Queries(), *IMAGE),
    "style": lambda: _net(Style(), 1, 3, 32, 32),
    "zoom": lambda: _net(Zoom(), 1, 3, 24, 24),
    "zoom_antialias": lambda: _net(Zoom("bilinear", antialias=True), 1, 3, 24, 24),
    "warp": lambda: _net(Warp(), 1, 3, 32, 32),
    "fold": lambda: _net(Unfolded(), 1, 3, 16, 16),
    "bytes": _pixels,
}
