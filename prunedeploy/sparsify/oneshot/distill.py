"""A little training after one shot: by the dense network's outputs, or by labels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunedeploy.core.errors import UserError
from prunedeploy.core.progress import Counted
from prunedeploy.sparsify.masks import Held
from prunedeploy.sparsify.oneshot.calibrate import Inputs, logits, run
from prunedeploy.sparsify.oneshot.study import Progress
from prunedeploy.sparsify.trainer import Data, Trainer, TrainSettings, flip_crop
from prunedeploy.sparsify.units import Masks

BATCH, TEMPERATURE = 100, 2.0
RATES = {True: 0.01, False: 1e-4}  # learning rates of SGD with BatchNorm, of AdamW without
FINETUNE_RATE = 0.01


def distill(
    sparse: nn.Module,
    dense: nn.Module,
    inputs: Inputs,
    masks: Masks,
    steps: int,
    *,
    seed: int = 0,
    progress: Progress = lambda _: None,
) -> None:
    """Train ``sparse``, in place, towards the outputs of ``dense`` on ``inputs``.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015: the divergence
    of both networks' class probabilities at a temperature of 2. Images are flipped and moved at
    random, the same for both. The masks hold, and ``sparse`` is left in eval mode.

    Args:
        sparse: with the zeros of ``masks``.
        dense: in eval mode.
        inputs: all samples as one batch.
        masks: True is kept.
        steps: optimizer steps of ``BATCH`` samples each, with a learning rate that falls in a
            cosine.
        seed: of samples and augmentation.
        progress: called with one line of text for each step.
    """
    generator = torch.Generator().manual_seed(seed)
    plain = any(isinstance(each, nn.modules.batchnorm._BatchNorm) for each in sparse.modules())
    rate = RATES[plain]
    optimizer = _optimizer(sparse.requires_grad_(True), plain, rate)
    with Held(sparse, masks, optimizer):
        for step in range(steps):
            progress(Counted("distilling", step, steps))
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 + math.cos(math.pi * step / steps)) / 2
            batch = _drawn(inputs, generator)
            with torch.no_grad():
                taught = logits(run(dense, batch))
            sparse.train()
            loss = _divergence(logits(run(sparse, batch)), taught)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    sparse.eval().requires_grad_(False)


def finetune(
    sparse: nn.Module,
    inputs: Inputs,
    labels: Tensor | None,
    masks: Masks,
    epochs: float,
    *,
    seed: int = 0,
) -> None:
    """Train ``sparse``, in place, by labels int64 [N]; the masks hold.

    Raises:
        UserError: there are no labels, or the network takes several inputs.
    """
    if labels is None:
        raise UserError("training needs labels: store them beside the samples, or use --distill")
    if not isinstance(inputs, Tensor):
        raise UserError("training by labels is for networks of one input: use --distill")
    augment = "flip-crop" if inputs.dim() == 4 else "none"
    settings = TrainSettings(
        epochs=epochs, batch=min(BATCH, len(labels)), lr=FINETUNE_RATE, augment=augment, seed=seed
    )
    trainer = Trainer(sparse.requires_grad_(True), Data(inputs, labels, (), ()), settings)
    with Held(sparse, masks, trainer.optimizer):
        trainer.run()
    sparse.eval().requires_grad_(False)


def _optimizer(module: nn.Module, plain: bool, rate: float) -> torch.optim.Optimizer:
    if plain:
        return torch.optim.SGD(module.parameters(), rate, momentum=0.9)
    return torch.optim.AdamW(module.parameters(), rate)


def _drawn(inputs: Inputs, generator: torch.Generator) -> Inputs:
    tensors: Sequence[Tensor] = [inputs] if isinstance(inputs, Tensor) else [*inputs.values()]
    chosen = torch.randint(len(tensors[0]), (BATCH,), generator=generator)
    if not isinstance(inputs, Tensor):
        return {name: each[chosen] for name, each in inputs.items()}
    batch = inputs[chosen]
    return flip_crop(batch, generator) if batch.dim() == 4 else batch


def _divergence(learnt: Tensor, taught: Tensor) -> Tensor:
    student, teacher = (F.log_softmax(x / TEMPERATURE, -1).flatten(0, -2) for x in (learnt, taught))
    loss = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return loss * TEMPERATURE**2
