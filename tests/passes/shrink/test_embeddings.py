"""Exact shrink of the residual stream of transformers: embedding dimensions that are dead."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from net import Net
from shrinking import shrink
from torch import Tensor, nn
from torch.nn import functional as F

from prunedeploy import passes
from prunedeploy.core.records import Note, PassReport
from prunedeploy.graph import model as models
from prunedeploy.reference import verify
from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.shrinking.export import to_model

WIDTH, HEADS, TOKENS = 24, 3, 6
DEAD = [0, 5, 7, 16, 23]
LEFT = WIDTH - len(DEAD)


class Attention(nn.Module):
    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.causal = causal

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(x).reshape(*x.shape[:2], 3, HEADS, WIDTH // HEADS)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(y.transpose(1, 2).reshape(x.shape))


class Layer(nn.Module):
    """A block with its norms before (ViT, GPT) or behind the sums (BERT)."""

    def __init__(self, post: bool, causal: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention, self.post = Attention(causal), post
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def mlp(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))

    def forward(self, x: Tensor) -> Tensor:
        if self.post:
            x = self.norm1(x + self.attention(x))
            return self.norm2(x + self.mlp(x))
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Pixels or features in, a linear layer as the embedding, positions, blocks, norm, head."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, WIDTH, 4, stride=4) if kind == "vit" else nn.Linear(5, WIDTH)
        self.position = nn.Parameter(torch.randn(1, TOKENS, WIDTH))
        self.layers = nn.ModuleList(Layer(kind == "bert", kind == "gpt") for _ in range(2))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 7)
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = (x.flatten(2).transpose(1, 2) if self.kind == "vit" else x) + self.position
        if self.kind == "bert":
            x = self.norm(x)
        for layer in self.layers:
            x = layer(x)
        if self.kind != "bert":
            x = self.norm(x)
        return self.head(x.mean(1) if self.kind == "vit" else x)

    def writers(self) -> list[nn.Module]:
        """What writes the residual stream, norms apart."""
        return [self.embed, *(part for x in self.layers for part in (x.attention.out, x.down))]

    def norms(self) -> list[nn.LayerNorm]:
        return [part for part in self.modules() if isinstance(part, nn.LayerNorm)]


SHAPES = {"vit": (1, 3, 8, 12), "bert": (1, TOKENS, 5), "gpt": (1, TOKENS, 5)}


@torch.no_grad()
def transformer(kind: str) -> Transformer:
    """Random weights; the dimensions ``DEAD`` are zero wherever they are written."""
    torch.manual_seed(0)
    network = Transformer(kind).double().eval()
    for norm in network.norms():
        norm.weight.copy_(torch.rand(WIDTH) + 0.5)
        norm.bias.copy_(torch.randn(WIDTH))
    for part in (*network.writers(), *network.norms()):
        part.weight[DEAD] = 0
        part.bias[DEAD] = 0
    network.position[..., DEAD] = 0
    return network


def run(network: nn.Module, shape: tuple[int, ...]) -> tuple[list[int], list[Note]]:
    """The passes; lengths of all axes of all weights afterwards, and the shrinker's notes."""
    model = to_model(network, shape)
    feeds = verify.random_feeds(models.specs(model)[0], batch=3)
    expected = Evaluator(model).run(feeds)
    reports: tuple[PassReport, ...] = passes.run(model, passes.DEFAULT, feeds)
    assert verify.compare(expected, Evaluator(model).run(feeds), 1e-12).passed
    weights = [value.const_value for value in model.graph.initializers.values()]
    sizes = [size for w in weights if w is not None for size in w.shape.numpy()]
    (cut,) = (report for report in reports if report.name == "shrink-channels")
    return sizes, list(cut.result.notes)


@pytest.mark.parametrize("kind", ["vit", "bert", "gpt"])
def test_dead_embedding_dimensions_go(kind: str) -> None:
    sizes, _ = run(transformer(kind), SHAPES[kind])
    assert sizes.count(LEFT) >= 10
    # the rows of queries, keys and values in two blocks are not touched, nor the columns of "out"
    assert sizes.count(WIDTH) == 2 * (3 + 1)


@pytest.mark.parametrize("kind", ["vit", "bert", "gpt"])
def test_what_one_writer_still_writes_stays(kind: str) -> None:
    """Dimension 5 is not zero in one of the sums: norms read it, and the notes say so."""
    network = transformer(kind)
    with torch.no_grad():
        network.layers[0].down.bias[5] = 0.25
    sizes, notes = run(network, SHAPES[kind])
    assert sizes.count(LEFT) == 0
    assert sizes.count(LEFT + 1) >= 10
    reasons = [note.reason for note in notes if note.status == "refused"]
    assert any("LayerNormalization" in reason for reason in reasons)


