"""The parts that all emitters share: pointers into memory, and the store of constants."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.isa import ISAS
from prunedeploy.runtimes.sparse.kernels.blocks import BlockCache
from prunedeploy.runtimes.sparse.kernels.kernel import Scope
from prunedeploy.runtimes.sparse.plan.steps import Plan
from prunedeploy.runtimes.sparse.plan.views import GUARD, Buffer, View

ALIGNMENT = 64  # bytes: constants start on a vector's boundary
C_TYPES = {
    "float32": "float",
    "int64": "int64_t",
    "int32": "int32_t",
    "bool": "uint8_t",
    "uint8": "uint8_t",
}


class Constants:
    """All constants of an engine, one after the other; the same bytes are stored once."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._offsets: dict[bytes, int] = {}
        self.size = 0

    def add(self, array: Array) -> int:
        """The offset in bytes of ``array``'s elements, in C order."""
        data = np.ascontiguousarray(array).tobytes()
        key = hashlib.sha256(data).digest()
        if key not in self._offsets:
            self._offsets[key] = self.size
            padded = data + bytes(-len(data) % ALIGNMENT)
            self._parts.append(padded)
            self.size += len(padded)
        return self._offsets[key]

    def data(self) -> bytes:
        """The whole store, with what kernels may read beyond its end."""
        return b"".join([*self._parts, bytes(4 * GUARD)])


@dataclass(frozen=True)
class Code:
    """C statements of one step.

    ``body`` is the body of a function with ``const pd_work *w`` in scope, run by every thread at
    once; each does its share (``pd_share``). ``top`` is what has to stand before it at file level
    (tables, instances of kernels); the same text is written once however many steps bring it.
    ``headers`` are files of ``c/`` to include. ``scratch`` is float32 elements of ``w->scratch``.
    ``choice`` says in a word or two how the step is computed, for reports; ``cycles`` what the cost
    model says that the busiest thread needs, where it has a say. For a layer with weights,
    ``kernel`` names what computes it, ``stored`` is the type of its weights, and ``dense`` says
    whether zeros are stored.
    """

    body: str
    top: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    scratch: int = 0
    choice: str = ""
    cycles: float = 0.0
    kernel: str = ""
    stored: str = "float32"
    dense: bool = False


@dataclass
class Context:
    """Where a plan's memory and constants are, in words of C.

    ``threads`` is how many the engine is expected to run with; ``tuned`` maps a step's name to
    what the tuner chose for it (see ``tune``); ``code`` holds machine code of ``kernels.jit``;
    ``blocks`` remembers the blocks of layers.
    """

    plan: Plan
    constants: Constants
    isa: str
    threads: int = 2
    tuned: dict[str, Any] = field(default_factory=dict)
    code: Constants = field(default_factory=Constants)
    blocks: BlockCache = field(default_factory=BlockCache)

    @property
    def scope(self) -> Scope:
        """All that the costs of schedules depend on."""
        return Scope(ISAS[self.isa], self.threads, self.blocks)

    def pointer(self, view: View) -> str:
        """C expression: pointer to the view's first element, const where it is an input."""
        buffer = self.plan.buffers[view.buffer]
        if buffer.space == "arena":
            at = f"w->arena + {self.plan.offsets[view.buffer]}"
            if buffer.dtype == "uint8":
                return f"((uint8_t *)({at}) + {view.offset})"
            return f"(w->arena + {self.plan.offsets[view.buffer] + view.offset})"
        if buffer.value is not None:
            return f"({self.constant(buffer.value)} + {view.offset})"
        return f"({self._cast(buffer)}w->{buffer.space}s[{buffer.index}] + {view.offset})"

    def pointers(self, *views: View | None) -> str:
        """C expressions of all of them as arguments; 0 for those that are not there."""
        return ", ".join("0" if view is None else self.pointer(view) for view in views)

    def dtype(self, view: View) -> str:
        """C type of the view's elements."""
        return C_TYPES[self.plan.buffers[view.buffer].dtype]

    def constant(self, array: Array) -> str:
        """C expression: pointer to ``array``'s elements among the constants, 64-byte aligned."""
        kind = {"f": "float", "i": "int", "u": "uint"}[array.dtype.kind]
        name = kind if kind == "float" else f"{kind}{array.dtype.itemsize * 8}_t"
        return f"((const {name} *)(w->weights + {self.constants.add(array)}))"

    @staticmethod
    def _cast(buffer: Buffer) -> str:
        const = "const " if buffer.space == "input" else ""
        return f"({const}{C_TYPES[buffer.dtype]} *)"
