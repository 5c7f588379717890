"""The text of one PTX entry under construction: registers, labels, instructions."""

from __future__ import annotations

import struct
from collections.abc import Sequence

# What the driver of CUDA 10.2 reads, the newest for the Jetson Nano, and every later one as well.
VERSION = "6.4"
HEADER = f".version {VERSION}\n.target sm_53\n.address_size 64\n"
# An instruction's own offset has 24 bits; beyond it the assembler adds to the address each time.
REACH = 1 << 22

_PREFIXES = {"f32": "%f", "u32": "%r", "u64": "%rd", "pred": "%p"}


def f32(value: float) -> str:
    """``value`` rounded to float32, as PTX writes it: by its bits."""
    return f"0f{struct.unpack('<I', struct.pack('<f', value))[0]:08X}"


class Entry:
    """An entry whose parameters are pointers ``p0``, ``p1``, ... to global memory.

    Args:
        name: of the entry.
        pointers: how many.
        threads: of a block, at most.
    """

    def __init__(self, name: str, pointers: int, threads: int) -> None:
        self.name, self.pointers, self.threads = name, pointers, threads
        self.lines: list[str] = []
        self._registers = dict.fromkeys(_PREFIXES, 0)
        self._labels = 0
        self._shared = 0

    def register(self, kind: str) -> str:
        """A new register: f32, u32, u64 or pred."""
        return self.registers(kind, 1)[0]

    def registers(self, kind: str, count: int) -> list[str]:
        """New registers that are numbered in order."""
        first = self._registers[kind]
        self._registers[kind] += count
        return [f"{_PREFIXES[kind]}{first + index}" for index in range(count)]

    def add(self, *instructions: str) -> None:
        """Append instructions, each without its semicolon."""
        self.lines += [f"{text};" for text in instructions]

    def label(self) -> str:
        """A new name for a place in the code."""
        self._labels += 1
        return f"L{self._labels}"

    def mark(self, label: str) -> None:
        """Have ``label`` stand here."""
        self.lines.append(f"{label}:")

    def shared(self, size: int) -> str:
        """The name of ``size`` bytes of shared memory, of which an entry has one array at most."""
        self._shared = size
        return f"shared_{self.name}"

    def pointer(self, index: int) -> str:
        """A register with parameter ``index``."""
        register = self.register("u64")
        self.add(
            f"ld.param.u64 {register}, [p{index}]", f"cvta.to.global.u64 {register}, {register}"
        )
        return register

    def shifted(self, pointer: str, elements: str, signed: bool = False, size: int = 4) -> str:
        """A new pointer, ``elements`` (a u32 register) of ``size`` bytes behind ``pointer``."""
        register = self.register("u64")
        kind = "s32" if signed else "u32"
        self.add(f"mad.wide.{kind} {register}, {elements}, {size}, {pointer}")
        return register

    def branch(self, index: str, labels: Sequence[str]) -> None:
        """Jump to the label that the u32 register ``index`` chooses."""
        if len(labels) == 1:
            return self.add(f"bra {labels[0]}")
        table = self.label()
        self.lines.append(f"{table}: .branchtargets {','.join(labels)};")
        self.add(f"brx.idx {index}, {table}")
        return None

    def text(self) -> str:
        """The entry, complete but for the module's ``HEADER``."""
        pointers = ", ".join(f".param .u64 p{index}" for index in range(self.pointers))
        lines = [f".visible .entry {self.name}({pointers})", f".maxntid {self.threads}, 1, 1", "{"]
        for kind, count in self._registers.items():
            if count:
                lines.append(f".reg .{kind} {_PREFIXES[kind]}<{count}>;")
        if self._shared:
            lines.append(f".shared .align 16 .b8 shared_{self.name}[{self._shared}];")
        return "\n".join([*lines, *self.lines, "ret;", "}"]) + "\n"


class Offsets:
    """Addresses at constant offsets behind a pointer, none farther than an instruction reaches."""

    def __init__(self, entry: Entry, pointer: str) -> None:
        self._entry, self._pointer = entry, pointer
        self._near, self._base = pointer, 0

    def at(self, offset: int) -> str:
        """The operand ``[register+offset]``; moves the register where it has to."""
        if abs(offset - self._base) > REACH:
            if self._near == self._pointer:
                self._near = self._entry.register("u64")
            self._entry.add(f"add.s64 {self._near}, {self._pointer}, {offset}")
            self._base = offset
        return f"[{self._near}+{offset - self._base}]"

    def reset(self) -> None:
        """Forget the moved register: another path of the program comes here."""
        self._near, self._base = self._pointer, 0
