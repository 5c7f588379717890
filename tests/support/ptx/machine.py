"""Runs a kernel: each instruction at once for all threads of the grid that stand there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ptx.arithmetic import BINARY, BITS, DTYPES, UNARY, Values, compare, convert, fma32
from ptx.memory import ALLOCATED, BASE, UNUSED, WRITTEN, Accesses, Device, Threads
from ptx.parse import SHARED_BASE, Instruction, Kernel, Memory, Operand, PtxError

WARP = 32
ATOMIC = 1 << 40  # the number of the one thread that all atomic accesses count as
Where = Any  # which threads: a slice or an array of their numbers


def launch(
    device: Device,
    kernel: Kernel,
    grid: Sequence[int],
    block: int,
    arguments: Sequence[int],
) -> Run:
    """Run ``kernel`` with a grid of up to three dimensions and blocks of ``block`` threads.

    Raises:
        PtxError: an access that is out of bounds, misaligned, of what nobody wrote, or races with
            another; a barrier that not all reach; what the machine does not know.
    """
    if not 0 < block <= kernel.max_threads:
        raise PtxError(f"{block} threads a block, {kernel.max_threads} at most")
    if len(arguments) != len(kernel.params):
        raise PtxError(f"{len(arguments)} arguments for {len(kernel.params)} parameters")
    run = Run(device, kernel, (*grid, 1, 1)[:3], block, arguments)
    run.run()
    return run


@dataclass
class _Group:
    """Threads that stand at one instruction."""

    where: Where
    size: int


class Run:
    """One launch."""

    def __init__(
        self,
        device: Device,
        kernel: Kernel,
        grid: Sequence[int],
        block: int,
        arguments: Sequence[int],
    ) -> None:
        self.device, self.kernel, self.block_size = device, kernel, block
        blocks = int(np.prod(grid))
        self.count = blocks * block
        self.number = np.arange(self.count, dtype=np.int64)
        self.block = self.number // block
        self.warp = self.block * -(-block // WARP) + self.number % block // WARP
        self.epoch = np.zeros(self.count, np.int64)
        self.special = self._special(grid, block)
        self.registers: dict[str, Values] = {}
        self.arguments = dict(zip(kernel.params, arguments, strict=True))
        words = max(kernel.shared_size + 3, 4) // 4
        self.shared = np.zeros((blocks, 4 * words), np.uint8)
        self.shared_state = np.full((blocks, 4 * words), ALLOCATED, np.uint8)
        self.shared_accesses = Accesses(blocks * words)
        self.accesses = Accesses(device.top // 4 + 1)
        self.byte_accesses = Accesses(device.top)
        self.steps = 0

    def _special(self, grid: Sequence[int], block: int) -> dict[str, Values]:
        thread, number = self.number % block, self.block
        values: dict[str, Any] = {
            "%tid.x": thread,
            "%ctaid.x": number % grid[0],
            "%ctaid.y": number // grid[0] % grid[1],
            "%ctaid.z": number // (grid[0] * grid[1]),
            "%ntid.x": np.full(self.count, block),
            "%nctaid.x": np.full(self.count, grid[0]),
        }
        return {name: value.astype(np.uint32) for name, value in values.items()}

    # -- control ---------------------------------------------------------------------------------

    def run(self) -> None:
        """All threads to the end."""
        end = len(self.kernel.code)
        at, waiting = np.zeros(self.count, np.int64), np.zeros(self.count, np.bool_)
        while True:
            live = (at < end) & ~waiting
            if not live.any():
                if waiting.any():
                    raise PtxError("a barrier that some threads of a block never reach")
                return
            here = int(at[live].min())
            threads = np.flatnonzero((at == here) & live)
            later = at[live & (at > here)]
            stop = int(later.min()) if later.size else end
            here = self._straight(here, stop, threads)
            if here == stop:
                at[threads] = stop
                continue
            self._branch(here, threads, at, waiting, end)

    def _straight(self, here: int, stop: int, threads: Values) -> int:
        """Run to the next branch or to ``stop``; where that is."""
        code = self.kernel.code
        group = _group(threads)
        while here < stop:
            instruction = code[here]
            if instruction.op[0] in ("bra", "brx", "ret", "exit", "bar"):
                return here
            self.steps += 1
            active = group
            if instruction.guard is not None:
                active = _group(threads[self._guard(instruction, threads)])
            if active.size:
                try:
                    self._step(instruction, active)
                except PtxError as error:
                    raise PtxError(f"{self.kernel.name} {here}: {instruction}: {error}") from None
            here += 1
        return here

    def _guard(self, instruction: Instruction, threads: Values) -> Values:
        assert instruction.guard is not None
        name, negated = instruction.guard
        value: Values = self._read(name, "pred", _Group(threads, threads.size))
        return ~value if negated else value

    def _branch(self, here: int, threads: Values, at: Values, waiting: Values, end: int) -> None:
        instruction, kernel = self.kernel.code[here], self.kernel
        taken = threads
        if instruction.guard is not None:
            taken = threads[self._guard(instruction, threads)]
        at[threads] = here + 1
        match instruction.op[0]:
            case "bra":
                at[taken] = kernel.labels[str(instruction.operands[0])]
            case "brx":
                targets = kernel.tables[str(instruction.operands[1])]
                table = np.array([kernel.labels[name] for name in targets])
                index = self._read(instruction.operands[0], "u32", _group(taken))
                if (index >= len(table)).any():
                    raise PtxError(f"{kernel.name} {here}: brx.idx beyond its table")
                at[taken] = table[index]
            case "bar":
                self._barrier(taken, at, waiting, end)
            case _:
                at[taken] = end

    def _barrier(self, taken: Values, at: Values, waiting: Values, end: int) -> None:
        waiting[taken] = True
        idle = waiting | (at >= end)
        warps = np.unique(self.warp[taken])
        inside = np.isin(self.warp, warps)
        if not idle[inside].all():
            raise PtxError(f"{self.kernel.name}: a barrier that a part of a warp reaches")
        whole = idle.reshape(-1, self.block_size).all(axis=1)
        free = np.repeat(whole, self.block_size) & waiting
        ended = (at.reshape(-1, self.block_size) >= end).any(axis=1)
        if (whole & ended & waiting.reshape(-1, self.block_size).any(axis=1)).any():
            raise PtxError(f"{self.kernel.name}: a barrier that some threads have ended before")
        waiting[free] = False
        self.epoch[free] += 1

    # -- operands --------------------------------------------------------------------------------

    def _read(self, operand: Operand, kind: str, group: _Group) -> Any:
        """A value for each thread, or one number for all."""
        assert isinstance(operand, str)
        dtype = DTYPES[kind]
        if operand in self.registers:
            value: Values = self.registers[operand][group.where]
            if value.dtype == dtype:
                return value
            if value.dtype.itemsize != np.dtype(dtype).itemsize:
                raise PtxError(f"{operand} is no {kind}")
            return value.view(dtype)
        if operand in self.special:
            return self.special[operand][group.where].view(dtype)
        if operand in self.kernel.shared:
            return dtype(self.kernel.shared[operand])
        if operand[:2] in ("0f", "0F"):
            return np.uint32(int(operand[2:], 16)).view(dtype)
        if operand in self.kernel.registers:
            raise PtxError(f"uninitialised register {operand}")
        number = int(operand, 0) & ((1 << BITS[kind]) - 1)
        return DTYPES[f"b{BITS[kind]}"](number).view(dtype)

    def _put(self, operand: Operand, value: Any, group: _Group) -> None:
        assert isinstance(operand, str)
        if operand not in self.kernel.registers:
            raise PtxError(f"no register {operand}")
        if operand not in self.registers:
            kind = self.kernel.registers[operand]
            self.registers[operand] = np.zeros(self.count, DTYPES[kind])
        register = self.registers[operand]
        value = np.asarray(value)
        if value.dtype != register.dtype:
            if value.dtype.itemsize != register.dtype.itemsize:
                raise PtxError(f"{value.dtype} into {operand}")
            value = value.view(register.dtype)
        register[group.where] = value

    # -- instructions ----------------------------------------------------------------------------

    def _step(self, instruction: Instruction, group: _Group) -> None:
        op, operands = instruction.op, instruction.operands
        kind, name = op[-1], op[0]
        if name == "fma":
            a, b, c = (self._read(x, "f32", group) for x in operands[1:])
            with np.errstate(all="ignore"):
                self._put(operands[0], fma32(a, b, c), group)
        elif name == "ld":
            self._load(op, operands, group)
        elif name == "red":
            self._combine(op, operands, group)
        elif name == "st":
            self._store(op, operands, group)
        elif name in ("mov", "cvta"):
            self._put(operands[0], self._read(operands[1], kind, group), group)
        elif name == "mad" or (name == "mul" and op[1] == "wide"):
            self._put(operands[0], self._mad(op, operands, group), group)
        elif name in ("shl", "shr"):
            a, b = self._read(operands[1], kind, group), self._read(operands[2], "u32", group)
            function = np.left_shift if name == "shl" else np.right_shift
            self._put(operands[0], function(a, b.astype(a.dtype)), group)
        elif name == "setp":
            a, b = (self._read(x, kind, group) for x in operands[1:])
            self._put(operands[0], compare(op[1], a, b), group)
        elif name == "selp":
            a, b = (self._read(x, kind, group) for x in operands[1:3])
            self._put(operands[0], np.where(self._read(operands[3], "pred", group), a, b), group)
        elif name == "cvt":
            value = self._read(operands[1], kind, group)
            with np.errstate(all="ignore"):
                result = convert(op, np.asarray(value))
            if op[-2] in ("u8", "u16"):  # into a wider register
                result = result.astype(np.uint32)
            self._put(operands[0], result, group)
        elif name in BINARY or name in UNARY:
            self._arithmetic(name, kind, operands, group)
        else:
            raise PtxError("unknown instruction")

    def _arithmetic(
        self, name: str, kind: str, operands: tuple[Operand, ...], group: _Group
    ) -> None:
        values = [self._read(x, kind, group) for x in operands[1:]]
        function: Any = BINARY[name] if name in BINARY else UNARY[name]
        if kind == "f32" and name in ("max", "min"):  # of a number and NaN: the number
            function = np.fmax if name == "max" else np.fmin
        with np.errstate(all="ignore"):
            self._put(operands[0], np.asarray(function(*values)), group)

    def _mad(self, op: tuple[str, ...], operands: tuple[Operand, ...], group: _Group) -> Any:
        kind = op[-1]
        a, b = (self._read(x, kind, group) for x in operands[1:3])
        wide = DTYPES[kind[0] + "64"] if op[1] == "wide" else DTYPES[kind]
        added = kind[0] + "64" if op[1] == "wide" else kind
        with np.errstate(over="ignore"):
            product = np.asarray(a).astype(wide) * np.asarray(b).astype(wide)
            if op[0] == "mul":
                return product
            return product + self._read(operands[3], added, group)

    # -- memory ----------------------------------------------------------------------------------

    def _threads(self, group: _Group) -> Threads:
        where = group.where
        return Threads(self.number[where], self.block[where], self.epoch[where])

    def _address(self, operand: Operand, space: str, group: _Group) -> Values:
        assert isinstance(operand, Memory)
        kind = "u64" if space == "global" else "u32"
        base = np.asarray(self._read(operand.base, kind, group)).astype(np.int64)
        start = BASE if space == "global" else SHARED_BASE
        address: Values = np.broadcast_to(base + (operand.offset - start), (group.size,))
        return address

    def _check(
        self,
        address: Values,
        size: int,
        space: str,
        group: _Group,
        write: bool,
        constant: bool,
        by: Threads | None = None,
    ) -> tuple[Values, Values]:
        """The memory's bytes, and the place of each thread's first one, once they may be used."""
        if (address % size).any():
            raise PtxError("misaligned address")
        data, state, limit = self.device.data, self.device.state, self.device.top
        accesses, by = self.accesses, by or self._threads(group)
        if space == "shared":
            limit = self.kernel.shared_size
            data, state = self.shared.reshape(-1), self.shared_state.reshape(-1)
            accesses = self.shared_accesses
        if (address < 0).any() or (address + size > limit).any():
            raise PtxError(f"address outside {space} memory")
        if space == "shared":
            address = address + by.block * self.shared.shape[1]
        for part in range(0, size, 4):
            found = state[address + part]
            if (found == UNUSED).any():
                raise PtxError("address outside every buffer")
            if not write and (found != WRITTEN).any():
                raise PtxError("uninitialised read")
            words = (address + part) >> 2
            if size < 4:  # what is written as bytes and as words in one kernel is not looked for
                words, accesses = address, self.byte_accesses
            if write:
                accesses.write(words, by, self.block_size)
                for byte in range(min(size - part, 4)):
                    state[address + part + byte] = WRITTEN
            else:
                accesses.read(words, by, self.block_size, constant)
        return data, address

    def _load(self, op: tuple[str, ...], operands: tuple[Operand, ...], group: _Group) -> None:
        kind, space = op[-1], op[1]
        if space == "param":
            name = operands[1]
            assert isinstance(name, Memory)
            self._put(operands[0], np.uint64(self.arguments[name.base]), group)
            return
        size = BITS[kind] // 8
        targets = operands[0] if isinstance(operands[0], tuple) else (operands[0],)
        address = self._address(operands[1], space, group)
        checked = self._check(address, size * len(targets), space, group, False, "nc" in op)
        data, address = checked
        words = data.view(DTYPES[f"b{BITS[kind]}"])
        for index, target in enumerate(targets):
            value = words[address // size + index]
            if kind in ("u8", "u16"):  # into a wider register: zeros in front
                value = value.astype(np.uint32)
            self._put(target, value, group)

    def _store(self, op: tuple[str, ...], operands: tuple[Operand, ...], group: _Group) -> None:
        kind, space = op[-1], op[1]
        size = BITS[kind] // 8
        sources = operands[1] if isinstance(operands[1], tuple) else (operands[1],)
        address = self._address(operands[0], space, group)
        data, address = self._check(address, size * len(sources), space, group, True, False)
        words = data.view(DTYPES[f"b{BITS[kind]}"])
        for index, source in enumerate(sources):
            if kind == "u8":  # the low bits of a wider register
                value = np.asarray(self._read(source, "u32", group)).astype(np.uint8)
            else:
                value = np.asarray(self._read(source, kind, group))
            words[address // size + index] = value.view(words.dtype)

    def _combine(self, op: tuple[str, ...], operands: tuple[Operand, ...], group: _Group) -> None:
        """``red``: atomic, so that threads may meet at one word; others must not use it."""
        if op != ("red", "global", "max", "u32"):
            raise PtxError("unknown instruction")
        address = self._address(operands[0], "global", group)
        everyone = Threads(*(np.full(group.size, ATOMIC) for _ in range(3)))
        data, address = self._check(address, 4, "global", group, True, False, everyone)
        value = np.broadcast_to(self._read(operands[1], "u32", group), (group.size,))
        np.maximum.at(data.view(np.uint32), address // 4, value)


def _group(threads: Values) -> _Group:
    """Threads as a slice where they follow one another: registers are then not copied."""
    size = int(threads.size)
    if size and int(threads[-1]) - int(threads[0]) == size - 1:
        return _Group(slice(int(threads[0]), int(threads[-1]) + 1), size)
    return _Group(threads, size)
