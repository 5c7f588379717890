"""Device memory with its checks: buffers, initialised bytes, races between threads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ptx.arithmetic import Values
from ptx.parse import PtxError

BASE = 0x7F00_0000_0000
APART = 256  # bytes between buffers that belong to nobody
NOBODY, ANYBODY = -1, -2
UNUSED, ALLOCATED, WRITTEN = 0, 1, 2


@dataclass(frozen=True)
class Threads:
    """The threads that run an instruction: their numbers in the grid, blocks and barrier epochs."""

    number: Values
    block: Values
    epoch: Values


class Device:
    """Global memory: buffers that lie apart."""

    def __init__(self) -> None:
        self.data = np.zeros(1 << 16, np.uint8)
        self.state = np.zeros(1 << 16, np.uint8)
        self.top = APART

    def allocate(self, size: int) -> int:
        """The address of a new buffer of ``size`` bytes, none of them written."""
        begin = self.top
        self.top = -(-(begin + size + APART) // APART) * APART
        if self.top > self.data.size:
            more = max(self.top, 2 * self.data.size) - self.data.size
            self.data = np.concatenate([self.data, np.zeros(more, np.uint8)])
            self.state = np.concatenate([self.state, np.zeros(more, np.uint8)])
        self.state[begin : begin + size] = ALLOCATED
        return BASE + begin

    def upload(self, address: int, array: Any) -> None:
        """Copy an array there.

        Raises:
            PtxError: beyond a buffer.
        """
        flat = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
        begin = address - BASE
        if not self.state[begin : begin + flat.size].all():
            raise PtxError("copy to what is outside every buffer")
        self.data[begin : begin + flat.size] = flat
        self.state[begin : begin + flat.size] = WRITTEN

    def download(self, address: int, shape: tuple[int, ...], dtype: Any = np.float32) -> Values:
        """The array there.

        Raises:
            PtxError: parts of it were never written.
        """
        begin, size = address - BASE, int(np.prod(shape)) * np.dtype(dtype).itemsize
        if not (self.state[begin : begin + size] == WRITTEN).all():
            raise PtxError("result not completely written")
        result: Values = self.data[begin : begin + size].view(dtype).reshape(shape).copy()
        return result


class Accesses:
    """Who wrote and who read each word of a memory, to find races.

    Two accesses of one word, one of them a write, race if they are of different blocks, or of
    different threads of a block with no barrier between. A user of a word is a thread's number;
    below ``ANYBODY`` stand the several threads of one block.
    """

    def __init__(self, words: int) -> None:
        self.writer = np.full(words, NOBODY, np.int64)
        self.reader = np.full(words, NOBODY, np.int64)
        self.write_epoch = np.zeros(words, np.int64)
        self.read_epoch = np.zeros(words, np.int64)
        self.constant = np.zeros(words, np.bool_)

    def read(self, words: Values, by: Threads, size: int, constant: bool) -> None:
        """Note reads, in blocks of ``size`` threads.

        Raises:
            PtxError: somebody else wrote there.
        """
        if constant:
            if (self.writer[words] != NOBODY).any():
                raise PtxError("ld.global.nc of what the kernel writes")
            self.constant[words] = True
            return
        self._check(self.writer, self.write_epoch, words, by, size)
        fresh = self.read_epoch[words] != by.epoch
        merged = self._merge(self.reader[words], fresh, by, size)
        self.reader[words] = merged
        now = self.reader[words]  # one instruction reads a word for several threads
        if (now != merged).any():
            self.reader[words] = np.where(now != merged, self._merge(now, False, by, size), now)
        self.read_epoch[words] = by.epoch

    @staticmethod
    def _merge(old: Values, fresh: Values | bool, by: Threads, size: int) -> Values:
        apart = (old == ANYBODY) | ((old != NOBODY) & (_block(old, size) != by.block))
        several = ~apart & (old != NOBODY) & (old != by.number) & ~np.asarray(fresh)
        merged: Values = np.where(
            apart, ANYBODY, np.where(several, ANYBODY - 1 - by.block, by.number)
        )
        return merged

    def write(self, words: Values, by: Threads, size: int) -> None:
        """Note writes, in blocks of ``size`` threads.

        Raises:
            PtxError: somebody else wrote or read there.
        """
        if self.constant[words].any():
            raise PtxError("write to what ld.global.nc reads")
        self._check(self.writer, self.write_epoch, words, by, size)
        self._check(self.reader, self.read_epoch, words, by, size)
        self.writer[words] = by.number
        if (self.writer[words] != by.number).any():
            raise PtxError("race: two threads write one word at once")
        self.write_epoch[words] = by.epoch

    def _check(self, users: Values, epochs: Values, words: Values, by: Threads, size: int) -> None:
        user = users[words]
        other = (user != NOBODY) & (user != by.number)
        if not other.any():
            return
        apart = other & ((user == ANYBODY) | (_block(user, size) != by.block))
        if apart.any():
            raise PtxError(f"race between blocks: word {int(words[np.flatnonzero(apart)[0]])}")
        clash = other & (epochs[words] == by.epoch)
        if clash.any():
            raise PtxError(f"race in a block: word {int(words[np.flatnonzero(clash)[0]])}")


def _block(user: Values, size: int) -> Values:
    return np.where(user >= 0, user // size, ANYBODY - 1 - user)
