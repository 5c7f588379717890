"""Products of computed tensors, in every order of axes, with masks, broadcast and split heads."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from kernels import Case, Memory, check, permuted, supported

from prunedeploy.runtimes.sparse.plan.steps import MatMul
from prunedeploy.runtimes.sparse.plan.views import View

SIZES = [
    (1, 1, 1), (1, 67, 9), (17, 1, 5), (5, 3, 1), (16, 16, 16), (17, 33, 31), (2, 40, 70),
    (128, 64, 32), (13, 7, 130), (30, 65, 3),
]  # fmt: skip


def _operand(memory: Memory, shape: tuple[int, ...], kind: int) -> View:
    """A tensor in C order, with its last two axes swapped, or as planes."""
    if kind == 0:
        return memory.rows(shape)
    if kind == 1:
        turned = memory.rows((*shape[:-2], shape[-1], shape[-2]))
        axes = list(range(len(shape)))
        return permuted(turned, [*axes[:-2], axes[-1], axes[-2]])
    return memory.planar(shape, -1) if kind == 2 else memory.planar(shape, 0)


def sweep() -> list[Case]:
    """What the kernels are swept over, also under sanitizers."""
    cases = []
    rng = np.random.default_rng(0)
    kinds = list(itertools.product(range(3), repeat=2))
    for number, (m, k, n) in enumerate(SIZES + SIZES[4:9]):  # a compilation each
        a, b = kinds[number * 5 % len(kinds)]
        batch = (1, 2, 3)[(m + a) % 3]
        memory = Memory()
        shape = (batch, m, n)
        y = _operand(memory, shape, (a + 2 * b + m) % 3)
        left = _operand(memory, (batch, m, k), a)
        right = _operand(memory, (batch, k, n), b)
        alpha = float(np.float32(rng.uniform(0.1, 2)))
        bias = None
        if (m + n + b) % 2:
            bias = _operand(memory, shape, (a + b) % 3)
            zero = [int(rng.integers(0, 2)) for _ in range(3)]
            strides = tuple(s * z for s, z in zip(bias.strides, zero, strict=True))
            bias = View(bias.buffer, shape, strides)
        cases.append(memory.case(MatMul("product", left, right, y, alpha, bias)))
    return cases + _heads(1, 17, 3, 16) + _heads(2, 40, 2, 13) + _heads(8, 128, 2, 24)


def _heads(batch: int, tokens: int, heads: int, size: int) -> list[Case]:
    """The products of attention: queries times keys, scores times values, split by views."""
    memory = Memory()
    shape = (batch, tokens, heads * size)
    split = (batch, heads, tokens, size)

    def part(view: View) -> View:
        n, s, d = view.strides
        return View(view.buffer, split, (n, d * size, s, d), view.offset)

    q, k, v, y = (part(memory.planar(shape, 2)) for _ in range(4))
    scores = memory.rows((batch, heads, tokens, tokens))
    mask = memory.rows((batch, tokens))
    bias = View(mask.buffer, scores.shape, (tokens, 0, 0, 1))
    first = MatMul("scores", q, permuted(k, (0, 1, 3, 2)), scores, size**-0.5, bias)
    return [memory.case(first), memory.case(MatMul("values", scores, v, y))]


@pytest.mark.parametrize("isa", supported())
def test_products_agree_with_the_interpreter(isa: str) -> None:
    check(sweep(), isa)


@pytest.mark.parametrize("isa", supported()[:1])
def test_operands_of_the_caller_are_read_exactly(isa: str) -> None:
    memory = Memory()
    a, b = memory.rows((2, 9, 21), "input"), memory.rows((2, 21, 19), "input")
    first = memory.case(MatMul("inputs", a, b, memory.rows((2, 9, 19), "output")))
    shared = View(b.buffer, (5, 21, 19), (0, 19, 1))  # one for all
    left = memory.planar((5, 9, 21), 1)
    second = memory.case(MatMul("shared", left, shared, memory.planar((5, 9, 19), 0)))
    first.buffers = second.buffers
    check([first, second], isa)
