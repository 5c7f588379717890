"""A training loop that records its epochs and goes on where a killed one was.

A method calls ``Trainer.run`` once or many times. The state at the end of each epoch of each call
is kept in a file; when the method runs again, each call begins at the newest state that is kept of
it. That is the same computation, because a method is a function of the states that it sees. Where a
hook has a state of its own that it does not hand out, the call is computed anew.
"""

from __future__ import annotations

import hashlib
import inspect
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from prunedeploy.core.files import atomic_path
from prunedeploy.core.progress import Counted
from prunedeploy.sparsify.trainer import Data, Trainer, TrainSettings, accuracy


@dataclass(frozen=True)
class Epoch:
    """One epoch: which call of ``run``, the step at its end, and what the network then is.

    ``loss`` is of the last batch, ``accuracy`` on the held-out examples, None without any;
    ``sparsity`` is the share of zeros in weights of two and more axes.
    """

    call: int
    step: int
    loss: float
    accuracy: float | None
    sparsity: float


@runtime_checkable
class Stateful(Protocol):
    """What hands out its state and takes it back."""

    def state_dict(self) -> dict[str, Any]:
        """A copy of the state."""

    def load_state_dict(self, state: Any) -> Any:
        """Go to the state."""


class RecordedTrainer(Trainer):
    """A trainer that fills ``epochs``, and keeps states in ``folder`` where there is one."""

    def __init__(
        self,
        module: nn.Module,
        data: Data,
        settings: TrainSettings,
        selection: Data,
        folder: Path | None = None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        super().__init__(module, data, settings)
        self.epochs: list[Epoch] = []
        self.resumed = False
        self._selection, self._folder, self._progress = selection, folder, progress
        self._call = -1
        self._begin, self._before = time.monotonic(), 0.0

    @property
    def seconds(self) -> float:
        """Since the training began, without the time that it was interrupted."""
        return self._before + time.monotonic() - self._begin

    def run(self, until: int | None = None, on_step: Callable[[int], None] | None = None) -> None:
        """Train up to step ``until``, from the newest state that is kept of this call."""
        self._call += 1
        holders = self._holders(on_step)
        file = None
        if self._folder is not None and holders is not None:
            file = self._folder / f"call-{self._call}.pt"
        begin = fingerprint(self.module, self.step)
        if file is not None and file.is_file():
            self._go_on(file, begin, holders or [])

        def after(step: int) -> None:
            if on_step is not None:
                on_step(step)
            if step % self.steps_per_epoch == 0:
                self._record()
                if file is not None:
                    self._keep(file, begin, holders or [])

        super().run(until, after)
        if file is not None:
            self._keep(file, begin, holders or [])

    def _holders(self, on_step: Callable[[int], None] | None) -> list[Stateful] | None:
        """Whoever has a state beside module and optimizer; None where one does not hand it out."""
        # torch has no public list of the hooks that its public functions add
        pre, post = (getattr(self.optimizer, f"_optimizer_step_{x}_hooks") for x in ("pre", "post"))
        hooks = [*pre.values(), *post.values(), *([on_step] if on_step else [])]
        owners = [owner for hook in hooks for owner in _owners(hook)]
        stateful = [owner for owner in owners if isinstance(owner, Stateful)]
        if len(stateful) < len(owners):
            return None
        return list({id(owner): owner for owner in stateful}.values())

    def _record(self) -> None:
        selected = None
        if len(self._selection.labels):
            selected = accuracy(self.module, self._selection)
            self.module.train()
        epoch = Epoch(self._call, self.step, self.loss, selected, zeros(self.module))
        self.epochs.append(epoch)
        done, total = self.step // self.steps_per_epoch, -(-self.steps // self.steps_per_epoch)
        self._progress(Counted(f"training, part {self._call + 1}", done, total))

    def _keep(self, file: Path, begin: str, holders: list[Stateful]) -> None:
        kept = {
            "begin": begin,
            "trainer": self.state_dict(),
            "loss": self.loss,
            "holders": [holder.state_dict() for holder in holders],
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "seconds": self.seconds,
        }
        with atomic_path(file) as temporary:
            torch.save(kept, temporary)

    def _go_on(self, file: Path, begin: str, holders: list[Stateful]) -> None:
        """Go to the state in ``file``, if it is of a call that began as this one does."""
        kept = torch.load(file, weights_only=True)
        if kept["begin"] != begin or len(kept["holders"]) != len(holders):
            return
        self.load_state_dict(kept["trainer"])
        for holder, state in zip(holders, kept["holders"], strict=True):
            holder.load_state_dict(state)
        self.loss = kept["loss"]
        self.epochs = [Epoch(**epoch) for epoch in kept["epochs"]]
        self._before, self._begin, self.resumed = kept["seconds"], time.monotonic(), True


def _owners(hook: Callable[..., object]) -> list[object]:
    """Whatever a hook may keep a state in: its object, or the variables that it closes over."""
    if inspect.ismethod(hook):
        return [hook.__self__]
    if inspect.isfunction(hook):
        return list(inspect.getclosurevars(hook).nonlocals.values())
    return [hook]


def zeros(module: nn.Module) -> float:
    """The share of zeros in the parameters of two and more axes."""
    weights = [each.detach() for each in module.parameters() if each.dim() > 1]
    total = sum(each.numel() for each in weights)
    return sum(int((each == 0).sum()) for each in weights) / total if total else 0.0


def fingerprint(module: nn.Module, step: int = 0) -> str:
    """The SHA-256 of all parameters and buffers, and of ``step``."""
    digest = hashlib.sha256(str(step).encode())
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
