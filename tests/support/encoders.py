"""Small transformers in torch: BERT, ViT and GPT in shape, and in what exporters make of them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Layer(nn.Module):
    """Attention and a feed-forward part; norms in front (``pre``) or behind."""

    def __init__(self, width: int, heads: int, hidden: int, pre: bool, fused: bool) -> None:
        super().__init__()
        self.heads, self.pre, self.fused = heads, pre, fused
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        batch, tokens, width = x.shape
        size = width // self.heads
        q, k, v = (
            part(x).view(batch, tokens, self.heads, size).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        else:
            scores = q @ k.transpose(-1, -2) / math.sqrt(size)
            y = F.softmax(scores if mask is None else scores + mask, -1) @ v
        return self.out(y.transpose(1, 2).reshape(batch, tokens, width))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if self.pre:
            x = x + self.attend(self.norm1(x), mask)
            return x + self.narrow(F.gelu(self.wide(self.norm2(x)), approximate="tanh"))
        x = self.norm1(x + self.attend(x, mask))
        return self.norm2(x + self.narrow(F.gelu(self.wide(x))))


class Encoder(nn.Module):
    """BERT in shape: embeddings, a mask of tokens, a head on the first one."""

    def __init__(self, width: int = 32, layers: int = 2, fused: bool = True) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(50, width), nn.Embedding(16, width)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 3)
        self.layers = nn.ModuleList(Layer(width, 4, 64, False, fused) for _ in range(layers))

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.norm(self.words(ids) + self.places(places))
        hidden = (1.0 - mask[:, None, None, :].float()) * -10000.0
        for layer in self.layers:
            x = layer(x, hidden)
        return self.head(x[:, 0]), x


class Vision(nn.Module):
    """ViT in shape: patches by a convolution, a token in front."""

    def __init__(self, width: int = 32, layers: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.places = nn.Parameter(torch.randn(1, 17, width))
        self.layers = nn.ModuleList(Layer(width, 4, 64, True, True) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places
        for layer in self.layers:
            x = layer(x, None)
        return self.head(self.norm(x)[:, 0])


class Generator(nn.Module):
    """GPT in shape: a causal mask, one score a word."""

    def __init__(self, width: int = 32, layers: int = 2) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(50, width), nn.Embedding(12, width)
        self.layers = nn.ModuleList(Layer(width, 4, 64, True, True) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 50, bias=False)
        self.register_buffer("causal", torch.full((12, 12), -1e9).triu(1)[None, None])

    def forward(self, ids: Tensor) -> Tensor:
        tokens = ids.shape[1]
        x = self.words(ids) + self.places(torch.arange(tokens, device=ids.device))
        for layer in self.layers:
            x = layer(x, self.causal[:, :, :tokens, :tokens])
        return self.head(self.norm(x))


class Attention(nn.Module):
    """torch's own module, batch first, as its users have it."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.attention(x, x, x, need_weights=False)[0])
