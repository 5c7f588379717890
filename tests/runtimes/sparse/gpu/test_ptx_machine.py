"""The PTX machine computes as a GPU does, and finds planted faults of every kind."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from ptx.arithmetic import fma32
from ptx.machine import launch
from ptx.memory import Device
from ptx.parse import PtxError, parse

HEAD = """.version 6.4
.target sm_53
.address_size 64
.visible .entry k(.param .u64 a, .param .u64 b)
.maxntid 64, 1, 1
{
.reg .u64 %rd<8>;
.reg .u32 %r<8>;
.reg .f32 %f<8>;
.reg .pred %p<4>;
.shared .align 16 .b8 box[256];
ld.param.u64 %rd0, [a];
ld.param.u64 %rd1, [b];
mov.u32 %r0, %tid.x;
mov.u32 %r1, %ctaid.x;
mad.lo.u32 %r2, %r1, 64, %r0;
mul.wide.u32 %rd2, %r2, 4;
add.u64 %rd3, %rd0, %rd2;
add.u64 %rd4, %rd1, %rd2;
mov.u32 %r3, box;
shl.b32 %r4, %r0, 2;
add.u32 %r3, %r3, %r4;
"""
N = 128


def run(body: str, blocks: int = 2, block: int = 64, written: int = N) -> np.ndarray:
    """What ``body`` makes of 0, 1, 2, ...: ``%rd3`` is the thread's input, ``%rd4`` its output."""
    device = Device()
    a, b = device.allocate(4 * N), device.allocate(4 * N)
    device.upload(a, np.arange(N, dtype=np.float32))
    launch(device, parse(HEAD + body + "\nret;\n}")["k"], (blocks,), block, (a, b))
    return device.download(b, (written,))


def test_every_thread_computes() -> None:
    body = "ld.global.nc.f32 %f0, [%rd3]; fma.rn.f32 %f1, %f0, 0f40000000, 0f3F800000;"
    result = run(body + "st.global.f32 [%rd4], %f1;")
    assert np.array_equal(result, 2 * np.arange(N, dtype=np.float32) + 1)


def test_threads_part_and_meet() -> None:
    body = """ld.global.f32 %f0, [%rd3]; mov.f32 %f1, 0f00000000; setp.ge.u32 %p0, %r0, 10;
    @%p0 bra MEET; add.f32 %f1, %f1, 0f3F800000;
    MEET: @!%p0 add.f32 %f1, %f1, 0f3F800000; st.global.f32 [%rd4], %f1;"""
    assert run(body).reshape(2, 64).sum(axis=1).tolist() == [20, 20]


def test_a_table_of_branches() -> None:
    body = """and.b32 %r5, %r0, 1; T: .branchtargets EVEN, ODD; brx.idx %r5, T;
    EVEN: mov.f32 %f0, 0f00000000; bra END; ODD: mov.f32 %f0, 0f3F800000;
    END: st.global.f32 [%rd4], %f0;"""
    assert np.array_equal(run(body), np.arange(N) % 2)


def test_the_product_sum_rounds_once() -> None:
    random = np.random.default_rng(3)
    near = random.standard_normal((3, 4000)).astype(np.float32)
    near[2] = -near[0] * near[1] * (1 + np.float32(2**-12))
    tiny = near * np.float32(2.0**-70)
    # the middle between two numbers, and a little beside it
    halves = np.array([[1 + 2**-12, 1 + 2**-12, 1], [1, 1, 2**-24], [1, 2**-24, 1]], np.float32).T
    for a, b, c in (near, tiny, halves):
        result = fma32(a, b, c)
        for x, y, z, found in zip(a, b, c, result, strict=True):
            exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
            error = abs(Fraction(float(found)) - exact)
            beside = (np.nextafter(found, np.float32(way)) for way in (-np.inf, np.inf))
            assert all(error <= abs(Fraction(float(one)) - exact) for one in beside)


EXCHANGE = """ld.global.nc.f32 %f0, [%rd3]; st.shared.f32 [%r3], %f0; {barrier}
xor.b32 %r5, %r4, 252; mov.u32 %r6, box; add.u32 %r5, %r5, %r6; ld.shared.f32 %f1, [%r5];
st.global.f32 [%rd4], %f1;"""


def test_a_barrier_orders_shared_memory() -> None:
    result = run(EXCHANGE.format(barrier="bar.sync 0;"))
    assert np.array_equal(result.reshape(2, 64)[:, ::-1].reshape(-1), np.arange(N))


FAULTS = {
    "a missing barrier": (EXCHANGE.format(barrier=""), "race in a block"),
    "a barrier that half a warp reaches": (
        "setp.ge.u32 %p0, %r0, 16; @%p0 bra S; bar.sync 0; S: st.global.u32 [%rd4], %r0;",
        "part of a warp",
    ),
    "a barrier that one warp does not reach": (
        "setp.ge.u32 %p0, %r0, 32; @%p0 ret; bar.sync 0; st.global.u32 [%rd4], %r0;",
        "ended before",
    ),
    "an offset beyond the buffer": ("ld.global.f32 %f0, [%rd3+512];", "outside every buffer"),
    "an address far away": ("ld.global.f32 %f0, [%rd2];", "outside global memory"),
    "an address beyond shared memory": ("ld.shared.f32 %f0, [%r3+256];", "outside shared"),
    "half a word off": ("ld.global.f32 %f0, [%rd3+2];", "misaligned"),
    "a vector on no boundary of its own": (
        "ld.global.v2.f32 {%f0, %f1}, [%rd3];",
        "misaligned",
    ),
    "a read before any write": ("ld.global.f32 %f0, [%rd4];", "uninitialised read"),
    "shared memory before any write": ("ld.shared.f32 %f0, [%r3];", "uninitialised read"),
    "a register before any write": ("add.f32 %f0, %f1, %f2;", "uninitialised register"),
    "two threads that write one word": ("st.global.f32 [%rd1], 0f00000000;", "one word at once"),
    "a block that reads what another writes": (
        "st.global.u32 [%rd4], %r0; xor.b32 %r5, %r2, 64; mul.wide.u32 %rd5, %r5, 4;"
        "add.u64 %rd5, %rd5, %rd1; ld.global.u32 %r6, [%rd5];",
        "race between blocks",
    ),
    "a block that writes what another reads": (
        "setp.eq.u32 %p0, %r1, 0; @%p0 bra W; ld.global.f32 %f0, [%rd3]; ret;"
        "W: st.global.f32 [%rd3+256], 0f00000000;",
        "race between blocks",
    ),
    "a write to what goes through the constant cache": (
        "ld.global.nc.f32 %f0, [%rd3]; st.global.f32 [%rd3], %f0;",
        "ld.global.nc reads",
    ),
    "a jump beyond the table": (
        "T: .branchtargets A; brx.idx %r0, T; A: st.global.u32 [%rd4], %r0;",
        "beyond its table",
    ),
    "a type that the register has not": ("add.f32 %f0, %rd0, %f0;", "is no f32"),
    "an unknown instruction": ("popc.b32 %r5, %r0;", "unknown instruction"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found(fault: str) -> None:
    body, message = FAULTS[fault]
    with pytest.raises(PtxError, match=message):
        run(body)


def test_a_grid_that_is_too_small_is_found() -> None:
    with pytest.raises(PtxError, match="not completely written"):
        run("st.global.u32 [%rd4], %r0;", blocks=1)


def test_a_block_larger_than_declared_is_found() -> None:
    with pytest.raises(PtxError, match="96 threads a block, 64 at most"):
        run("st.global.u32 [%rd4], %r0;", block=96)


def test_parameters_have_to_match() -> None:
    kernel = parse(HEAD + "ret;\n}")["k"]
    with pytest.raises(PtxError, match="1 arguments for 2"):
        launch(Device(), kernel, (1,), 64, (0,))


def test_an_atomic_maximum_takes_all_threads() -> None:
    device = Device()
    a, b = device.allocate(4 * N), device.allocate(4)
    device.upload(b, np.zeros(1, np.uint32))
    kernel = parse(HEAD + "red.global.max.u32 [%rd1], %r2;\nret;\n}")["k"]
    launch(device, kernel, (2,), 64, (a, b))
    assert device.download(b, (1,), np.uint32)[0] == N - 1


def test_a_plain_write_beside_an_atomic_one_is_found() -> None:
    body = """setp.eq.u32 %p0, %r2, 3; @%p0 st.global.u32 [%rd1], %r2;
    @!%p0 red.global.max.u32 [%rd1], %r2;"""
    with pytest.raises(PtxError, match="race between blocks"):
        run(body)


def test_two_threads_that_write_one_byte_are_found() -> None:
    own = "shr.u32 %r5, %r2, {shift}; cvt.u64.u32 %rd5, %r5; add.u64 %rd5, %rd5, %rd1;"
    store = "st.global.u8 [%rd5], %r2;"
    assert run(own.format(shift=0) + store, written=N // 4).size == N // 4
    with pytest.raises(PtxError, match="one word at once"):
        run(own.format(shift=1) + store)


@pytest.mark.parametrize(
    ("rounding", "number", "result"),
    [("rni", 2.5, 2), ("rni", 3.5, 4), ("rmi", -0.5, -1), ("rpi", 0.25, 1), ("rzi", -1.75, -1)],
)
def test_conversions_round_as_they_say(rounding: str, number: float, result: int) -> None:
    bits = int(np.float32(number).view(np.uint32))
    body = f"cvt.{rounding}.f32.f32 %f0, 0f{bits:08X}; st.global.f32 [%rd4], %f0;"
    assert (run(body) == result).all()
    if rounding == "rzi":
        body = f"cvt.rzi.s32.f32 %r5, 0f{bits:08X}; cvt.rn.f32.s32 %f0, %r5;"
        assert (run(body + "st.global.f32 [%rd4], %f0;") == result).all()
