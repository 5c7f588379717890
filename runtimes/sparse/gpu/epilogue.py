"""The epilogue of a layer: residual, activation and store, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from prunedeploy.runtimes.sparse.gpu.functions import activate
from prunedeploy.runtimes.sparse.gpu.ptx import Entry, Offsets
from prunedeploy.runtimes.sparse.plan.steps import Activation, Conv


def instructions(step: Conv) -> int:
    """The instructions of the epilogue of one row."""
    return 1 + 2 * (step.residual is not None) + _length(step.activation)


@cache
def _length(activation: Activation) -> int:
    scratch = Entry("scratch", 0, 1)
    activate(scratch, activation, scratch.register("f32"))
    return len(scratch.lines)


@dataclass
class Epilogue:
    """Stores rows of a layer; ``y`` and ``residual`` are pointers at the thread's pixel."""

    entry: Entry
    step: Conv
    y: Offsets
    residual: Offsets | None

    def store(self, row: int, value: str) -> None:
        """Finish output channel ``row``, counted from the pointers on, whose sum is ``value``."""
        if self.residual is not None:
            assert self.step.residual is not None
            added = self.entry.register("f32")
            address = self.residual.at(4 * row * self.step.residual.strides[1])
            # no .nc: the residual may be the memory that the result goes to
            self.entry.add(f"ld.global.f32 {added}, {address}")
            self.entry.add(f"add.rn.f32 {value}, {value}, {added}")
        result = activate(self.entry, self.step.activation, value)
        self.entry.add(f"st.global.f32 {self.y.at(4 * row * self.step.y.strides[1])}, {result}")

    def reset(self) -> None:
        """Forget what another path of the program did."""
        self.y.reset()
        if self.residual is not None:
            self.residual.reset()


def epilogue_of(entry: Entry, step: Conv, y: str, residual: str | None) -> Epilogue:
    """The epilogue of ``step`` from pointers at the thread's pixel of its first row."""
    added = Offsets(entry, residual) if residual is not None else None
    return Epilogue(entry, step, Offsets(entry, y), added)
