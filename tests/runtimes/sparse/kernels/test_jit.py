"""Programs: every instruction read by something that did not write it, and run by the processor."""

from __future__ import annotations

import ctypes
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from convs import ACTIVATIONS, Layer, beside
from engines import build
from kernels import C_FOLDER, Case, check, supported
from lowered import Small
from processor import Memory, run

from prunedeploy.core.records import Array, Engine
from prunedeploy.engines import opening
from prunedeploy.graph.model import save
from prunedeploy.runtimes.sparse.codegen import project as projects
from prunedeploy.runtimes.sparse.codegen.project import CODE, blob
from prunedeploy.runtimes.sparse.kernels.jit.layout import LINE, REACH, epilogue_of
from prunedeploy.runtimes.sparse.kernels.jit.packing import MAX_ROWS, pack_jit
from prunedeploy.runtimes.sparse.kernels.packing import FIRST, LAST, PackedWeights, Part
from prunedeploy.runtimes.sparse.kernels.table import KERNELS
from prunedeploy.runtimes.sparse.plan.steps import Conv
from prunedeploy.runtimes.sparse.plan.views import View
from prunedeploy.runtimes.sparse.schedule import candidates as choose
from prunedeploy.runtimes.sparse.schedule.schedule import Geometry, Schedule, geometry

RELU, CLIP, SAME = ACTIVATIONS[1], ACTIVATIONS[2], (1, 1, 1, 1)
needs_avx512 = pytest.mark.skipif(
    "avx512" not in supported(), reason="no AVX-512 here: programs are read, not run"
)

WAYS = {
    "in place": (
        Layer((1, 20, 4, 16), 33, residual="own", activation=RELU),
        Schedule("jit", 1, 4, 20, packing="none", rows=17),
    ),
    "panels": (
        Layer((1, 23, 5, 8), 31, residual="in place", activation=CLIP),
        Schedule("jit", 1, 2, 7, rows=31),
    ),
    "groups": (Layer((1, 17, 4, 8), 40), Schedule("jit", 1, 4, 17, groups=3, rows=10)),
    "halves": (
        Layer((1, 40, 3, 9), 12, residual="own", activation=CLIP),
        Schedule("jit", 1, 3, 40, rows=12),
    ),
    "half alone": (Layer((1, 9, 2, 4), 5, activation=RELU), Schedule("jit", 1, 1, 4, rows=5)),
    "window": (
        Layer((1, 6, 7, 9), 8, (3, 3), (2, 2), SAME, activation=RELU),
        Schedule("jit", 2, 1, 4, rows=3),
    ),
    "shared_border": (
        Layer((1, 12, 6, 6), 9, (3, 3), pads=SAME, density=0.5, activation=RELU),
        Schedule("jit", 6, 6, 12, packing="shared_border", rows=9),
    ),
    "no clamp": (
        Layer((1, 12, 3, 8), 9, residual="own", activation=ACTIVATIONS[8]),
        Schedule("jit", 1, 2, 5, rows=4),
    ),
    "grouped": (
        Layer((1, 12, 5, 8), 12, (3, 3), pads=SAME, groups=3, density=0.4),
        Schedule("jit", 2, 1, 7, rows=4),
    ),
    "many weights": (Layer((1, 90, 2, 8), 8, density=0.9), Schedule("jit", 1, 2, 90, rows=8)),
    "nothing": (Layer((1, 5, 2, 8), 4, density=0.0), Schedule("jit", 1, 2, 5, rows=4)),
    "more groups than rows": (Layer((1, 8, 2, 8), 2), Schedule("jit", 1, 2, 8, groups=4)),
}


def _made(name: str) -> tuple[Conv, Schedule, Geometry, PackedWeights]:
    layer, schedule = WAYS[name]
    step = layer.step
    whole = np.rint(3 * step.weight).astype(np.float32)  # sums of such are exact
    step = replace(step, weight=whole, bias=np.rint(3 * step.bias).astype(np.float32))
    layout = geometry(step, schedule)
    return step, schedule, layout, pack_jit(step, schedule, layout)


