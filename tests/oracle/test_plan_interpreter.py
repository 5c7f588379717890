"""The interpreter of plans: against torch, on strided views, and what it must notice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from plan_interpreter import evaluate, run_step, strided
from torch.nn import functional as F

from prunedeploy.runtimes.sparse.plan import strides
from prunedeploy.runtimes.sparse.plan.steps import (
    Activation,
    Conv,
    Copy,
    Instr,
    Lookup,
    Map,
    MatMul,
    Norm,
    Plan,
    Pool,
    Port,
    Resize,
)
from prunedeploy.runtimes.sparse.plan.views import Buffer, View, planar, row_major


class Memory:
    """Flat arrays that views are put on."""

    def __init__(self) -> None:
        self.buffers: list[np.ndarray] = []
        self.random = np.random.default_rng(0)

    def planes(self, *shape: int) -> View:
        """A planar tensor [N, C, H, W], NaN between the planes."""
        self.buffers.append(np.full(strides.planar(len(shape), 1).size(shape), np.nan))
        view = planar(len(self.buffers) - 1, shape, 1)
        self[view][...] = self.random.standard_normal(shape)
        return view

    def rows(self, *shape: int) -> View:
        """A tensor in C order."""
        self.buffers.append(self.random.standard_normal(int(np.prod(shape))))
        return row_major(len(self.buffers) - 1, shape)

    def __getitem__(self, view: View) -> np.ndarray:
        return strided(view, self.buffers)

    def tensor(self, view: View) -> torch.Tensor:
        return torch.tensor(self[view].copy())


def test_conv_with_everything() -> None:
    memory = Memory()
    x, y, residual = memory.planes(2, 6, 9, 7), memory.planes(2, 4, 5, 3), memory.planes(2, 4, 5, 3)
    weight = memory.random.standard_normal((4, 3, 3, 2)).astype(np.float32)
    bias = memory.random.standard_normal(4).astype(np.float32)
    padded = F.pad(memory.tensor(x), (1, 0, 2, 2))
    made = F.conv2d(
        padded, torch.tensor(weight).double(), torch.tensor(bias).double(), 2, 0, (2, 1), 2
    )
    expected = F.elu(made[:, :, :5, :3] + memory.tensor(residual), 0.5)
    step = Conv(
        "conv",
        x,
        y,
        weight,
        bias,
        strides=(2, 2),
        pads=(2, 1, 2, 0),
        dilations=(2, 1),
        groups=2,
        residual=residual,
        activation=Activation("elu", (0.5,)),
    )
    run_step(step, memory.buffers)
    assert np.abs(memory[y] - expected.numpy()).max() < 1e-12


@pytest.mark.parametrize("include", [False, True])
def test_average_pool_counts_what_it_should(include: bool) -> None:
    memory = Memory()
    x, y = memory.planes(1, 2, 6, 5), memory.planes(1, 2, 4, 3)
    step = Pool("pool", x, y, "average", (3, 3), (2, 2), (1, 1, 1, 1), count_include_pad=include)
    run_step(step, memory.buffers)
    expected = F.avg_pool2d(memory.tensor(x), 3, 2, 1, ceil_mode=True, count_include_pad=include)
    assert np.abs(memory[y] - expected.numpy()).max() < 1e-12


def test_steps_through_transposed_views() -> None:
    memory = Memory()
    heads = memory.rows(2, 5, 3, 4)  # [batch, tokens, heads, size]
    split = View(0, (2, 3, 5, 4), (60, 4, 12, 1))
    turned = View(0, (2, 3, 4, 5), (60, 4, 1, 12))
    scores, mask = memory.rows(2, 3, 5, 5), memory.rows(2, 1, 1, 5)
    wide = View(mask.buffer, (2, 3, 5, 5), (5, 0, 0, 1))
    run_step(MatMul("scores", split, turned, scores, 0.5, wide), memory.buffers)
    q = memory.tensor(heads).transpose(1, 2)
    expected = 0.5 * q @ q.transpose(2, 3) + memory.tensor(mask)
    assert np.abs(memory[scores] - expected.numpy()).max() < 1e-12


def test_norm_and_resize() -> None:
    memory = Memory()
    x, y, large = memory.planes(2, 3, 4, 5), memory.planes(2, 3, 4, 5), memory.planes(2, 3, 8, 10)
    scale = np.float32([1, 2, 3]).reshape(1, 3, 1, 1)
    run_step(Norm("norm", x, y, (2, 3), 1e-5, scale, scale), memory.buffers)
    factor = torch.tensor([1.0, 2, 3]).double()
    expected = F.instance_norm(memory.tensor(x), weight=factor, bias=factor)
    assert np.abs(memory[y] - expected.numpy()).max() < 1e-12
    taps = [
        tuple(
            (max(i - 1, 0) // 2, min((i + 1) // 2, n // 2 - 1), 0.75 if i % 2 == 0 else 0.25)
            for i in range(n)
        )
        for n in (8, 10)
    ]
    taps = [((0, 0, 0.0), *axis[1:]) for axis in taps]
    run_step(Resize("resize", x, large, taps[0], taps[1]), memory.buffers)
    expected = F.interpolate(memory.tensor(x), scale_factor=2, mode="bilinear")
    assert np.abs(memory[large] - expected.numpy()).max() < 1e-12


def test_a_padding_copy_fills_what_is_around() -> None:
    memory = Memory()
    x, outer = memory.rows(2, 3), memory.rows(4, 5)
    inner = View(outer.buffer, (2, 3), (5, 1), 6)
    run_step(Copy("pad", x, inner, 7.0, outer), memory.buffers)
    expected = np.pad(memory[x], ((1, 1), (1, 1)), constant_values=7.0)
    assert (memory[outer] == expected).all()


def test_what_lies_between_planes_is_spoilt_but_not_the_planes() -> None:
    memory = Memory()
    x, y = memory.planes(1, 2, 3, 6), memory.planes(1, 2, 3, 6)
    memory.buffers[y.buffer][...] = 1.0
    run_step(Map("map", (x,), y, (Instr("neg", (0,)),)), memory.buffers)
    flat = memory.buffers[y.buffer].reshape(2, 32)
    assert (memory[y] == -memory[x]).all()
    assert np.isnan(flat[:, 18:]).all()


def test_an_index_outside_of_the_table_is_an_error() -> None:
    table = np.arange(6, dtype=np.float32).reshape(3, 2)
    buffers = [np.array([2, -3]), np.zeros(4)]
    step = Lookup("rows", row_major(0, (2,)), row_major(1, (2, 2)), table)
    run_step(step, buffers)
    assert buffers[1].tolist() == [4, 5, 0, 1]
    buffers[0][0] = 3
    with pytest.raises(IndexError):
        run_step(step, buffers)


def test_a_view_beyond_its_buffer_is_noticed() -> None:
    with pytest.raises(AssertionError):
        strided(View(0, (3, 4), (4, 1), 1), [np.zeros(12)])
    with pytest.raises(AssertionError):
        strided(View(0, (3,), (-1,), 1), [np.zeros(12)])


def _plan(**changes: object) -> Plan:
    """x + constant through one buffer of the arena."""
    value = np.float32([1, 2, 3])
    buffers = (
        Buffer("input", 3),
        Buffer("output", 3, index=0),
        Buffer("arena", 3),
        Buffer("constant", 3, value=value),
    )
    x, y, t, c = (row_major(i, (3,)) for i in range(4))
    steps = (Map("add", (x, c), t, (Instr("add", (0, 1)),)), Copy("out", t, y))
    ports = (Port("x", 0, (3,)),), (Port("y", 1, (3,)),)
    return Plan(1, buffers, steps, *ports, **changes)  # type: ignore[arg-type]


def test_plans_run_with_and_without_an_arena() -> None:
    x = np.float32([0.5, 0.25, 4])
    for plan in (_plan(), _plan(offsets=(0, 0, 16, 0), arena=64)):
        assert evaluate(plan, {"x": x})["y"].tolist() == [1.5, 2.25, 7]
        assert evaluate(plan, {"x": x}, np.float32)["y"].dtype == np.float32


def test_what_no_step_has_written_is_not_a_number() -> None:
    plan = _plan()
    late = Plan(1, plan.buffers, plan.steps[::-1], plan.inputs, plan.outputs)
    assert np.isnan(evaluate(late, {"x": np.ones(3, np.float32)})["y"]).all()
