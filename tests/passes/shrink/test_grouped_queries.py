"""Exact shrink of attention whose queries share heads of keys and values, in every spelling."""

from __future__ import annotations

import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunedeploy import passes
from prunedeploy.graph import model as models
from prunedeploy.passes.operators import reshapes
from prunedeploy.reference import verify
from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.shrinking.export import to_model

WIDTH, SIZE, TOKENS = 12, 4, 5
SPELLINGS = ["expand", "interleave", "tile", "enable_gqa"]
FEW = ["tile", "enable_gqa"]


def turn(x: Tensor) -> Tensor:
    """Rotary positions: the two halves of a head are the coordinates of a plane."""
    left, right = x.chunk(2, -1)
    angles = torch.arange(x.shape[2], dtype=x.dtype)[:, None] / torch.tensor([1.0, 7.0])
    angles = torch.cat([angles, angles], -1)
    return x * angles.cos() + torch.cat([-right, left], -1) * angles.sin()


class Attention(nn.Module):
    """``shared`` heads of keys and values for ``heads`` of queries; one layer where ``fused``."""

    def __init__(
        self,
        spelling: str,
        heads: int = 6,
        shared: int = 2,
        fused: bool = False,
        rotary: bool = False,
    ) -> None:
        super().__init__()
        self.spelling, self.heads, self.shared, self.rotary = spelling, heads, shared, rotary
        self.sizes = [heads * SIZE, shared * SIZE, shared * SIZE]
        widths = [sum(self.sizes)] if fused else self.sizes
        self.inputs = nn.ModuleList(nn.Linear(WIDTH, width, bias=False) for width in widths)
        self.output = nn.Linear(heads * SIZE, WIDTH, bias=False)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        parts = [layer(x) for layer in self.inputs]
        parts = list(parts[0].split(self.sizes, -1)) if len(parts) == 1 else parts
        q, k, v = (part.view(n, t, -1, SIZE).transpose(1, 2) for part in parts)
        if self.rotary:
            q, k = turn(q), turn(k)
        k, v = self.repeated(k), self.repeated(v)
        shares = self.spelling == "enable_gqa"
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=shares)
        return self.output(y.transpose(1, 2).reshape(n, t, -1))

    def repeated(self, x: Tensor) -> Tensor:
        n, shared, t, size = x.shape
        times = self.heads // shared
        if self.spelling == "expand":
            wide = x[:, :, None].expand(n, shared, times, t, size)
            return wide.reshape(n, self.heads, t, size)
        if self.spelling == "interleave":
            return x.repeat_interleave(times, dim=1)
        if self.spelling == "tile":
            return x.unsqueeze(2).repeat(1, 1, times, 1, 1).view(n, self.heads, t, size)
        return x

    def part(self, which: int) -> Tensor:
        """Weight rows of queries, keys or values."""
        if len(self.inputs) == 3:
            return self.inputs[which].weight
        first = sum(self.sizes[:which])
        return self.inputs[0].weight[first : first + self.sizes[which]]


@torch.no_grad()
def kill(module: Attention, parts: str, heads: list[int], dimensions: range = range(SIZE)) -> None:
    """Dead dimensions of these heads of keys and values, and of the queries that share them."""
    for letter in parts:
        weight = module.part("qkv".index(letter)).view(-1, SIZE, WIDTH)
        times = len(weight) // module.shared
        for head in heads:
            for dimension in dimensions:
                weight[head * times : (head + 1) * times, dimension] = 0


def widths(module: Attention) -> list[int]:
    """Heads times dimensions that are left: of keys, values, queries, and what attention gives."""
    model = to_model(module.eval(), (1, TOKENS, WIDTH))
    feeds = verify.random_feeds(models.specs(model)[0], batch=3)
    expected = Evaluator(model).run(feeds)
    passes.run(model, passes.DEFAULT, feeds)
    assert verify.compare(expected, Evaluator(model).run(feeds), 1e-12).passed
    weights = [node.inputs[1] for node in model.graph if node.op_type in ("MatMul", "Gemm")]
    shapes = [value.const_value.shape for value in weights if value.const_value is not None]
    return sorted(int(shape[0] * shape[1]) // WIDTH for shape in shapes)


@pytest.mark.parametrize(
    ("spelling", "rotary"), [(name, False) for name in SPELLINGS] + [(name, True) for name in FEW]
)
def test_dead_groups_go_with_their_queries(spelling: str, rotary: bool) -> None:
    module = Attention(spelling, heads=10, shared=5, rotary=rotary)
    kill(module, "qkv", [1, 4])
    assert widths(module) == [3 * SIZE, 3 * SIZE, 6 * SIZE, 6 * SIZE]


@pytest.mark.parametrize("spelling", FEW)
def test_a_group_whose_values_are_dead_goes_whole(spelling: str) -> None:
    module = Attention(spelling)
    kill(module, "v", [0])
    assert widths(module) == [SIZE, SIZE, 3 * SIZE, 3 * SIZE]


@pytest.mark.parametrize("spelling", FEW)
def test_dimensions_dead_in_all_heads(spelling: str) -> None:
    module = Attention(spelling)
    kill(module, "q", [0, 1], range(1, 2))
    kill(module, "v", [0, 1], range(2, 4))
    # keys and values, queries, the result of attention
    assert widths(module) == sorted([2 * 3, 2 * 2, 6 * 3, 6 * 2])


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_groups_and_dimensions(spelling: str) -> None:
    module = Attention(spelling)
    kill(module, "qkv", [1])
    kill(module, "qk", [0], range(1))
    assert widths(module) == sorted([3, 4, 3 * 3, 3 * 4])


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_queries_that_share_one_head_go_head_by_head(spelling: str) -> None:
    module = Attention(spelling, heads=5, shared=1)
    with torch.no_grad():
        module.output.weight.view(WIDTH, 5, SIZE)[:, [0, 3]] = 0
    assert widths(module) == [SIZE, SIZE, 3 * SIZE, 3 * SIZE]


@pytest.mark.parametrize("spelling", FEW)
def test_a_head_of_queries_alone_stays_with_its_group(spelling: str) -> None:
    module = Attention(spelling)
    with torch.no_grad():
        module.output.weight.view(WIDTH, 6, SIZE)[:, [0, 4]] = 0
    assert widths(module) == [2 * SIZE, 2 * SIZE, 6 * SIZE, 6 * SIZE]


@pytest.mark.parametrize("spelling", FEW)
def test_fused_projections(spelling: str) -> None:
    module = Attention(spelling, fused=True)
    kill(module, "qkv", [0])
    # one matrix, wide as queries, keys and values together
    assert widths(module) == [3 * SIZE, 5 * SIZE]


def test_a_cut_of_the_wrong_copies_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of all heads in turn, where each head's copies stand together."""
    found = reshapes.moves

    def turned(node: ir.Node) -> reshapes.Moves | None:
        return [(a, b, tile, repeat) for a, b, repeat, tile in found(node) or []]

    monkeypatch.setattr(reshapes, "moves", turned)
    module = Attention("expand")
    kill(module, "v", [0])
    with pytest.raises(passes.PassError, match="changed the outputs"):
        widths(module)
