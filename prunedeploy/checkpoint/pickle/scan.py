"""Walks over the opcodes of a pickle before any of it is done, and refuses what no pickle needs.

In a loop of its own: ``pickletools.genops`` takes several times as long, for it decodes every
argument, and a file made for it would keep a command busy for seconds.
"""

from __future__ import annotations

import io
import mmap
import pickle
import pickletools
from dataclasses import dataclass
from typing import BinaryIO

from prunedeploy.core.budget import Budget

MAX_DEPTH = 500  # of tuples within tuples
MAX_LONG_INTEGERS = 10_000  # integers beyond 64 bits
MARK = -1
LINE, LINES = -1, -2  # arguments that end with a newline; two of them
PREFIXES = {pickletools.TAKEN_FROM_ARGUMENT1: 1, pickletools.TAKEN_FROM_ARGUMENT4: 4}
PREFIXES |= {pickletools.TAKEN_FROM_ARGUMENT4U: 4, pickletools.TAKEN_FROM_ARGUMENT8U: 8}
PUTS, GETS = ("PUT", "BINPUT", "LONG_BINPUT"), ("GET", "BINGET", "LONG_BINGET")
# Opcodes whose argument is a length, or an index of the memo.
SIZED = frozenset(("FRAME", "PUT", "BINPUT", "LONG_BINPUT", "GET", "LONG_BINGET"))
GROWING = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS")
KEEPING = ("REDUCE", "BUILD", "NEWOBJ", "NEWOBJ_EX")  # the depth of what they take
LONG = ("INT", "LONG", "LONG1", "LONG4")  # integers of any size


@dataclass(frozen=True, slots=True)
class _Opcode:
    """What an opcode has behind it, takes from the stack and puts there.

    ``fixed`` are the bytes of its argument, or ``LINE`` or ``LINES``; ``prefix`` the bytes of the
    length in front of it, 0 for none.
    """

    name: str
    fixed: int
    prefix: int
    taken: int  # values
    marked: bool  # takes all down to a mark besides
    given: bool
    constant: bool  # takes nothing and gives a value without a tuple in it


def _opcode(info: pickletools.OpcodeInfo) -> _Opcode:
    before = [each.name for each in info.stack_before]
    marked = "mark" in before
    taken = before.index("mark") if marked else len(before)
    size = 0 if info.arg is None else info.arg.n
    prefix = PREFIXES.get(size, 0)
    if info.arg is not None and info.arg.name == "stringnl_noescape_pair":
        size = LINES
    given, special = bool(info.stack_after), info.name in (*GETS, "MARK", "DUP", *LONG)
    constant = given and not before and not special
    return _Opcode(info.name, 0 if prefix else size, prefix, taken, marked, given, constant)


TABLE = {ord(info.code): _opcode(info) for info in pickletools.opcodes}


def check_steps(file: BinaryIO) -> None:
    """Refuse what makes the C unpickler take memory or stack without asking; ``file`` stays where
    it is.

    Lengths, and indices of its memo, that no pickle of this size has: it allocates and fills memory
    for them (a single byte amiss, and it is 64 GB). Tuples in tuples without end: what computes the
    hash of a key goes down into each. Many integers beyond 64 bits, which may all have one hash.
    More steps than a checkpoint of this size takes.

    Raises:
        OverBudgetError: more steps.
        pickle.UnpicklingError: any of the others, or it ends before its last opcode.
    """
    begin = file.tell()
    size = file.seek(0, io.SEEK_END) - begin
    file.seek(begin)
    if isinstance(file, io.BytesIO):
        _check(file.getbuffer()[begin:], size)
    elif size:  # legacy files have gigabytes behind their pickles
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            _check(whole, size, begin)


