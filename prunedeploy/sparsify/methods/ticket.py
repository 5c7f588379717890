"""Tickets from any source in a form that keeps all their weights: what other forms compare with.

As they are, or with lossless blocks: the cells of dense blocks that the sparse runtime would store
whole in any case are trained as well, so that they cost no time and may bring accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from prunedeploy.passes.blocks import Price, lossless
from prunedeploy.passes.blocks.blocks import cells, matrix_shape
from prunedeploy.sparsify.masks import Held
from prunedeploy.sparsify.methods._tickets import OPTIONS, scattered_ticket
from prunedeploy.sparsify.run import Method, MethodReport, MethodSettings, Run, choose
from prunedeploy.sparsify.trainer import Trainer
from prunedeploy.sparsify.units import Masks

CELL = 0.7  # of a scattered weight's time; the sparse runtime's cost model has 0.5 to 0.9


def run(trainer: Trainer, settings: MethodSettings) -> MethodReport:
    """Options: those of IMP, ``source``, and ``form``: "scattered" or "lossless" blocks.

    ``cell`` is the price of a cell of a block, in scattered weights.
    """
    this = Run(trainer, settings, {**OPTIONS, "form": "scattered", "cell": CELL})
    form = choose(FORMS, this.options["form"], "form of a ticket")
    ticket = scattered_ticket(this)
    masks = form(trainer.module, ticket.sparsifier.masks, this.options["cell"])
    trainer.load_state_dict(ticket.early)
    this.train(held=Held(trainer.module, masks))
    left = sum(int(each.sum()) for each in masks.values())
    kept = sum(int(each.sum()) for each in ticket.sparsifier.masks.values())
    if left > kept:
        this.notes.append(f"{left - kept} weights inside of blocks were filled")
    return this.report(masks)


def with_blocks(module: nn.Module, masks: Masks, cell: float) -> Masks:
    """``masks`` with all cells of the blocks that ``lossless`` finds in them.

    The layers of grouped convolutions stay as they are.
    """
    filled: Masks = {}
    for name, mask in masks.items():
        filled[name] = mask
        if getattr(module.get_submodule(name.rpartition(".")[0]), "groups", 1) == 1:
            blocks = lossless(mask.float().numpy(), Price(cell))
            inside = torch.from_numpy(cells(blocks, matrix_shape(tuple(mask.shape))))
            filled[name] = mask | inside.reshape(mask.shape)
    return filled


FORMS: Mapping[str, Callable[[nn.Module, Masks, float], Masks]] = {
    "scattered": lambda _, masks, __: dict(masks),
    "lossless": with_blocks,
}

METHODS = (Method("ticket", "Frankle et al., ICML 2020", "scattered", run),)
