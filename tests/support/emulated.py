"""Steps compiled for AArch64 and run by qemu: the kernels for NEON, on a machine without."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from kernels import FLAGS, Case, emitted, source

from prunedeploy.core.records import Array
from prunedeploy.runtimes.sparse.plan import views

QEMU = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
MISSING = (
    "no qemu-aarch64 here: apt install qemu-user-static" if QEMU is None
    else "no ziglang here" if importlib.util.find_spec("ziglang") is None
    else ""
)  # fmt: skip
ZIG = (sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl", "-static")

# steps NUMBER THREADS ARENA SCRATCH WEIGHTS: floats, floats and bytes of the files in this folder
MAIN = """
#include <stdio.h>
#include <stdlib.h>

static void *load(const char *name, size_t size) {
    void *data = aligned_alloc(64, (size + 63) / 64 * 64);
    FILE *file = name ? fopen(name, "rb") : 0;
    if (!data || (name && (!file || fread(data, 1, size, file) != size))) exit(3);
    if (file) fclose(file);
    return data;
}

int main(int count, char **words) {
    if (count != 6) return 4;
    const size_t arena = strtoul(words[3], 0, 10) * 4, weights = strtoul(words[5], 0, 10);
    int error = 0;
    pd_work w = {load("arena", arena), 0, 0, load("weights", weights),
                 load(0, strtoul(words[4], 0, 10) * 4), 0, atoi(words[2]), &error};
    for (w.thread = w.threads - 1; w.thread >= 0; w.thread--) steps[atoi(words[1])](&w);
    FILE *file = fopen("arena", "wb");
    if (!file || fwrite(w.arena, 1, arena, file) != arena || fclose(file)) return 5;
    return error;
}
"""


class Emulated:
    """The steps of ``cases``, whose buffers are all in the arena, as a program for AArch64."""

    def __init__(self, cases: Sequence[Case]) -> None:
        assert all(buffer.space == "arena" for case in cases for buffer in case.buffers)
        self.cases = cases
        self.codes, constants, _ = emitted(cases, "neon")
        self.weights = len(constants)
        self._folder = tempfile.TemporaryDirectory()  # gone with this object
        self.folder = Path(self._folder.name)
        (self.folder / "weights").write_bytes(constants)
        names = ", ".join(f"step_{number}" for number in range(len(cases)))
        table = f"static void (*const steps[])(const pd_work *) = {{{names}}};"
        (self.folder / "steps.c").write_text(source(self.codes) + table + MAIN)
        line = [*ZIG, *FLAGS, "-Wno-unknown-warning-option", "-O1", "steps.c", "-o", "steps", "-lm"]
        done = subprocess.run(line, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[:4000]

    def run(self, number: int, arrays: Sequence[Array], arena: Array, threads: int) -> int:
        """One step in a process of its own, on a copy of the arena that comes back."""
        assert QEMU is not None
        assert len(arrays) == len(self.cases[number].buffers)
        (self.folder / "arena").write_bytes(arena.tobytes())
        scratch = self.codes[number].scratch + views.GUARD
        words = (number, threads, arena.size, scratch, self.weights)
        line = [QEMU, "./steps", *map(str, words)]
        status = subprocess.run(line, cwd=self.folder, check=False).returncode
        arena.data.cast("B")[:] = (self.folder / "arena").read_bytes()
        return status
