"""Buffers that live at one time never overlap, whatever the plan."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_interpreter import evaluate

from prunedeploy.runtimes.sparse.plan.memory import allocate, lifetimes
from prunedeploy.runtimes.sparse.plan.steps import Copy, Instr, Map, Plan, Port, reads, writes
from prunedeploy.runtimes.sparse.plan.views import GUARD, UNIT, Buffer, View, row_major


def grow(choose: random.Random) -> Plan:
    """A random plan of Maps and Copies, its buffers of a few sizes, read once or often."""
    sizes = [choose.choice([1, 16, 17, 40, 100]) for _ in range(choose.randint(2, 12))]
    buffers = [Buffer("input", 100), Buffer("output", 100)]
    buffers += [Buffer("arena", size) for size in sizes]
    steps: list[Map | Copy] = []
    for index in range(2, len(buffers)):
        size = buffers[index].size
        larger = [i for i in range(2, index) if buffers[i].size >= size]
        near = choose.sample(larger, min(len(larger), choose.randint(0, 2)))
        sources = [View(i, (size,), (1,), choose.choice([0, buffers[i].size - size])) for i in near]
        sources = sources or [View(0, (size,), (1,))]
        y = row_major(index, (size,))
        if choose.random() < 0.2:
            steps.append(Copy(f"copy {index}", sources[0], y))
            continue
        code = [Instr("neg", (0,))]
        code += [Instr("add", (len(sources), 1))] if len(sources) > 1 else []
        steps.append(Map(f"map {index}", tuple(sources), y, tuple(code)))
    last = buffers[-1].size
    steps.append(Copy("out", row_major(len(buffers) - 1, (last,)), row_major(1, (last,))))
    buffers[1] = Buffer("output", last)
    ports = (Port("x", 0, (100,)),), (Port("y", 1, (last,)),)
    return Plan(1, tuple(buffers), tuple(steps), *ports)


def overlaps(plan: Plan) -> list[tuple[int, int]]:
    """Pairs of buffers that share memory while both are needed; Maps in place apart."""
    found = []
    lives = lifetimes(plan)
    for one, life in lives.items():
        for other, second in lives.items():
            if one >= other or not life.meets(second):
                continue
            start, end = plan.offsets[one], plan.offsets[other]
            apart = start + life.size <= end or end + second.size <= start
            if not apart and not in_place(plan, one, other):
                found.append((one, other))
    return found


def in_place(plan: Plan, one: int, other: int) -> bool:
    """Whether a Map reads one of the two for the last time and writes the other at its place."""
    lives = lifetimes(plan)
    first, second = sorted((one, other), key=lambda buffer: lives[buffer].first)
    if lives[first].last != lives[second].first:
        return False
    step = plan.steps[lives[first].last]
    inputs = [view for view in reads(step) if view.buffer == first]
    return (
        isinstance(step, Map)
        and step.y.buffer == second
        and all((v.strides, v.offset) == (step.y.strides, step.y.offset) for v in inputs)
        and plan.offsets[first] == plan.offsets[second]
    )


@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=False))
def test_live_buffers_never_overlap(choose: random.Random) -> None:
    plan = allocate(grow(choose))
    assert overlaps(plan) == []
    lives = lifetimes(plan)
    for buffer, life in lives.items():
        assert plan.offsets[buffer] % UNIT == 0
        assert life.size >= plan.buffers[buffer].size + GUARD
        assert plan.offsets[buffer] + life.size <= plan.arena


@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=False))
def test_planned_memory_computes_what_separate_buffers_do(choose: random.Random) -> None:
    plan = grow(choose)
    feeds = {"x": np.random.default_rng(0).standard_normal(100)}
    assert (evaluate(plan, feeds)["y"] == evaluate(allocate(plan), feeds)["y"]).all()


def chain(*kinds: type) -> Plan:
    """A chain of steps over buffers of 100 elements."""
    buffers = [Buffer("input", 100), Buffer("output", 100)]
    buffers += [Buffer("arena", 100)] * (len(kinds) - 1)
    views = [row_major(i, (100,)) for i in (0, *range(2, len(buffers)), 1)]
    steps = [
        Map("map", (x,), y, (Instr("neg", (0,)),)) if kind is Map else Copy("copy", x, y)
        for kind, x, y in zip(kinds, views, views[1:], strict=False)
    ]
    ports = (Port("x", 0, (100,)),), (Port("y", 1, (100,)),)
    return Plan(1, tuple(buffers), tuple(steps), *ports)


def test_maps_are_computed_in_place_and_copies_are_not() -> None:
    size = -(-(100 + GUARD) // UNIT) * UNIT
    assert allocate(chain(Map, Map, Map, Map)).arena == size
    assert allocate(chain(Copy, Copy, Copy, Copy)).arena == 2 * size


def test_a_map_that_reads_in_another_order_is_not_in_place() -> None:
    buffers = (Buffer("input", 16), Buffer("output", 16), Buffer("arena", 16), Buffer("arena", 16))
    turned = View(2, (4, 4), (1, 4))
    x, y, t, u = (row_major(i, (4, 4)) for i in range(4))
    for second in (turned, t):
        code = (Instr("add", (0, 1)),)
        steps = (Copy("in", x, t), Map("sum", (t, second), u, code), Copy("out", u, y))
        ports = (Port("x", 0, (4, 4)),), (Port("y", 1, (4, 4)),)
        plan = allocate(Plan(1, buffers, steps, *ports))
        assert (plan.offsets[2] == plan.offsets[3]) is (second is t)


def test_the_property_test_can_fail() -> None:
    plan = allocate(chain(Copy, Copy, Copy))
    broken = Plan(1, plan.buffers, plan.steps, plan.inputs, plan.outputs, (0, 0, 0, 0), plan.arena)
    assert overlaps(broken) == [(2, 3)]


def test_what_is_written_is_never_read_elsewhere_in_the_same_step() -> None:
    """A Copy's target and source, and a Map's, when only a part dies."""
    plan = allocate(chain(Copy, Map, Copy))
    for step in plan.steps:
        for target in writes(step):
            for source in reads(step):
                if (
                    plan.buffers[source.buffer].space
                    == plan.buffers[target.buffer].space
                    == "arena"
                ):
                    same = plan.offsets[source.buffer] == plan.offsets[target.buffer]
                    assert not same or isinstance(step, Map)


@pytest.mark.parametrize("sizes", [(100, 10, 100), (10, 100, 10)])
def test_gaps_are_used(sizes: tuple[int, ...]) -> None:
    """A buffer that dies leaves room for one that is born later."""
    buffers = [Buffer("input", 100), Buffer("output", 10)]
    buffers += [Buffer("arena", size) for size in sizes]
    steps = []
    for index, size in enumerate(sizes):
        source = View(index + 1 if index else 0, (min(size, sizes[index - 1]),), (1,))
        target = View(index + 2, source.shape, (1,))
        steps.append(Copy(f"{index}", source, target))
    steps.append(Copy("out", View(4, (10,), (1,)), row_major(1, (10,))))
    ports = (Port("x", 0, (100,)),), (Port("y", 1, (10,)),)
    plan = allocate(Plan(1, tuple(buffers), tuple(steps), *ports))
    largest = sorted(-(-(size + GUARD) // UNIT) * UNIT for size in sizes)
    assert plan.arena < sum(largest)
    assert overlaps(plan) == []
