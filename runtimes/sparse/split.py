"""Batches in samples: where a whole batch's tensors do not fit into the caches.

A plan for the whole batch runs step by step over all of it; what a step writes has left the caches
before the next one reads it. Then it is faster when every thread takes one sample from beginning to
end: its tensors stay near, and threads never wait for each other.
"""

from __future__ import annotations

from dataclasses import replace

from prunedeploy.runtimes.sparse.plan import Plan

NEAR = 12 << 20  # bytes of tensors that two threads' caches, and their part of a shared one, hold


def samples(whole: Plan, one: Plan, threads: int) -> Plan:
    """``whole``, or ``one`` repeated for every sample of it, whichever should be faster.

    Args:
        whole: the plan for a batch.
        one: the same model's plan for a batch of 1.
        threads: how many the engine is expected to run with.
    """
    if whole.batch % threads or 4 * whole.arena <= NEAR or not _apart(whole, one):
        return whole
    return replace(
        one, batch=whole.batch, repeats=whole.batch, inputs=whole.inputs, outputs=whole.outputs
    )


def _apart(whole: Plan, one: Plan) -> bool:
    """Whether all that comes and goes has the batch as its first axis."""
    return all(
        port.shape[:1] == (whole.batch,) and single.shape == (1, *port.shape[1:])
        for port, single in zip(
            (*whole.inputs, *whole.outputs), (*one.inputs, *one.outputs), strict=True
        )
    )