def _check(data: memoryview | mmap.mmap, size: int, at: int = 0) -> None:
    """Check the pickle at ``at``, of ``size`` bytes with all that is behind it."""
    budget, depths, end = Budget(size), _Depths(), at + size
    allowed, count, long, stack = budget.opcodes, 0, 0, depths.stack
    while True:
        if at >= end:
            raise pickle.UnpicklingError("pickle exhausted before seeing STOP")
        opcode = TABLE.get(data[at])
        if opcode is None:
            raise pickle.UnpicklingError(f"at position {at}, opcode {data[at]:#x} unknown")
        if count > allowed:
            budget.check("a pickle", count, allowed, "steps")
        count += 1
        begin = at + 1
        if opcode.prefix:
            begin += opcode.prefix
            at = begin + int.from_bytes(data[begin - opcode.prefix : begin], "little")
        elif opcode.fixed >= 0:
            at = begin + opcode.fixed
        else:
            at = _after_lines(data, begin, -opcode.fixed)
        if at > end:
            raise pickle.UnpicklingError(f"{opcode.name} reaches beyond the end")
        if opcode.constant:
            stack.append(0)
        elif opcode.name == "STOP":
            return
        elif depths.after(opcode, data, begin, at, size) > MAX_DEPTH:
            raise pickle.UnpicklingError("tuples nested too deeply")
        elif opcode.name in LONG and _is_long(data, opcode, begin, at):
            long += 1
            if long > MAX_LONG_INTEGERS:
                raise pickle.UnpicklingError("too many integers beyond 64 bits")


def _after_lines(data: memoryview | mmap.mmap, at: int, lines: int) -> int:
    for _ in range(lines):
        at = _newline(data, at) + 1
    return at


def _newline(data: memoryview | mmap.mmap, at: int) -> int:
    step = 256
    while part := bytes(data[at : at + step]):
        if (newline := part.find(b"\n")) >= 0:
            return at + newline
        at, step = at + len(part), min(2 * step, 1 << 20)
    raise pickle.UnpicklingError("no newline found")


def _is_long(data: memoryview | mmap.mmap, opcode: _Opcode, begin: int, end: int) -> bool:
    """Whether the integer has more than 64 bits."""
    raw = bytes(data[begin:end])
    if opcode.prefix:
        return len(raw) > 8 and int.from_bytes(raw, "little", signed=True).bit_length() > 64
    return len(raw) > 18 and int(raw.rstrip(b"L\n")).bit_length() > 64


class _Depths:
    """How many tuples lie in one another in each value on the stack of a pickle.

    Lists and dictionaries have no hash, so what is in them does not count.
    """

    def __init__(self) -> None:
        self.stack: list[int] = []
        self._memo: dict[int, int] = {}

    def after(
        self, opcode: _Opcode, data: memoryview | mmap.mmap, begin: int, end: int, size: int
    ) -> int:
        """The depth of the value on top, once ``opcode`` with the argument at ``begin`` is done."""
        name, stack = opcode.name, self.stack
        argument = 0
        if name in SIZED or name in GETS:
            raw = bytes(data[begin:end])
            argument = int(raw) if opcode.fixed < 0 else int.from_bytes(raw, "little")
            if argument > size and name in SIZED:
                raise pickle.UnpicklingError(f"{name} of {argument}")
        if name == "MARK":
            stack.append(MARK)
        elif name in PUTS:
            self._memo[argument] = stack[-1] if stack else 0
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1] if stack else 0
        elif name in GETS:
            stack.append(self._memo.get(argument, 0))
        elif name == "DUP":
            stack += stack[-1:]
        else:
            self._general(opcode)
        return stack[-1] if stack else 0

    def _general(self, opcode: _Opcode) -> None:
        """Update the stack by what the opcode takes from it and puts onto it."""
        stack, deepest = self.stack, 0
        if opcode.marked:
            while stack and (depth := stack.pop()) != MARK:
                deepest = max(deepest, depth)
        first = stack[-opcode.taken] if 0 < opcode.taken <= len(stack) else 0
        for _ in range(opcode.taken):
            if stack and stack[-1] != MARK:
                deepest = max(deepest, stack.pop())
        if opcode.name in GROWING:
            stack.append(max(first, 0))
        elif opcode.given:
            deeper = opcode.name.startswith("TUPLE")
            stack.append(deepest + deeper if deeper or opcode.name in KEEPING else 0)
