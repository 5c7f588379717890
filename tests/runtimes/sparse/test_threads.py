"""The pool of threads and whole engines under ThreadSanitizer, driven from C."""

from __future__ import annotations

import dataclasses
import platform
import shutil
import subprocess
from pathlib import Path

import pytest
from engines import network

from prunedeploy.runtimes.api import BuildOptions
from prunedeploy.runtimes.sparse.build import project_of
from prunedeploy.runtimes.sparse.codegen.project import SOURCES
from prunedeploy.runtimes.sparse.toolchain import compile as compiling
from prunedeploy.targets import by_name

POOL = r"""
#define _GNU_SOURCE
#include "threads.h"
#include <stdio.h>

enum { STAGES = 8, MANY = 23 };
static pd_pool pool;
static long done[MANY][32]; /* how often each share was computed for writing, a line apart */
static atomic_int wrong, taken;

typedef struct {
    long run, written; /* the run, and the stages for writing before it */
    int active, shares; /* threads, and shares of the stages for writing */
} state;

/* Stages for writing, in which every share notes that it was computed, alternate with stages for
 * reading, in which every share sees what all shares of the stage before have written. */
static void job(void *context, int stage, int share, int thread) {
    const state *s = context;
    if (thread >= s->active) wrong = 1;
    if (share % s->active != thread) taken++;
    if (stage % 2 == 0) {
        done[share][0]++;
        if (thread == 1 && s->run % 7 == 0) usleep(200); /* in the middle of a share */
        return;
    }
    for (int other = 0; other < s->shares; other++)
        if (done[other][0] != s->written + stage / 2 + 1) wrong = 2;
}

/* Runs whose first stage has `first` shares, 0 for one a thread, on `active` threads. */
static void runs(int first, int active, int stages, state *s) {
    double times[STAGES];
    memset(done, 0, sizeof done);
    *s = (state){0, 0, active, first ? first : active};
    for (; s->run < RUNS; s->run++, s->written += stages / 2) {
        pd_pool_run(&pool, stages, first, active, s->run % 3 ? 0 : times);
        if (s->run % 5 == 0) { /* the caller alone, without the others noticing */
            const state kept = *s;
            *s = (state){1, done[0][0], 1, 1};
            pd_pool_run(&pool, 2, 0, 1, times);
            *s = kept;
            done[0][0]--;
        }
        if (s->run % 50 == 0) usleep(300); /* long enough for all to fall asleep */
    }
}

int main(void) {
    const int counts[] = {2, 3, 8, 17};
    for (int i = 0; i < 4; i++) {
        state s;
        if (!pd_pool_start(&pool, counts[i], MANY, job, &s)) return 2;
        runs(0, counts[i], STAGES, &s);
        runs(MANY, counts[i], 2, &s);
        if (counts[i] > 2) runs(0, counts[i] / 2 + 1, STAGES, &s);
        runs(MANY, 2, 2, &s);
        pd_pool_stop(&pool);
    }
    fprintf(stderr, "%d shares computed by another thread than their own\n", taken);
    return wrong;
}
"""

# Two sessions of their own and one that all share, from several threads at once.
DRIVER = r"""
#include "pd_engine.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS = 4, RUNS = 12, IN = 2 * 5 * 9 * 9, OUT = 2 * 10 };
static float input[IN], wanted[2][OUT];
static pd_session *common;

static int run(pd_session *session, int batch, float *output) {
    const void *inputs[] = {input};
    void *outputs[] = {output};
    return pd_run(session, batch, inputs, outputs);
}

static void *work(void *argument) {
    const long number = (long)argument;
    pd_session *own;
    if (pd_create(&own, 1 + (int)(number % 3))) return "create";
    for (int i = 0; i < RUNS; i++) {
        float output[OUT];
        const int batch = 1 + (int)((number + i) % 2);
        if (run(i % 3 ? own : common, batch, output)) return "run";
        if (memcmp(output, wanted[batch - 1], (size_t)(batch * 10) * 4)) return "other numbers";
        if (i == 5) pd_set_profiling(common, (int)(number % 2));
        double seconds[64];
        if (pd_profile(common, batch, seconds, 64)) return "profile";
    }
    pd_destroy(own);
    return 0;
}

int main(void) {
    for (int i = 0; i < IN; i++) input[i] = (float)(i * 37 % 101) / 50 - 1;
    if (pd_create(&common, 3)) return 2;
    if (run(common, 1, wanted[0]) || run(common, 2, wanted[1])) return 3;
    pthread_t threads[THREADS];
    for (long i = 0; i < THREADS; i++) pthread_create(&threads[i], 0, work, (void *)i);
    int status = 0;
    for (int i = 0; i < THREADS; i++) {
        void *said;
        pthread_join(threads[i], &said);
        if (said) status = 4, fprintf(stderr, "%s\n", (char *)said);
    }
    pd_destroy(common);

    /* what a caller may get wrong */
    pd_session *session;
    float output[OUT];
    void *outputs[] = {output};
    const void *none[] = {0};
    const int codes[] = {
        pd_create(0, 1) == PD_BAD_ARGUMENT,
        pd_create(&session, -1) == PD_BAD_ARGUMENT,
        pd_create(&session, 1 << 20) == PD_BAD_ARGUMENT,
        pd_create(&session, 0) == PD_OK,
        pd_run(session, 7, none, outputs) == PD_BAD_ARGUMENT,
        run(session, 7, output) == PD_BAD_BATCH,
        pd_run(session, 1, none, outputs) == PD_BAD_ARGUMENT,
        pd_run(session, 1, 0, outputs) == PD_BAD_ARGUMENT,
        pd_run(0, 1, none, outputs) == PD_BAD_ARGUMENT,
        pd_profile(session, 7, 0, 0) == PD_BAD_BATCH,
        pd_steps(7, 0) == 0,
        pd_info()->inputs == 1 && pd_info()->input[0].shape[0] == -1,
        pd_info()->batches == 2 && pd_info()->abi == PD_ABI,
    };
    pd_destroy(session);
    pd_destroy(0);
    for (int i = 0; i < (int)(sizeof codes / sizeof *codes); i++)
        if (!codes[i]) status = 5, fprintf(stderr, "call %d\n", i);
    for (int i = 0; i < 8; i++)
        if (!strcmp(pd_error(i), "unknown error") != (i > PD_BAD_CPU)) status = 6;
    return status;
}
"""


