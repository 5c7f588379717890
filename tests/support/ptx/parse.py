"""PTX text to instructions: the part of PTX ISA 6.4 that the runtime emits.

One scope a kernel, registers in ranges (``.reg .f32 %f<8>;``), labels, ``.branchtargets`` tables
and arrays of bytes in shared memory.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache, lru_cache

SHARED_BASE = 0x10_0000

_ENTRY = re.compile(
    r"\.entry\s+(\w+)\s*\(([^)]*)\)([^{]*)\{([^{}]*(?:\{[^}]*\}[^{}]*)*)\}", re.DOTALL
)
_LABEL = re.compile(r"\s*([\w$]+)\s*:(?!:)")
_TARGETS = re.compile(r"\s*([\w$]+)\s*:\s*\.branchtargets\s+(.*)", re.DOTALL)
_SHARED = re.compile(r"\.shared\s+\.align\s+(\d+)\s+\.b8\s+(\w+)\[(\d+)\]")
_RANGE = re.compile(r"(.*)<(\d+)>")
_OPERANDS = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*")
_MEMORY = re.compile(r"\[\s*([%\w$]+)\s*(?:\+\s*(-?\d+))?\s*\]")


class PtxError(Exception):
    """What a kernel does that it must not do, or that the machine does not know."""


@dataclass(frozen=True)
class Memory:
    """An address: a register, parameter or array, and bytes behind it."""

    base: str
    offset: int


Operand = str | Memory | tuple[str, ...]


@dataclass(frozen=True)
class Instruction:
    """One instruction; ``guard`` is its predicate, and whether it is negated."""

    op: tuple[str, ...]
    operands: tuple[Operand, ...]
    guard: tuple[str, bool] | None = None

    def __str__(self) -> str:
        return f"{'.'.join(self.op)} {', '.join(map(str, self.operands))}"


@dataclass
class Kernel:
    """An entry, parsed: ``registers`` by their types, ``shared`` arrays by their addresses."""

    name: str
    params: tuple[str, ...]
    max_threads: int
    code: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    tables: dict[str, list[str]] = field(default_factory=dict)
    registers: dict[str, str] = field(default_factory=dict)
    shared: dict[str, int] = field(default_factory=dict)
    shared_size: int = 0


def parse(text: str) -> dict[str, Kernel]:
    """Every entry of a module, by name.

    Raises:
        PtxError: a directive or form that the machine does not know.
    """
    text = re.sub(r"//[^\n]*", "", text)
    kernels = {}
    for name, params, directives, body in _ENTRY.findall(text):
        names = tuple(p.split()[-1] for p in params.split(",") if p.strip())
        bound = re.search(r"\.maxntid\s+(\d+)", directives)
        kernel = Kernel(name, names, int(bound.group(1)) if bound else 1024)
        for statement in body.split(";"):
            _statement(kernel, statement)
        kernels[name] = kernel
    return kernels


def _statement(kernel: Kernel, text: str) -> None:
    if table := _TARGETS.fullmatch(text):
        kernel.tables[table.group(1)] = [x.strip() for x in table.group(2).split(",")]
        return
    while ":" in text and (label := _LABEL.match(text)):
        kernel.labels[label.group(1)] = len(kernel.code)
        text = text[label.end() :]
    text = text.strip()
    if not text:
        return
    if text.startswith(".reg"):
        _registers(kernel, text)
    elif text.startswith(".shared"):
        _shared(kernel, text)
    elif text.startswith("."):
        raise PtxError(f"unknown directive {text}")
    else:
        kernel.code.append(_instruction(text))


def _registers(kernel: Kernel, text: str) -> None:
    _, kind, names = text.split(None, 2)
    for name in names.split(","):
        ranged = _RANGE.fullmatch(name.strip())
        if ranged is None:
            kernel.registers[name.strip()] = kind[1:]
            continue
        for number in range(int(ranged.group(2))):
            kernel.registers[f"{ranged.group(1)}{number}"] = kind[1:]


def _shared(kernel: Kernel, text: str) -> None:
    found = _SHARED.fullmatch(text)
    if found is None:
        raise PtxError(f"unknown directive {text}")
    align, size = int(found.group(1)), int(found.group(3))
    kernel.shared_size = -(-kernel.shared_size // align) * align
    kernel.shared[found.group(2)] = SHARED_BASE + kernel.shared_size
    kernel.shared_size += size


def _instruction(text: str) -> Instruction:
    guard = None
    if text[0] == "@":
        predicate, text = text.split(None, 1)
        guard = (predicate.lstrip("@!"), predicate[1] == "!")
    op, _, rest = text.partition(" ")
    return Instruction(_op(op), tuple(_operand(x) for x in _OPERANDS.findall(rest)), guard)


@cache
def _op(text: str) -> tuple[str, ...]:
    return tuple(text.split("."))


@lru_cache(maxsize=100_000)
def _operand(text: str) -> Operand:
    text = text.strip()
    if text[0] == "{":
        return tuple(x.strip() for x in text[1:-1].split(","))
    if text[0] == "[":
        found = _MEMORY.fullmatch(text)
        if found is None:
            raise PtxError(f"unknown address {text}")
        return Memory(found.group(1), int(found.group(2) or 0))
    return text
