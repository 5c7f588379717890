"""What is wanted of one shot."""

from __future__ import annotations

import math
from dataclasses import dataclass

from prunedeploy.core.errors import UserError

METHODS = ("magnitude", "wanda", "obs")
SHARES = ("global", "uniform", "erk")  # budgets by scores and a density
LATENCY = "latency"
PATTERNS = ("scattered", "blocks", "1x4", "2:4")
CHANNELS, MIXED = "channels", "mixed"
UNITS = (*PATTERNS, CHANNELS, MIXED)


@dataclass(frozen=True)
class OneShotOptions:
    """How sparse or how fast a network is to become, and by what.

    Args:
        density: the share that stays of the weights of the layers that may lose some.
        flops: the share of all multiply-accumulates that stays, where zeros are left out.
        speedup: a speed on ``target``, in multiples of that of the dense network in the best stock
            runtime there. One of these three is given.
        target: a name of ``targets.TARGETS`` or of the user's own, for ``speedup``.
        method: of scoring weights: "magnitude", "wanda" or "obs" (see ``criteria``).
        budget: how much every layer keeps: "global" ranks the weights of all layers together,
            "uniform" takes the same share of each, "erk" more of the small ones, "latency" the
            least error for the time (see ``allocation``). By default "latency" for a speed, else
            "global".
        units: what is kept or removed together: "scattered" weights, "channels" as shrink removes
            them, "blocks" of 8 outputs that share a column, "1x4" neighbours, "2:4" of each four,
            or "mixed": of scattered weights and blocks in each layer what is best for its time.
        batch: inputs of a run, for ``speedup``.
        threads: of a run, for ``speedup``; 0 for all cores.
        distill: steps of training by the dense network's outputs, on the same samples.
        finetune: epochs of training by labels.
        seed: of all that is drawn.

    Raises:
        UserError: not exactly one of the three, a share or a speed that makes no sense, or a name
            that is none.
    """

    density: float | None = None
    flops: float | None = None
    speedup: float | None = None
    target: str = "host"
    method: str = "obs"
    budget: str = ""
    units: str = "scattered"
    batch: int = 1
    threads: int = 0
    distill: int = 0
    finetune: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        wanted = {"density": self.density, "flops": self.flops, "speedup": self.speedup}
        given = [(name, each) for name, each in wanted.items() if each is not None]
        if len(given) != 1:
            raise UserError("say how sparse or how fast: one of --density, --flops and --speedup")
        name, number = given[0]
        if name == "speedup" and not 0 < number < math.inf:
            raise UserError(f"a speed-up of {number:g} makes no sense: give one above 1")
        if name != "speedup" and not 0 < number <= 1:
            raise UserError(f"a {name} of {number:g} makes no sense: give a share in (0, 1]")
        _check_name("method", self.method, METHODS)
        _check_name("budget", self.budget or LATENCY, (*SHARES, LATENCY))
        _check_name("units", self.units, UNITS)
        if self.budget == LATENCY and self.speedup is None:
            raise UserError("the budget latency is for a speed: give --speedup, or another budget")
        if min(self.batch, self.threads + 1, self.distill + 1) < 1 or not 0 <= self.finetune < 1e6:
            raise UserError("batch has to be from 1, threads, distill and finetune from 0")

    @property
    def chosen_budget(self) -> str:
        """The budget that was given, or else the best for what is wanted."""
        return self.budget or ("global" if self.speedup is None else LATENCY)


def _check_name(what: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise UserError(f"no {what} called {name!r}: use {', '.join(known)}")