def _expected(step: Conv, layout: Geometry, tile: Array, begin: int, end: int, at: int) -> Array:
    """Of one panel, sums [rows, 16] of the pixels from ``at`` on, bias not included."""
    outputs, width = step.weight.shape[:2]
    taps = np.array(layout.taps).reshape(-1)
    found = np.zeros((outputs, 16), np.float32)
    for row in range(outputs):
        first = row // (outputs // step.groups) * width
        for channel in range(max(begin, first), min(end, first + width)):
            weights = step.weight[row, channel - first].reshape(-1)
            for tap, weight in zip(taps, weights, strict=True):
                place = (channel - begin) * layout.channel + tap + at
                found[row] += weight * tile[place : place + 16]
    return found


def _run(part: Part, number: int, half: bool, memory: Memory) -> int:
    """A program of ``part`` on ``memory``: where its instructions end."""
    program = part.row_segments[number]
    assert part.code is not None
    start, stored = int(program["code"]), int(program["code"] + program["weight"])
    memory.pointer, memory.bias = stored, memory.bias[int(program["row"]) :]
    memory.weights = range(stored - 4 * REACH, int(program["code"] + program["size"]))
    start += int(program["half"]) if half else 0
    return start + run(memory, start)


def check_programs(
    step: Conv, schedule: Schedule, layout: Geometry, found: PackedWeights, half: bool = False
) -> None:
    """All programs of a layer, panel by panel: results are the layer's, and each weight is used.

    The last three of a vector's pixels are not the tile's.
    """
    rng = np.random.default_rng(1)
    lanes, used, outputs = 8 if half else 16, 0, len(step.weight)
    epilogue = epilogue_of(step, schedule)
    y_step, residual_step = step.y.strides[1], step.residual.strides[1] if step.residual else 0
    y = np.full(outputs * y_step + 16, np.nan, np.float32)
    residual = rng.integers(-4, 5, outputs * residual_step + 16).astype(np.float32)
    spilled = np.full(outputs * schedule.elements + 16, np.nan, np.float32)
    wanted = np.broadcast_to(step.bias[:, None], (outputs, 16)).copy()
    for panel, (begin, end) in enumerate(found.panels):
        size = (end - begin) * layout.channel + layout.taps[-1][-1] + 32
        tile = rng.integers(-4, 5, size).astype(np.float32)
        wanted += _expected(step, layout, tile, begin, end, 0)
        flags = FIRST * (panel == 0) + LAST * (panel == len(found.panels) - 1)
        for part in (group[panel] for group in found.parts):
            for number, program in enumerate(part.row_segments):
                row, rows = int(program["row"]), int(program["rows"])
                assert program["flags"] == flags
                assert part.code is not None
                places = (slice(row * n, (row + rows - 1) * n + lanes)
                          for n in (schedule.elements, y_step, residual_step))  # fmt: skip
                sums, to, other = (
                    a[s] for a, s in zip((spilled, y, residual), places, strict=True)
                )
                memory = Memory(part.code, tile, sums, step.bias, 0, range(0), to, other, lanes - 3)
                stop = _run(part, number, half, memory)
                ends = int(program["half"]) or int(program["weight"]) - 4 * REACH
                if half or not schedule.tile_width_x8 % 2:
                    ends = int(program["weight"]) - 4 * REACH
                assert stop <= int(program["code"]) + ends
                assert memory.used == list(memory.weights)[::4][: len(memory.used)]
                assert memory.fetched == list(range(0, int(program["fetch"]), LINE))
                used += len(memory.used)
    assert used == np.count_nonzero(step.weight)
    if epilogue is None:
        results = _rows(spilled, schedule.elements, outputs, lanes)
    else:
        wanted[:, lanes - 3 :] = np.nan
        results = _rows(y, y_step, outputs, lanes)
        if epilogue.residual is not None:
            wanted += _rows(residual, residual_step, outputs, 16)
        low, high = step.activation.bounds or (0.0, 0.0)
        wanted = np.clip(wanted, np.float32(low), np.float32(high))
    np.testing.assert_array_equal(results, wanted[:, :lanes])


