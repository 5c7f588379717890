"""Networks whose outputs are random: nothing can be compared with them, so they are refused first.

Dropout that was left in training mode, and layers that add noise, make a network give another
answer on every run. No pass keeps such outputs, and no engine has the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array
from prunedeploy.graph.random_nodes import draws, touched_by
from prunedeploy.reference import verify
from prunedeploy.reference.fitting import fitted

MAX_NAMED = 3  # nodes in a message
RUNS = 12  # that have to agree: a draw among few numbers may well give the same one twice


def refuse_random(program: ir.Model, feeds: Mapping[str, Array] | None = None) -> None:
    """Run ``program`` a few times where it draws random numbers that may reach an output.

    A seed does not help: runtimes draw other numbers from it than the reference does.

    Args:
        program: ready for the passes; it is not changed.
        feeds: inputs to run it on; random ones when None.

    Raises:
        UserError: the outputs differ; the message names the nodes that draw random numbers.
    """
    drawing = [node for node in program.graph.all_nodes() if draws(node, program)]
    drawing = [node for node in drawing if touched_by(program.graph, {node})[1]]
    if not drawing:
        return
    given = dict(feeds) if feeds else verify.random_feeds(fitted(program))
    if not any(_differs(program, each) for each in _switched(given)):
        return
    named = [f"{node.op_type} ({node.name})" for node in drawing[:MAX_NAMED]]
    more = f" and {len(drawing) - MAX_NAMED} more" if len(drawing) > MAX_NAMED else ""
    raise UserError(
        f"the outputs are random: {', '.join(named)}{more} draw{'s' * (len(drawing) == 1)} random "
        "numbers on every run: export the network in evaluation mode, or without the noise"
    )


def _switched(feeds: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    """The feeds with every switch on, then off: one of them may be the training mode."""
    yield {k: np.ones_like(a) if a.dtype == np.bool_ else a for k, a in feeds.items()}
    if any(array.dtype == np.bool_ for array in feeds.values()):
        yield {k: np.zeros_like(a) if a.dtype == np.bool_ else a for k, a in feeds.items()}


def _differs(program: ir.Model, feeds: Mapping[str, Array]) -> bool:
    """Whether runs give different outputs, without the seeds of the file."""
    from prunedeploy.reference.evaluate import Evaluator  # reading a model alone does not need it

    unseeded = program.clone()
    for node in unseeded.graph.all_nodes():
        if draws(node, unseeded):
            node.attributes.pop("seed", None)
            if node.op_type == "Dropout" and unseeded.opset_imports.get("", 0) < 7:
                return True  # the reference has no such Dropout
    try:
        first = Evaluator(unseeded).run(feeds)
        others = (Evaluator(unseeded).run(feeds) for _ in range(RUNS - 1))
        return any(_are_different(first, other) for other in others)
    except UserError:  # the reference does not draw everything; whoever runs the model would
        return True


def _are_different(one: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
    return any(not np.array_equal(one[k], other[k], equal_nan=_is_float(one[k])) for k in one)


def _is_float(array: Array) -> bool:
    return array.dtype.kind == "f"
