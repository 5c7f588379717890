"""One training loop for all methods: deterministic, and able to stop at a step and go on.

All that is random at a step (the order of the images, augmentation, dropout) is a function of the
seed and the step alone, so that the state is the weights, the optimizer and a number.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunedeploy.core.errors import UserError

WARM_UP = 0.3  # share of "onecycle" in which the learning rate rises
MILESTONES = (0.5, 0.75)  # where "steps" divides it by ten
_ORDER, _AUGMENT, _DROPOUT, _SCORE = range(4)  # what a random number is drawn for


@dataclass(frozen=True)
class Data:
    """Inputs and labels of a classification.

    ``inputs`` are images [N, C, H, W], uint8 or floats in [0, 1], or tokens int64 [N, L];
    ``labels`` int64 [N]. ``mean`` and ``std`` of each channel normalise images when they are used;
    empty ones leave them as they are.
    """

    inputs: Tensor
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def batch(self, chosen: Tensor) -> Tensor:
        """The normalised inputs at the indices ``chosen``."""
        return self.normalised(self.inputs[chosen])

    def normalised(self, inputs: Tensor) -> Tensor:
        """Images as floats, by ``mean`` and ``std``; tokens as they are."""
        if inputs.dtype == torch.int64:
            return inputs
        images = inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs.float()
        if self.mean:
            shape = (-1, *[1] * (images.dim() - 2))
            mean, std = torch.tensor(self.mean), torch.tensor(self.std)
            images = (images - mean.reshape(shape)) / std.reshape(shape)
        return images


@dataclass(frozen=True)
class TrainSettings:
    """How to train: SGD with momentum, whose learning rate is a function of the step."""

    epochs: float
    batch: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "cosine"  # a key of LEARNING_RATES
    augment: str = "none"  # "none" | "flip-crop"
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        if self.schedule not in LEARNING_RATES:
            raise UserError(
                f"no schedule is called {self.schedule!r}: use {', '.join(LEARNING_RATES)}"
            )
        if self.augment not in ("none", "flip-crop"):
            raise UserError(f"no augmentation is called {self.augment!r}: use none, flip-crop")
        if self.epochs <= 0 or self.batch < 1 or self.threads < 1:
            raise UserError("epochs, batch and threads have to be more than zero")


def _one_cycle(share: float) -> float:
    """Up in a line, down in a cosine."""
    if share < WARM_UP:
        return share / WARM_UP
    return (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP))) / 2


# the factor of the learning rate, by the share of all steps that is done
LEARNING_RATES: dict[str, Callable[[float], float]] = {
    "cosine": lambda share: (1 + math.cos(math.pi * share)) / 2,
    "steps": lambda share: 0.1 ** sum(share >= at for at in MILESTONES),
    "onecycle": _one_cycle,
    "constant": lambda _: 1.0,
}


class Trainer:
    """Deterministic training of a classifier on the CPU; a step is one optimizer step.

    It can stop at a step and go on bit-identically.

    Example:
        >>> import torch
        >>> from prunedeploy.sparsify.trainer import Data, Trainer, TrainSettings
        >>> data = Data(torch.rand(64, 1, 8, 8), torch.randint(10, (64,)), (), ())
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        >>> trainer = Trainer(network, data, TrainSettings(epochs=2, batch=16))
        >>> trainer.run(until=3)
        >>> trainer.step, trainer.steps
        (3, 8)
    """

    def __init__(self, module: nn.Module, data: Data, settings: TrainSettings) -> None:
        self.module, self.data, self.settings = module, data, settings
        self.steps_per_epoch = max(1, len(data.labels) // settings.batch)
        self.steps = max(1, round(settings.epochs * self.steps_per_epoch))
        self.step = 0
        self.penalty: Callable[[], Tensor] | None = None  # added to the loss
        self.loss = math.nan  # of the last step
        self.optimizer = torch.optim.SGD(
            module.parameters(),
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
        self._order: tuple[int, Tensor] | None = None

    def run(self, until: int | None = None, on_step: Callable[[int], None] | None = None) -> None:
        """Train up to step ``until``, by default the last; ``on_step`` gets the steps done."""
        until = self.steps if until is None else min(until, self.steps)
        with _threads(self.settings.threads), torch.random.fork_rng(devices=[]):
            self.module.train()
            while self.step < until:
                self._train_step()
                self.step += 1
                if on_step is not None:
                    on_step(self.step)
            self.module.eval()

    def learning_rate(self, step: int) -> float:
        """The learning rate of the step that follows ``step`` done ones."""
        return self.settings.lr * LEARNING_RATES[self.settings.schedule](step / self.steps)

    def batches(self, count: int, size: int) -> list[tuple[Tensor, Tensor]]:
        """``count`` batches of training data, not augmented, drawn by the seed; for scores."""
        total = len(self.data.labels)
        generator = _generator(self.settings.seed, _SCORE, 0)
        drawn = [
            torch.randperm(total, generator=generator) for _ in range(-(-count * size // total))
        ]
        chosen = torch.cat(drawn)[: count * size]
        return [
            (self.data.batch(each), self.data.labels[each]) for each in torch.split(chosen, size)
        ]

    def drop_last_group(self) -> None:
        """Train the parameters no more that were added to the optimizer last."""
        for parameter in self.optimizer.param_groups.pop()["params"]:
            self.optimizer.state.pop(parameter, None)

    def state_dict(self) -> dict[str, Any]:
        """A copy of the weights, the optimizer's state, and the step."""
        return {
            "module": deepcopy(self.module.state_dict()),
            "optimizer": deepcopy(self.optimizer.state_dict()),
            "step": self.step,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back, or forth, to a state that ``state_dict`` gave; it is copied."""
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(deepcopy(state["optimizer"]))
        self.step = int(state["step"])

    def _train_step(self) -> None:
        inputs, labels = self._next_batch()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step)
        torch.manual_seed(_seed(self.settings.seed, _DROPOUT, self.step))
        loss = F.cross_entropy(self.module(inputs), labels)
        if self.penalty is not None:
            loss = loss + self.penalty()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.loss = loss.item()

    def _next_batch(self) -> tuple[Tensor, Tensor]:
        epoch, at = divmod(self.step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            generator = _generator(self.settings.seed, _ORDER, epoch)
            self._order = epoch, torch.randperm(len(self.data.labels), generator=generator)
        size = self.settings.batch
        chosen = self._order[1][at * size : (at + 1) * size]
        inputs = self.data.inputs[chosen]
        if self.settings.augment == "flip-crop":
            inputs = flip_crop(inputs, _generator(self.settings.seed, _AUGMENT, self.step))
        inputs = self.data.normalised(inputs)
        if inputs.dim() == 4:  # convolutions train half as fast again in this layout
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return inputs, self.data.labels[chosen]


def flip_crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image [N, C, H, W] flipped or not, and moved by up to an eighth of its size."""
    count, _, height, width = images.shape
    flipped = torch.rand(count, generator=generator) < 0.5
    images = torch.where(flipped[:, None, None, None], images.flip(3), images)
    tall, wide = height // 8, width // 8
    padded = F.pad(images, (wide, wide, tall, tall))
    top = torch.randint(2 * tall + 1, (count, 1), generator=generator)
    left = torch.randint(2 * wide + 1, (count, 1), generator=generator)
    rows, columns = top + torch.arange(height), left + torch.arange(width)
    sample = torch.arange(count)[:, None, None]
    moved = padded.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


@torch.inference_mode()
def accuracy(module: nn.Module, data: Data, batch: int = 500) -> float:
    """The share of ``data`` that ``module`` classifies rightly, in [0, 1]; it is left in eval mode.

    Raises:
        UserError: there are no data.
    """
    if not len(data.labels):
        raise UserError("there are no images to be right or wrong about")
    module.eval()
    right = 0
    for chosen in torch.split(torch.arange(len(data.labels)), batch):
        right += int((module(data.batch(chosen)).argmax(1) == data.labels[chosen]).sum())
    return right / len(data.labels)


def _seed(seed: int, purpose: int, at: int) -> int:
    """A number for each purpose and step of a seed; torch looks at its lower 32 bits alone."""
    return int(np.random.SeedSequence((seed, purpose, at)).generate_state(1)[0])


def _generator(seed: int, purpose: int, at: int) -> torch.Generator:
    return torch.Generator().manual_seed(_seed(seed, purpose, at))


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
