"""Training with soft thresholds to a sparsity: what STR and STR-BN have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping

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


class Correction:
    """Sets the offset of all thresholds after the steps at which the sparsity is to change."""

    def __init__(self, run: Run, thresholds: SoftThresholds, sparsity: Callable[[], float]) -> None:
        begin, self._end = run.at(run.options["begin"]), run.at(run.options["end"])
        self._every = max(1, (self._end - begin) // run.options["times"])
        self._rising = cubic(begin, self._end, self._every, run.density)
        self._wanted = run.settings.sparsity
        self._thresholds, self._sparsity = thresholds, sparsity

    def __call__(self, step: int) -> None:
        """What is due at ``step``: up to the end at least the scheduled share, then the last."""
        density = self._rising(step)
        if density is not None:
            self._thresholds.solve(self._sparsity, 1 - density, self._wanted)
        elif step > self._end and step % self._every == 0:
            self.finish()

    def finish(self) -> float:
        """Meet the sparsity asked for, and return what that is to the nearest unit."""
        return self._thresholds.solve(self._sparsity, self._wanted, self._wanted)

    def state_dict(self) -> dict[str, float]:
        """The offset; the thresholds themselves are in the module's state."""
        return {"offset": float(self._thresholds.offset)}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go to the state."""
        self._thresholds.offset.fill_(state["offset"])


def train_with(run: Run, thresholds: SoftThresholds, sparsity: Callable[[], float]) -> None:
    """Train to the end; ``sparsity()`` rises to the one asked for, and is that at the end."""
    correction = Correction(run, thresholds, sparsity)
    run.trainer.optimizer.add_param_group({"params": thresholds.parameters})
    run.train(on_step=correction)
    run.trainer.drop_last_group()
    reached = correction.finish()
    values = sorted(thresholds.values)
    run.notes.append(
        f"sparsity {reached:.2%}; s from {values[0]:.3g} to {values[-1]:.3g}, to each of which"
        f" {float(thresholds.offset):+.3g} was added"
    )
