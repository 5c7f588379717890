"""The sweep of all kernels under AddressSanitizer and UndefinedBehaviorSanitizer.

A program of its own, in which every buffer is an allocation of its own: what a kernel may read
beyond its end is there, and nothing more. Buffers of the caller are aligned to an element.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from kernels import FLAGS, ISA, Case, plan_of, source, supported

from prunedeploy.runtimes.sparse.codegen import emitter
from prunedeploy.runtimes.sparse.codegen._context import C_TYPES, Constants, Context
from prunedeploy.runtimes.sparse.codegen.project import CODE, blob
from prunedeploy.runtimes.sparse.kernels.table import KERNELS
from prunedeploy.runtimes.sparse.plan import steps as plan
from prunedeploy.runtimes.sparse.plan import views

STEPS = (
    "copy",
    "pool",
    "reduce",
    "elementwise",
    "softmax",
    "norm",
    "matmul",
    "tables",
    "mixed",
    "recurrent",
    "take",
)
MODULES = (
    *(f"kernels_{name}" for name in STEPS),
    "conv",
    "depthwise",
    "narrow",
    "stored",
    "jit",
    "bytes",
    "int8",
)
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1", "-g1", "-w")

MAIN = """
#include <stdio.h>
#include <stdlib.h>

static uint32_t state = 1;
static uint32_t next(void) { return (state = state * 1664525u + 1013904223u) >> 8; }

/* `size` elements of `width` bytes, and `guard` more that may be read */
static void *allocate(size_t size, size_t width, size_t guard, int integer) {
    char *memory = 0;
    const size_t bytes = (size + guard) * width, shift = guard ? 0 : width;
    if (posix_memalign((void **)&memory, 64, bytes + shift)) exit(9);
    memory += shift;
    for (size_t i = 0; i < size + guard; i++) {
        const float value = (float)(next() % 2001) / 500.0f - 2.0f;
        const int64_t index = width == 1 ? next() % 2 : next() % 5;
        memcpy(memory + i * width, integer ? (void *)&index : (void *)&value, width);
    }
    return memory;
}

int main(void) {
    FILE *file = fopen("weights.bin", "rb");
    unsigned char *weights = allocate(WEIGHTS, 1, 64, 1);
    if (!file || fread(weights, 1, WEIGHTS, file) != WEIGHTS) return 8;
    for (size_t n = 0; n < sizeof cases / sizeof *cases; n++) {
        for (int b = 0; b < cases[n].count; b++) {
            const record *r = &cases[n].buffers[b];
            buffers[b] = allocate(r->size, r->width, r->guard, r->integer);
        }
        float *scratch = 0;
        if (posix_memalign((void **)&scratch, 64, 4 * cases[n].scratch + 1)) return 7;
        for (int threads = 1; threads < 4; threads++) {
            for (int thread = 0; thread < threads; thread++) {
                int error = 0;
                const pd_work w = {0, 0, 0, weights, scratch, thread, threads, &error};
                cases[n].step(&w);
                if (error) return 6;
            }
        }
        free(scratch);
        for (int b = 0; b < cases[n].count; b++) {
            const record *r = &cases[n].buffers[b];
            free((char *)buffers[b] - (r->guard ? 0 : r->width));
        }
    }
    free(weights);
    fclose(file);
    puts("clean");
    return 0;
}
"""


class _Apart(Context):
    """Every buffer is an allocation of its own."""

    def pointer(self, view: views.View) -> str:
        """The view's first element."""
        buffer = self.plan.buffers[view.buffer]
        return f"(({C_TYPES[buffer.dtype]} *)buffers[{view.buffer}] + {view.offset})"


def _swept() -> list[Case]:
    """What the tests of the single kernels sweep over."""
    cases: list[Case] = []
    for name in MODULES:
        path = Path(__file__).with_name(f"test_{name}.py")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        cases += module.sweep()
    return cases


def _program(cases: Sequence[Case], isa: str, constants: Constants, instructions: Constants) -> str:
    """C: the steps, what they work on, and a main that runs all of them."""
    contexts = [
        _Apart(plan_of(case), constants, isa, tuned=case.tuned, code=instructions) for case in cases
    ]
    codes = [emitter(c.step)(c.step, x) for c, x in zip(cases, contexts, strict=True)]
    lines = [
        source(codes).replace('#include "pd.h"', '#include "pd.h"\nstatic void *buffers[8];', 1),
        "typedef struct { size_t size, width, guard; int integer; } record;",
        "static const struct { void (*step)(const pd_work *); int count; size_t scratch; "
        "record buffers[8]; } cases[] = {",
    ]
    for number, (case, code) in enumerate(zip(cases, codes, strict=True)):
        records = []
        for buffer in case.buffers:
            width = np.dtype(buffer.dtype).itemsize
            guard = views.GUARD if buffer.space == "arena" else 0
            integer = int(buffer.dtype != "float32")
            records.append(f"{{{buffer.size}, {width}, {guard}, {integer}}}")
        rows = ", ".join(records)
        lines.append(f"{{step_{number}, {len(records)}, {code.scratch}, {{{rows}}}}},")
    lines += ["};", f"#define WEIGHTS {len(constants.data())}u", MAIN]
    return "\n".join(lines)


def _is_wide(case: Case) -> bool:
    """What vectors of 16 alone know, whatever the sweep was made for."""
    schedules = case.tuned.values()
    return any(
        schedule.packing == "interleaved" or KERNELS[schedule.kernel].generated
        for schedule in schedules
    )


STEP = int(os.environ.get("PRUNEDEPLOY_SWEEP", "9"))  # every so many cases; 1: all


@pytest.mark.slow
@pytest.mark.parametrize(("isa", "first"), [(supported()[0], 0), ("generic", STEP // 2)])
def test_no_kernel_leaves_its_memory(isa: str, first: int, tmp_path: Path) -> None:
    constants, instructions = Constants(), Constants()
    cases = [case for case in _swept() if isa == "avx512" or not _is_wide(case)][first::STEP]
    assert {type(case.step) for case in cases} >= set(plan.Step.__args__)
    (tmp_path / "steps.c").write_text(_program(cases, isa, constants, instructions))
    (tmp_path / "code.c").write_text(blob("pd_code", CODE, instructions.data(), ".text"))
    (tmp_path / CODE).write_bytes(instructions.data())
    (tmp_path / "weights.bin").write_bytes(constants.data())
    command = ["gcc", *FLAGS, *ISA[isa], *SANITIZE, "steps.c", "code.c", "-o", "steps", "-lm"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:4000]
    done = subprocess.run(
        ["./steps"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr[:4000]
    assert done.stdout == "clean\n"