def _rows(array: Array, step: int, count: int, lanes: int) -> Array:
    """The first vector of every row of memory, [count, lanes]."""
    return np.stack([array[row * step :][:lanes] for row in range(count)])


@pytest.mark.parametrize("name", WAYS)
def test_programs_compute_the_layer(name: str) -> None:
    step, schedule, layout, found = _made(name)
    if schedule.tile_width_x8 > 1:
        check_programs(step, schedule, layout, found)
    if schedule.tile_width_x8 % 2:
        check_programs(step, schedule, layout, found, half=True)


def test_programs_have_at_most_as_many_rows_as_they_may() -> None:
    step, schedule, _, found = _made("groups")
    sizes = [int(p["rows"]) for group in found.parts for part in group for p in part.row_segments]
    assert sum(sizes) == len(step.weight)
    assert max(sizes) <= schedule.rows
    assert max(sizes) - min(sizes) <= 2


def _place(code: Array, instruction: str) -> int:
    """Where the last of such instructions is."""
    return code.tobytes().rindex(bytes.fromhex(instruction))


WRONG = ["register", "place", "weight", "store", "mask", "residual", "bound"]


@pytest.mark.parametrize("where", WRONG)
def test_a_wrong_instruction_is_found(where: str) -> None:
    step, schedule, layout, found = _made("panels")
    last = len(found.panels) - 1
    part = found.parts[0][last]
    assert part.code is not None
    code, program = part.code.copy(), part.row_segments[0]
    multiply = next(at for at in range(code.size) if code[at] == 0x62 and code[at + 4] == 0xB8)
    match where:
        case "register":
            code[multiply + 5] ^= 8
        case "place":
            code[multiply + 6] += 1
        case "weight":
            code[int(program["weight"]) - 4 * REACH : int(program["weight"]) - 4 * REACH + 4] = 0
        case "store":
            store = max(a for a in range(multiply, int(program["weight"]) - 4 * REACH)
                        if code[a] == 0x62 and code[a + 4] == 0x11)  # fmt: skip
            code[store + 6] ^= 64
        case "mask":
            code[_place(code, "c5f8904c2410") + 5] += 8
        case "residual":
            add = _place(code, "488b442408") + 5
            code[add + 6] ^= 64
        case "bound":
            code[_place(code, "b80000803f") + 4] ^= 128  # mov eax, 1.0
    wrong = replace(part, code=code)
    parts = tuple((*group[:last], wrong) for group in found.parts)
    with pytest.raises(AssertionError):
        check_programs(step, schedule, layout, replace(found, parts=parts))


# -- run by the processor --------------------------------------------------------------------------

LAYERS = (
    Layer((1, 67, 14, 14), 70, residual="own", activation=RELU),
    Layer((2, 31, 7, 7), 67, residual="in place", activation=ACTIVATIONS[8]),
    Layer((1, 33, 9, 9), 1, empty=0),
    Layer((3, 12, 5, 5), 32, density=0.55, activation=ACTIVATIONS[2]),
    Layer((1, 24, 28, 28), 35, (3, 3), pads=SAME, density=0.1, residual="own", activation=RELU),
    Layer((1, 8, 9, 56), 26, (3, 3), pads=SAME, residual="in place"),
    Layer((1, 7, 17, 33), 9, (3, 3), (2, 2), SAME),
    Layer((2, 6, 20, 15), 9, (5, 5), pads=(2, 2, 2, 2), density=0.3),
    Layer((1, 9, 30, 9), 12, (3, 3), (1, 2), SAME, groups=3, density=0.4),
    Layer((16, 20, 4, 4), 33, (3, 3), pads=SAME, residual="own", activation=RELU, beside=True),
    Layer((16, 9, 8, 8), 12, strides=(2, 2), beside=True),
    Layer((1, 64, 3, 3), 45, (3, 3), pads=SAME, density=0.0),
)


