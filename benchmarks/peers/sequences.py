"""Micro-patterns of sequences: recurrent layers, embeddings, attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peers.ledger import Ledger
from peers.toys import DEAD, WIDTH


class Recurrent(nn.Module):
    """An LSTM or GRU whose every step is read; hidden units die with all their gates."""

    def __init__(self, layer: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.layer = layer(8, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, 8)

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, 8] to [N, T, 8]."""
        return self.head(self.layer(x)[0])

    def describe(self, s: Ledger, image: Tensor) -> Tensor:  # noqa: ARG002
        """The rows of all gates, and the columns that feed a unit back."""
        inputs, units = s.new(8, mortal=False), s.new(WIDTH)
        gates = units.repeat(len(self.layer.bias_ih_l0) // WIDTH)
        s.table(self.layer.weight_ih_l0, {0: gates}, {1: inputs})
        s.table(self.layer.weight_hh_l0, {0: gates}, {1: units})
        s.bias(self.layer.bias_ih_l0, gates)
        s.bias(self.layer.bias_hh_l0, gates)
        s.head("head", units)
        return units[list(DEAD)]


class Embedded(nn.Module):
    """Token embeddings, a residual MLP, and logits; ``tied``: by the embeddings themselves."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)
        self.head = None if tied else nn.Linear(WIDTH, 20, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """[N, T] to [N, T, 20]."""
        x = self.embedding(tokens)
        x = x + self.down(F.relu(self.up(x)))
        return F.linear(x, self.embedding.weight) if self.head is None else self.head(x)

    def describe(self, s: Ledger, image: Tensor) -> Tensor:  # noqa: ARG002
        """The stream is one set of channels, of the embedding too."""
        x = s.new(WIDTH)
        s.table(self.embedding.weight, {1: x}, {1: x})
        y = s.layer("up", x)
        s.layer("down", y, writes=x)
        if self.head is not None:
            s.head("head", x)
        return torch.cat([x[list(DEAD)], y[:8]])


class Attention(nn.Module):
    """Heads of 4 dimensions, keys and values perhaps shared by groups of them, perhaps fused.

    ``dead`` says what dies: a whole "head" (with those that share its keys), one dimension of every
    head's "value", or one "dimension" of queries, keys and values alike.
    """

    def __init__(self, heads: int, shared: int, fused: bool, dead: str) -> None:
        super().__init__()
        self.heads, self.shared, self.size, self.dead = heads, shared, 4, dead
        width = heads * self.size
        sizes = [width, width // shared, width // shared]
        self.layers = nn.ModuleList(nn.Linear(WIDTH, n) for n in ([sum(sizes)] if fused else sizes))
        self.out, self.head = nn.Linear(width, WIDTH), nn.Linear(WIDTH, 8)

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, 16] to [N, T, 8]."""
        n, t = x.shape[0], x.shape[1]
        if len(self.layers) == 1:
            fused = self.layers[0](x).reshape(n, t, 3, self.heads, self.size)
            q, k, v = fused.permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q, k, v = (y(x).reshape(n, t, -1, self.size).transpose(1, 2) for y in self.layers)
        if self.shared > 1:
            k, v = (y.repeat_interleave(self.shared, 1) for y in (k, v))
        scores = (q @ k.transpose(-2, -1) * self.size**-0.5).softmax(-1)
        return self.head(self.out((scores @ v).transpose(1, 2).reshape(n, t, -1)))

    def describe(self, s: Ledger, image: Tensor) -> Tensor:  # noqa: ARG002
        """Whole heads share one number; single dimensions have one for all heads."""
        x, size = s.new(WIDTH, mortal=False), self.size
        if self.dead == "head":
            groups = s.new(self.heads // self.shared)
            values = keys = groups.repeat_interleave(size)
            queries = groups.repeat_interleave(size * self.shared)
            read, dead = queries, groups[1:2]
        else:
            dims = s.new(size)
            values = dims.repeat(self.heads // self.shared)
            read, dead = dims.repeat(self.heads), dims[1:2]
            queries, keys = dims.repeat(self.heads), values
            if self.dead == "value":
                queries = s.new(len(queries), mortal=False)
                keys = s.new(len(keys), mortal=False)
        writes = [queries, keys, values]
        if len(self.layers) == 1:
            writes = [torch.cat(writes)]
        for k, each in enumerate(writes):
            s.layer(f"layers.{k}", x, writes=each)
        inner = s.layer("out", read, writes=s.new(WIDTH, mortal=False))
        s.head("head", inner)
        return dead