def _run(command: list[str], **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **more)


@pytest.fixture(scope="module")
def sanitizer(tmp_path_factory) -> list[str]:
    """How a program with ThreadSanitizer is run here: its shadow wants memory where it expects."""
    folder = tmp_path_factory.mktemp("tsan")
    (folder / "t.c").write_text("int main(void) { return 0; }\n")
    cc = shutil.which("gcc") or shutil.which("clang")
    if cc is None:
        pytest.skip("no gcc or clang here, which bring ThreadSanitizer")
    if _run([cc, "-fsanitize=thread", "t.c", "-o", "t"], cwd=folder).returncode:
        pytest.skip(f"{cc} has no ThreadSanitizer")
    for prefix in ([], ["setarch", platform.machine(), "-R"]):
        if _run([*prefix, str(folder / "t")]).returncode == 0:
            return prefix
    pytest.skip("programs with ThreadSanitizer do not start here")


@pytest.mark.parametrize("way", ["futex", "condition", "sanitized", "sanitized condition"])
def test_stages_wait_for_each_other(tmp_path, way, request):
    flags, prefix, runs = ["-O2"], [], 500
    if "sanitized" in way:
        prefix, runs = request.getfixturevalue("sanitizer"), 100
        flags = ["-O1", "-g", "-fsanitize=thread"]
    if "condition" in way:
        flags.append("-DPD_NO_FUTEX")
    (tmp_path / "pool.c").write_text(POOL)
    cc = list(compiling.toolchain(by_name("host")).command)
    built = _run(
        [
            *(*cc, "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-pthread", *flags),
            *(f"-DRUNS={runs}", f"-I{SOURCES}", "pool.c", "-o", "pool"),
        ],
        cwd=tmp_path,
    )
    assert built.returncode == 0, built.stderr
    done = _run([*prefix, str(tmp_path / "pool")])
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """For batches of 1 and 2, of which the first needs fewer steps; see ``_drive``."""
    folder = tmp_path_factory.mktemp("project")
    model = network(folder / "net.onnx")
    options = BuildOptions(batches=(1, 2), threads=2, tune="none")
    found, _ = project_of(model, by_name("host"), None, options)
    return found


def _drive(project, folder: Path, flags: list[str], prefix: list[str], runs: int = 1) -> None:
    tools = compiling.toolchain(by_name("host"))
    # small as the network is, its sessions are to use all of their threads
    flags = [*flags, "-DPD_ALL_THREADS"]
    compiling.build_library(project, folder / "model.so", tools, ["-O1", "-g", *flags])
    (folder / "drive.c").write_text(DRIVER)
    command = [*tools.command, "-std=gnu11", "-g", "-pthread", *flags, f"-I{SOURCES}", "drive.c"]
    built = _run([*command, "model.so", "-Wl,-rpath,$ORIGIN", "-o", "drive"], cwd=folder)
    assert built.returncode == 0, built.stderr
    for _ in range(runs):
        done = _run([*prefix, str(folder / "drive")])
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""


def test_concurrent_sessions(project, tmp_path):
    _drive(project, tmp_path, [], [])


def test_concurrent_sessions_under_the_sanitizer(project, tmp_path, sanitizer):
    _drive(project, tmp_path, ["-fsanitize=thread"], sanitizer)


def test_the_sanitizer_would_see_a_race(project, tmp_path, sanitizer):
    """A stage begins without waiting for what the stage before has written."""
    text = project.files["threads.h"]
    order = "&p->remaining, 1, memory_order_acq_rel"
    assert order in text
    racy = text.replace(order, "&p->remaining, 1, memory_order_relaxed")
    broken = dataclasses.replace(project, files=project.files | {"threads.h": racy})
    # where other programs have the processors, one thread may do all the work of a run
    with pytest.raises(AssertionError, match=r"data race|other numbers"):
        _drive(broken, tmp_path, ["-fsanitize=thread"], sanitizer, runs=20)


def test_memory_is_clean(project, tmp_path):
    """AddressSanitizer and UndefinedBehaviorSanitizer, leaks included."""
    cc = compiling.toolchain(by_name("host"))
    if cc.name == "ziglang":
        pytest.skip("ziglang brings no sanitizers")
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    _drive(project, tmp_path, flags, [])
