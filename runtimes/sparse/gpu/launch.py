"""The records that emission ends in: kernels, and the table of their launches."""

from __future__ import annotations

from dataclasses import dataclass

from prunedeploy.runtimes.sparse.plan.steps import Plan
from prunedeploy.runtimes.sparse.plan.views import View

MAX_GRID_Y = 65_535


@dataclass(frozen=True)
class ErrorWord:
    """Stands for the word of memory in which kernels note the code of an error."""


Argument = View | int | ErrorWord


@dataclass(frozen=True)
class Cost:
    """What a launch makes the GPU do, of all its threads together.

    Args:
        fma: multiply-adds of useful threads.
        instructions: of all warps, times 32.
        l1: bytes that loads move from L1.
        moved: bytes of tensors and constants, each once.
        code: instructions of all programs; those of a loop once.
        longest: instructions of the longest thread.
        fetched: instructions that all blocks fetch, each block its program once.
        waits: how often the longest thread waits for loads.
    """

    fma: int
    instructions: int
    l1: int
    moved: int
    code: int
    longest: int
    fetched: int
    waits: int


@dataclass(frozen=True)
class Kernel:
    """An entry and how it is launched.

    Args:
        name: of the entry.
        step: the step of the plan that it computes.
        kind: which emitter wrote it.
        choice: the schedule, in words.
        text: PTX without the module's header.
        grid: blocks along x and y.
        block: threads of a block.
        arguments: its pointers: a view of the plan, bytes behind the begin of the constants, or
            the word for errors.
        cost: what it makes the GPU do.
    """

    name: str
    step: str
    kind: str
    choice: str
    text: str
    grid: tuple[int, int]
    block: int
    arguments: tuple[Argument, ...]
    cost: Cost


@dataclass(frozen=True)
class Priced:
    """A launch without its code: what predictions are made of. ``blocks`` is of the whole grid."""

    step: str
    kind: str
    choice: str
    cost: Cost
    blocks: int


@dataclass(frozen=True)
class Launch:
    """A kernel with the offsets of its pointers, in bytes of the session's memory."""

    kernel: Kernel
    offsets: tuple[int, ...]


@dataclass(frozen=True)
class LaunchTable:
    """All launches of a batch size, in order, and where its tensors lie.

    Memory begins with the constants, which all batch sizes share; the arena follows, then inputs
    and outputs, each on a boundary of 256 bytes, then the word for errors. ``checks`` says whether
    a kernel may note one.
    """

    batch: int
    launches: tuple[Launch, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    error: int
    size: int

    @property
    def checks(self) -> bool:
        """Whether some kernel may note an error."""
        return any(ErrorWord() in launch.kernel.arguments for launch in self.launches)


@dataclass(frozen=True)
class Module:
    """A PTX module with its launch tables and constants; ``plans`` are what it was emitted from."""

    text: str
    constants: bytes
    tables: tuple[LaunchTable, ...]
    plans: tuple[Plan, ...]
