"""The work of nodes, and what a part should save: which parts are worth a sparse engine."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from prunedeploy.graph import work
from prunedeploy.runtimes.hybrid.partition import Part
from prunedeploy.runtimes.hybrid.survey import Survey
from prunedeploy.targets import Target

# A non-zero of scattered zeros takes so many times as long as a weight of a dense product; a dense
# layer takes as long as in ONNX Runtime.
SCATTERED = 1.5
CALL_SECONDS = 10e-6  # of one more node in the session
#: passes over the memory at an edge: it is written by one runtime and read by the other, which
#: each arrange it anew
PASSES = 4


@dataclass(frozen=True)
class Work:
    """Multiply-accumulates of a run: ``macs`` with zeros, ``nonzero`` without."""

    macs: int
    nonzero: int


def of_nodes(nodes: Iterable[ir.Node], survey: Survey) -> dict[str, Work]:
    """The work of every node that multiplies with weights, by name, at the first batch size."""
    works = {str(node.name): _of_node(node, survey) for node in nodes}
    return {name: each for name, each in works.items() if each.macs}


def _of_node(node: ir.Node, survey: Survey) -> Work:
    if node.op_type in work.RECURRENT:
        return _of_recurrent(node, survey)
    if node.op_type not in (*work.CONVOLUTIONS, *work.PRODUCTS) or len(node.inputs) < 2:
        return Work(0, 0)
    swept, weight = work.swept_value(node), node.inputs[1]
    first = survey.tensors(str(swept.name)) if swept is not None else ()
    second = survey.tensors(str(weight.name)) if weight is not None else ()
    if not first or not second or not second[0].rank:
        return Work(0, 0)
    count, kernel = math.prod(first[0].shape), second[0].shape
    if node.op_type in work.CONVOLUTIONS:
        macs = count * math.prod(kernel[1:])
    else:
        transposed = node.op_type == "Gemm" and node.attributes.get_int("transB", False)
        macs = count * (kernel[-1] if transposed else kernel[-2:][0])
    stored = second[0].value
    if stored is None:
        return Work(macs, macs)
    return Work(macs, int(macs * np.count_nonzero(stored) / max(stored.size, 1)))


def _of_recurrent(node: ir.Node, survey: Survey) -> Work:
    """Each step of each sample meets all weights of the input and of the state, zeros or not."""
    given = [survey.tensors(str(value.name)) for value in node.inputs[:3] if value is not None]
    if len(given) < 3 or not all(given):
        return Work(0, 0)
    x, weights, states = (tensors[0] for tensors in given)
    macs = math.prod(x.shape[:2]) * (weights.size + states.size)
    return Work(macs, macs)


def gain_of(part: Part, works: Mapping[str, Work], survey: Survey, target: Target) -> float:
    """Seconds on one core that ``part`` should save by the figures of ``target``, or lose.

    Infinite where there are no figures: measuring decides.
    """
    if not target.macs_per_second or not target.bytes_per_second:
        return math.inf
    own = [works[name] for node in part.nodes if (name := str(node.name)) in works]
    saved = sum(max(x.macs - SCATTERED * x.nonzero, 0.0) for x in own)
    edges = (*part.inputs, *part.outputs)
    elements = sum(survey.tensors(str(value.name))[0].size for value in edges)
    seconds = 4 * PASSES * elements / target.bytes_per_second
    return saved / target.macs_per_second - seconds - CALL_SECONDS