def _candidates(layer: Layer) -> list[Schedule]:
    return [w for w in choose.candidates(layer.step, "avx512", 2) if KERNELS[w.kernel].generated]


def sweep() -> list[Case]:
    """Every candidate of these layers, a third of them in panels and groups that are unusual."""
    cases, rng = [], np.random.default_rng(5)
    for layer in LAYERS:
        for number, schedule in enumerate(_candidates(layer)):
            if number % 3 == 1:
                panel = int(rng.integers(1, schedule.channels + 1))
                schedule = replace(schedule, channels=panel, groups=int(rng.integers(1, 5)))
            cases.append(layer.case(schedule, seed=number))
    return cases


@needs_avx512
def test_jit_layers_agree_with_the_interpreter() -> None:
    cases = sweep()
    assert len(cases) > 60
    packings = {schedule.packing for case in cases for schedule in case.tuned.values()}
    assert packings == {"plain", "none", "shared_border"}
    check(cases, "avx512")


@needs_avx512
def test_a_sum_that_is_not_resumed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin begins every panel with the bias."""
    from prunedeploy.runtimes.sparse.kernels.jit import packing

    part = packing._part
    monkeypatch.setattr(
        packing,
        "_part",
        lambda terms, blocks, flags, *how: part(terms, blocks, flags | FIRST, *how),
    )
    case = Layer((1, 20, 4, 8), 9).case(Schedule("jit", 1, 4, 7, rows=9))
    with pytest.raises(AssertionError):
        check([case], "avx512")


@pytest.mark.parametrize("isa", ["avx2", "neon", "generic"])
def test_other_instruction_sets_have_none(isa: str) -> None:
    for layer in LAYERS:
        assert not any(
            KERNELS[schedule.kernel].generated for schedule in choose.candidates(layer.step, isa, 2)
        )


def test_layers_that_are_nearly_dense_have_none() -> None:
    assert not _candidates(replace(LAYERS[0], density=0.9, empty=0))
    assert _candidates(LAYERS[0])
    assert all(
        1 <= schedule.rows <= MAX_ROWS for layer in LAYERS for schedule in _candidates(layer)
    )


def test_images_side_by_side_have_whole_vectors() -> None:
    layer = LAYERS[-2]
    assert beside(layer.step.x).strides[3] == 16
    assert all(schedule.tile_width_x8 % 2 == 0 for schedule in _candidates(layer))


def test_planes_out_of_reach_are_refused_or_left_to_others() -> None:
    """An instruction reaches 2^31 bytes: panels of very large planes have fewer channels."""
    layer = Layer((1, 40, 2, 8), 5, density=0.5)
    step = layer.step
    far = View(step.x.buffer, step.x.shape, (16, 2**24, 8, 1))
    schedules = choose.candidates(replace(step, x=far), "avx512", 2)
    found = [
        schedule
        for schedule in schedules
        if KERNELS[schedule.kernel].generated and schedule.packing == "none"
    ]
    assert {schedule.channels for schedule in found} == {31}
    for schedule in found:
        layout = geometry(replace(step, x=far), schedule)
        assert len(pack_jit(replace(step, x=far), schedule, layout).panels) == 2
    schedule = replace(found[0], channels=40)
    layout = geometry(replace(step, x=far), schedule)
    with pytest.raises(ValueError, match="out of an instruction's reach"):
        pack_jit(replace(step, x=far), schedule, layout)


# -- pages -----------------------------------------------------------------------------------------

SETTLED = """\
#define _GNU_SOURCE
#include "pages.h"
extern __attribute__((visibility("hidden"))) const unsigned char pd_code[];
void settle(void) { pd_settle(pd_code, SIZE); }
const unsigned char *code(void) { return pd_code; }
"""


HUGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
needs_huge_pages = pytest.mark.skipif(
    not supported()[0].startswith("avx") or not HUGE.exists() or "[never]" in HUGE.read_text(),
    reason="no huge pages here, or no x86-64",
)


def _linear(seed: int) -> ir.Model:
    """A layer with 300,000 scattered non-zeros on 128 pixels."""
    net = Small(seed=seed)
    weight = net.normal(1024, 2048, 1, 1)
    weight[net.random.random(weight.shape) > 0.15] = 0
    return net.model(net.node("Conv", net.input("n", 2048, 8, 16), weight, net.normal(1024)))


def _programs_in_memory() -> int:
    """Pieces of memory of this process that can be run and are of no file."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    return sum(line[1] == "r-xp" and len(line) == 5 for line in lines)


