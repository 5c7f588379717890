"""IMP-Regroup: dense blocks out of a scattered ticket, trained from early weights.

Chen et al., "Coarsening the Granularity", ICML 2022, algorithm 3; see ``passes/blocks``. The paper
names no values of t1, t2, b1, b2: the largest t2 is taken that leaves a layer at least as many
weights as the ticket has.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from prunedeploy.core.records import Array
from prunedeploy.passes.blocks import Regrouped, Rule, regroup
from prunedeploy.sparsify.masks import Held
from prunedeploy.sparsify.methods._tickets import OPTIONS, scattered_ticket
from prunedeploy.sparsify.methods.refill import PAPER
from prunedeploy.sparsify.run import Method, MethodReport, MethodSettings, Run
from prunedeploy.sparsify.trainer import Trainer
from prunedeploy.sparsify.units import Masks

ROWS = 32  # of a group that the partitioner is asked for
MAX_T2 = 33


def run(trainer: Trainer, settings: MethodSettings) -> MethodReport:
    """Options: those of IMP and ``source``, as of Refill; ``b1``, ``b2`` and ``t2`` of the rule.

    Where ``t2`` is 0, each layer has the largest that leaves it as many weights as the ticket.
    Layers in which no block is found keep their scattered mask, and a note says so.
    """
    this = Run(trainer, settings, {**OPTIONS, "b1": 8, "b2": 8, "t2": 0})
    ticket = scattered_ticket(this)
    parameters = dict(trainer.module.named_parameters())
    rule = Rule("paper", b1=this.options["b1"], b2=this.options["b2"], seed=settings.seed)
    masks: Masks = {}
    for name, mask in ticket.sparsifier.masks.items():
        blocks = _blocks(parameters[name].detach(), mask, rule, this.options["t2"])
        masks[name] = torch.from_numpy(blocks.mask.reshape(mask.shape).copy())
        this.notes.append(f"{name}: {blocks.note}")
    trainer.load_state_dict(ticket.early)
    this.train(held=Held(trainer.module, masks))
    return this.report(masks)


def _blocks(weight: Tensor, mask: Tensor, rule: Rule, t2: int) -> Regrouped:
    """Blocks by the rule with ``t2``, or with the one that leaves as many weights as ``mask``."""
    array = (weight * mask).numpy()
    rule = replace(rule, t1=max(len(array) // ROWS, 1))
    if t2:
        return regroup(array, replace(rule, t2=t2))
    return _as_many(array, int(mask.sum()), rule)


def _as_many(array: Array, wanted: int, rule: Rule) -> Regrouped:
    """Blocks with the largest t2 that leaves at least ``wanted`` weights, by bisection."""
    low, high = 1, MAX_T2
    best = regroup(array, replace(rule, t2=low))
    while best.found and high - low > 1:
        middle = (low + high) // 2
        trial = regroup(array, replace(rule, t2=middle))
        if trial.found and trial.mask.sum() >= wanted:
            low, best = middle, trial
        else:
            high = middle
    return best


METHODS = (Method("regroup", PAPER, "blocks", run),)
