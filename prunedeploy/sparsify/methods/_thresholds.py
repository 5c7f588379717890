"""Training with soft thresholds to a sparsity: what STR and STR-BN have in common."""

from __future__ import annotations

from collections.abc import Callable

from prunedeploy.sparsify.run import Run
from prunedeploy.sparsify.schedules import cubic
from prunedeploy.sparsify.soft_threshold import SoftThresholds, start_of

# ``s_end`` is where weight decay alone would take every s. From ``begin`` to ``end``, shares of
# training, the sparsity rises to the one asked for in ``times`` corrections, and is corrected as
# often after; where the thresholds give more by themselves, up to that, they are left to.
OPTIONS = {"s_end": -10.0, "begin": 0.1, "end": 0.6, "times": 20}


def start(run: Run) -> float:
    """Every s at the start."""
    trainer, settings = run.trainer, run.trainer.settings
    rates = sum(trainer.learning_rate(step) for step in range(trainer.steps))
    return start_of(run.options["s_end"], settings.weight_decay, rates, settings.momentum)


def train_with(run: Run, thresholds: SoftThresholds, sparsity: Callable[[], float]) -> None:
    """Train to the end; ``sparsity()`` rises to the one asked for, and is that at the end."""
    begin, end = run.at(run.options["begin"]), run.at(run.options["end"])
    every = max(1, (end - begin) // run.options["times"])
    rising = cubic(begin, end, every, run.density)
    wanted = run.settings.sparsity

    def correct(step: int) -> None:
        density = rising(step)
        if density is not None:
            thresholds.solve(sparsity, 1 - density, wanted)
        elif step > end and step % every == 0:
            thresholds.solve(sparsity, wanted, wanted)

    run.trainer.optimizer.add_param_group({"params": thresholds.parameters})
    run.train(on_step=correct)
    run.trainer.drop_last_group()
    reached = thresholds.solve(sparsity, wanted, wanted)
    values = sorted(thresholds.values)
    run.notes.append(
        f"sparsity {reached:.2%}; s from {values[0]:.3g} to {values[-1]:.3g}, to each of which"
        f" {float(thresholds.offset):+.3g} was added"
    )
