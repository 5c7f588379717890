"""The other end of the false libcuda's pipe: a PTX machine that does what the driver is asked."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ptx.machine import launch
from ptx.memory import Device
from ptx.parse import Kernel, PtxError, parse

ILLEGAL_ADDRESS, NOT_FOUND = 700, 500


class Server:
    """One device and its modules."""

    def __init__(self, commands: BinaryIO, answers: BinaryIO) -> None:
        self._commands, self._answers = commands, answers
        self._device = Device()
        self._modules: list[dict[str, Kernel]] = []

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
                self._modules.append(parse(self._commands.read(int(words[0])).decode()))
                return f"0 {len(self._modules) - 1}\n".encode()
            case "cubin":
                from prunedeploy.runtimes.sparse.gpu.cubin import instructions

                names = instructions(self._commands.read(int(words[0])), 75)
                kernels = parse(Path(os.environ["FALSE_CUDA_PTX"]).read_text())
                self._modules.append({name: kernels[name] for name in names})
                return f"0 {len(self._modules) - 1}\n".encode()
            case "function":
                kernels = self._modules[int(words[0])]
                if words[1] not in kernels:
                    return f"{NOT_FOUND}\n".encode()
                return f"0 {len(kernels[words[1]].params)}\n".encode()
            case "alloc":
                return f"0 {self._device.allocate(int(words[0]))}\n".encode()
            case "upload":
                data = np.frombuffer(self._commands.read(int(words[1])), np.uint8)
                self._device.upload(int(words[0]), data)
            case "download":
                size = (int(words[1]),)
                return b"0\n" + self._device.download(int(words[0]), size, np.uint8).tobytes()
            case "launch":
                numbers = [int(word) for word in words[2:]]
                kernel = self._modules[int(words[0])][words[1]]
                launch(self._device, kernel, numbers[:3], numbers[3], numbers[6:])
        return b"0\n"


if __name__ == "__main__":
    with os.fdopen(3, "wb") as answers_:
        Server(sys.stdin.buffer, answers_).serve()
