"""The fixed point of shrinking: analyse a graph and cut it until nothing more can go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from prunedeploy.passes.analysis.settings import Settings
from prunedeploy.passes.shrink.plan import Plan, make_plan


def cut_to_fixed_point(
    graph: ir.Graph,
    settings: Settings,
    prepare: Callable[[], None],
    carry_out: Callable[[Plan], None],
    even_out: Callable[[Plan], bool] = lambda _: False,
) -> tuple[Plan, bool]:
    """Plan and cut until no choice of the axis that carries labels through a split cuts anything.

    Args:
        graph: what is cut, in place.
        settings: how the analyses are run.
        prepare: called before every analysis, to infer the shapes of ``graph`` anew.
        carry_out: called with every plan that cuts something, to edit ``graph``.
        even_out: called with a plan that cuts nothing, to edit ``graph`` so that more can go;
            whether it did.

    Returns:
        The last plan, which cuts nothing and says why what is left stays; whether any cut was made.
    """
    changed, choice, idle = False, 0, 0
    while True:
        prepare()
        plan = make_plan(graph, settings, choice)
        if plan.keep.items():
            changed, idle = True, 0
            carry_out(plan)
            continue
        idle += 1
        if idle >= plan.axes.split_choices:
            starved = _starved(plan) if settings.limits is None else frozenset()
            if starved <= settings.apart:
                if not even_out(plan):
                    return plan, changed
                changed = True
            settings, idle = replace(settings, apart=settings.apart | starved), 0
        choice = (choice + 1) % plan.axes.split_choices
        plan.weights.forget()


def _starved(plan: Plan) -> frozenset[ir.Node]:
    """Depthwise convolutions that read a constant channel, which stays: what they write is live.

    Their groups are cut apart from then on. Not before, as most lose the same channels on both
    sides and need no Gather in front.
    """
    nodes = []
    for layer in plan.layers:
        known = plan.facts.of(layer.source, layer.source_axis)
        whole = layer.depthwise and not layer.equal_groups
        if whole and known is not None and not np.isnan(known).all():
            nodes.append(layer.node)
    return frozenset(nodes)