def test_dimensions_that_only_the_statistics_read_stay() -> None:
    """Zero columns in all readers, scale and bias zero, but the stream itself is not."""
    network = transformer("vit")
    with torch.no_grad():
        network.embed.weight[DEAD] = 0.1
    sizes, notes = run(network, SHAPES["vit"])
    assert sizes.count(LEFT) == 0
    reasons = [note.reason for note in notes if note.status == "refused"]
    assert any("LayerNormalization" in reason for reason in reasons)


class Llama(nn.Module):
    """Touvron et al., 2023: norms by root mean square, a gated MLP, fewer keys than queries."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, WIDTH, bias=False)
        self.norm1, self.norm2 = nn.RMSNorm(WIDTH, eps=1e-4), nn.RMSNorm(WIDTH, eps=1e-4)
        self.norm3 = nn.RMSNorm(WIDTH, eps=1e-4)
        self.q, self.out = (nn.Linear(WIDTH, 4 * 6, bias=False) for _ in range(2))
        self.k, self.v = (nn.Linear(WIDTH, 2 * 6, bias=False) for _ in range(2))
        self.gate, self.up = (nn.Linear(WIDTH, 40, bias=False) for _ in range(2))
        self.down, self.head = nn.Linear(40, WIDTH, bias=False), nn.Linear(WIDTH, 7, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.norm1(x)
        q, k, v = (
            part(y).reshape(*x.shape[:2], -1, 6).transpose(1, 2)
            for part in (self.q, self.k, self.v)
        )
        k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(*x.shape[:2], -1))
        y = self.norm2(x)
        x = x + self.down(F.silu(self.gate(y)) * self.up(y))
        return self.head(self.norm3(x))


def test_llama() -> None:
    """The norm of a zero is zero, whatever its scale."""
    torch.manual_seed(0)
    network = Llama().double().eval()
    with torch.no_grad():
        for part in (network.embed, network.out, network.down):
            part.weight[DEAD] = 0
        for norm in (network.norm1, network.norm2, network.norm3):
            norm.weight.copy_(torch.rand(WIDTH) + 0.5)
    sizes, _ = run(network, (1, TOKENS, 5))
    assert sizes.count(LEFT) == 12
    assert sizes.count(WIDTH) == 2  # rows of the queries, columns of their output


class Language(nn.Module):
    """Tokens in, the embedding's own weights as the head (Radford et al., 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(11, WIDTH), nn.Embedding(TOKENS, WIDTH)
        self.layer, self.norm = Layer(post=False, causal=True), nn.LayerNorm(WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids.long()) + self.positions(torch.arange(TOKENS))
        return F.linear(self.norm(self.layer(x)), self.tokens.weight)


def test_tied_embeddings() -> None:
    """The head reads nothing where the embedding holds zeros, so the norm may have any scale."""
    torch.manual_seed(0)
    network = Language().double().eval()
    with torch.no_grad():
        for part in (network.layer.attention.out, network.layer.down):
            part.weight[DEAD] = 0
            part.bias[DEAD] = 0
        for norm in (network.layer.norm1, network.layer.norm2):
            norm.weight[DEAD] = 0
        network.norm.bias.copy_(torch.randn(WIDTH))
        network.tokens.weight[:, DEAD] = 0
        network.positions.weight[:, DEAD] = 0
    sizes, _ = run(network, (1, TOKENS))
    assert sizes.count(LEFT) >= 9


def test_class_token() -> None:
    """A token in front of the others: zero in the same dimensions."""
    net = Net(channels=TOKENS, size=5, batch=1)
    x = net.node("Reshape", "input", net.weight(np.array([1, 5 * TOKENS, 5])))
    x = net.node("MatMul", x, net.weight(net.random.standard_normal((5, WIDTH))))
    net.weights["w1"][:, DEAD] = 0
    token = net.random.standard_normal((1, 1, WIDTH))
    token[..., DEAD] = 0
    x = net.node("Concat", net.weight(token), x, axis=1)
    y = net.node("LayerNormalization", x, net.weight(np.ones(WIDTH)))
    weight = net.random.standard_normal((WIDTH, 3))
    weight[DEAD] = 0
    found = shrink(net.model(net.node("MatMul", y, net.weight(weight, "head.weight"))))
    assert found.widths["head.weight"] == LEFT