@needs_huge_pages
@pytest.mark.parametrize("size", [(5 << 20) + 4321, 4096])
def test_programs_settle_as_they_are(size: int, tmp_path: Path) -> None:
    """The same bytes in the same place, which still run, of no file, and not to be written."""
    code = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    for at in (0, size // 2, size - 6):
        code[at : at + 6] = (0xB8, at & 255, at >> 8 & 255, at >> 16 & 255, 0, 0xC3)  # return at
    (tmp_path / CODE).write_bytes(code.tobytes())
    (tmp_path / "code.c").write_text(blob("pd_code", CODE, code.tobytes(), ".text"))
    (tmp_path / "settle.c").write_text(SETTLED.replace("SIZE", str(size)))
    command = ["gcc", "-O1", "-shared", "-fPIC", "-I", C_FOLDER, "settle.c", "code.c", "-o", "s.so"]
    subprocess.run(command, cwd=tmp_path, check=True)
    library = ctypes.CDLL(str(tmp_path / "s.so"))
    library.code.restype = ctypes.c_void_p
    place = library.code()
    for _ in range(2):
        library.settle()
        assert ctypes.string_at(place, size) == code.tobytes()
        for at in (0, size // 2, size - 6):
            assert ctypes.CFUNCTYPE(ctypes.c_int)(place + at)() == at & 0xFFFFFF
    (line,) = (
        line.split()
        for line in Path("/proc/self/maps").read_text().splitlines()
        if int(line.split("-")[0], 16) <= place < int(line.split("-")[1].split()[0], 16)
    )
    assert line[1] == "r-xp"
    assert (len(line) == 5) == (size >= 2 << 20)  # no file behind it


@needs_avx512
def test_where_programs_do_not_fit_layers_have_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(_linear(0), tmp_path / "net.onnx")
    told: list[str] = []

    def built(name: str) -> Engine:
        return build(tmp_path / "net.onnx", tmp_path / name, threads=1, progress=told.append)

    size = (built("usual").path / "model.so").stat().st_size
    assert not any("fit into" in text for text in told)
    monkeypatch.setattr(projects, "MAX_WEIGHTS", size * 2 // 3)
    small = built("small")
    assert any("the generated code would not fit into a library" in text for text in told)
    assert (small.path / "model.so").stat().st_size < size * 2 // 3
    assert "jit" not in (small.path / "layers.json").read_text()


@needs_avx512
@needs_huge_pages
def test_an_engine_settles_once_whoever_comes_first(tmp_path: Path) -> None:
    """Sessions that begin at the same time, of two engines: all right, and a copy an engine."""
    before, engines = _programs_in_memory(), []
    for seed in range(2):
        save(_linear(seed), tmp_path / f"{seed}.onnx")
        engines.append(build(tmp_path / f"{seed}.onnx", tmp_path / f"{seed}.engine", threads=1))
    assert all((engine.path / "model.so").stat().st_size > 3 << 20 for engine in engines)
    feeds = {"in0": np.random.default_rng(1).standard_normal((1, 2048, 8, 16), np.float32)}

    def output(engine: Engine) -> Array:
        with opening.open(engine, 1) as session:
            (found,) = session.run(feeds).values()
            return found

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(output, engines * 8))
    for number, one in enumerate(found):
        np.testing.assert_array_equal(one, found[number % 2])
    assert not np.allclose(found[0], found[1])
    assert _programs_in_memory() - before in (0, 2)  # 0: the libraries are closed again
