"""Exact shrink of transformer blocks: neurons, heads, single dimensions of heads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunedeploy import passes
from prunedeploy.graph import model as models
from prunedeploy.reference import verify
from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.shrinking.export import to_model

WIDTH, HEADS, TOKENS = 32, 4, 6
SIZE = WIDTH // HEADS


class Attention(nn.Module):
    """Self-attention; queries, keys and values from one linear layer where ``fused``."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.inputs = nn.ModuleList([nn.Linear(WIDTH, 3 * WIDTH)] if fused else [])
        self.inputs.extend([] if fused else [nn.Linear(WIDTH, WIDTH) for _ in range(3)])
        self.output = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        if len(self.inputs) == 1:
            y = self.inputs[0](x).reshape(*x.shape[:2], 3, HEADS, SIZE)
            q, k, v = y.permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q, k, v = (
                linear(x).view(*x.shape[:2], HEADS, SIZE).transpose(1, 2) for linear in self.inputs
            )
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.output(y.reshape(*x.shape[:2], WIDTH))

    def part(self, which: int) -> tuple[Tensor, Tensor]:
        """Weight rows and bias of queries, keys or values."""
        if len(self.inputs) == 3:
            return self.inputs[which].weight, self.inputs[which].bias
        rows = slice(which * WIDTH, (which + 1) * WIDTH)
        return self.inputs[0].weight[rows], self.inputs[0].bias[rows]


class Block(nn.Module):
    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = Attention(fused)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


@torch.no_grad()
def removed(block: Block) -> int:
    """Weights that the passes remove from ``block``, whose outputs must stay the same."""
    model = to_model(block.double().eval(), (1, TOKENS, WIDTH))
    feeds = verify.random_feeds(models.specs(model)[0], batch=3)
    expected = Evaluator(model).run(feeds)
    before = models.weight_bytes(model)
    passes.run(model, passes.DEFAULT, feeds)
    assert verify.compare(expected, Evaluator(model).run(feeds), 1e-12).passed
    # what is counted are float64 numbers; shapes and bounds come and go with the passes
    return round((before - models.weight_bytes(model)) / 8 / WIDTH)


@torch.no_grad()
def kill(block: Block, parts: str, rows: list[int]) -> None:
    for which in ("qkv".index(letter) for letter in parts):
        weight, bias = block.attention.part(which)
        weight[rows] = 0
        bias[rows] = 0


@pytest.mark.parametrize("fused", [False, True])
def test_dead_heads(fused: bool) -> None:
    block = Block(fused)
    kill(block, "qkv", [*range(SIZE), *range(2 * SIZE, 3 * SIZE)])
    # 16 rows of queries, keys and values, 16 columns of the output; biases make one row more
    assert removed(block) == pytest.approx(4 * 2 * SIZE, abs=2)


@pytest.mark.parametrize("fused", [False, True])
def test_same_dimension_dead_in_all_heads(fused: bool) -> None:
    block = Block(fused)
    kill(block, "qkv", [head * SIZE + d for head in range(HEADS) for d in (2, 5)])
    assert removed(block) == pytest.approx(4 * 2 * HEADS, abs=2)


def test_dimension_dead_in_the_queries_alone_goes_from_the_keys() -> None:
    block = Block(fused=False)
    kill(block, "q", [head * SIZE + d for head in range(HEADS) for d in (2, 5)])
    assert removed(block) == pytest.approx(2 * 2 * HEADS, abs=2)


def test_dead_head_in_the_values_alone_goes_whole() -> None:
    block = Block(fused=False)
    kill(block, "v", list(range(SIZE)))
    assert removed(block) == pytest.approx(4 * SIZE, abs=2)


def test_scattered_rows_stay() -> None:
    block = Block(fused=False)
    kill(block, "qkv", [1, SIZE + 2, 2 * SIZE + 3])
    assert removed(block) == pytest.approx(0, abs=2)


@torch.no_grad()
def test_dimensions_at_a_constant_keep_it_when_averaged() -> None:
    block = Block(fused=False)
    rows = [head * SIZE + 3 for head in range(HEADS)]
    kill(block, "v", rows)
    block.attention.part(2)[1][rows] = -0.4
    assert removed(block) == pytest.approx(2 * HEADS, abs=2)


@torch.no_grad()
def test_neurons_at_a_constant() -> None:
    block = Block(fused=False)
    block.up.weight[::4] = 0  # GELU of their biases flows on
    assert removed(block) == pytest.approx(2 * WIDTH, abs=2)


@torch.no_grad()
def test_values_at_a_constant_pass_the_softmax() -> None:
    block = Block(fused=False)
    weight, bias = block.attention.part(2)
    weight[: 2 * SIZE] = 0
    bias[: 2 * SIZE] = 0.7  # which two heads hold, whatever is attended to
    assert removed(block) == pytest.approx(2 * 4 * SIZE, abs=2)
