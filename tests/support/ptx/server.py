"""The other end of the false libcuda's pipe: a PTX machine that does what the driver is asked."""

from __future__ import annotations

import os
import sys
from typing import BinaryIO

import numpy as np

from ptx.machine import launch
from ptx.memory import Device
from ptx.parse import Kernel, PtxError, parse

ILLEGAL_ADDRESS, NOT_FOUND = 700, 500


class Server:
    """One device and its module."""

    def __init__(self, commands: BinaryIO, answers: BinaryIO) -> None:
        self._commands, self._answers = commands, answers
        self._device = Device()
        self._kernels: dict[str, Kernel] = {}

    def serve(self) -> None:
        """Answer until the other end is closed."""
        while line := self._commands.readline():
            name, *words = line.decode().split()
            try:
                self._answers.write(self._answer(name, words))
            except PtxError as error:
                print(f"PTX machine: {error}", file=sys.stderr, flush=True)
                self._answers.write(f"{ILLEGAL_ADDRESS}\n".encode())
            self._answers.flush()

    def _answer(self, name: str, words: list[str]) -> bytes:
        match name:
            case "module":
                self._kernels = parse(self._commands.read(int(words[0])).decode())
            case "function":
                if words[0] not in self._kernels:
                    return f"{NOT_FOUND}\n".encode()
                return f"0 {len(self._kernels[words[0]].params)}\n".encode()
            case "alloc":
                return f"0 {self._device.allocate(int(words[0]))}\n".encode()
            case "upload":
                data = np.frombuffer(self._commands.read(int(words[1])), np.uint8)
                self._device.upload(int(words[0]), data)
            case "download":
                size = (int(words[1]),)
                return b"0\n" + self._device.download(int(words[0]), size, np.uint8).tobytes()
            case "launch":
                numbers = [int(word) for word in words[1:]]
                kernel = self._kernels[words[0]]
                launch(self._device, kernel, numbers[:3], numbers[3], numbers[6:])
        return b"0\n"


if __name__ == "__main__":
    with os.fdopen(3, "wb") as answers_:
        Server(sys.stdin.buffer, answers_).serve()
