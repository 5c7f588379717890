"""docs/architecture.md is true: what it names is there, and its worked examples are real."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from prunedeploy.graph import preparation
from prunedeploy.passes.analysis.coupling import couple
from prunedeploy.runtimes.sparse.kernels.jit.packing import pack_jit
from prunedeploy.runtimes.sparse.plan.steps import Activation, Conv
from prunedeploy.runtimes.sparse.plan.views import planar
from prunedeploy.runtimes.sparse.schedule.schedule import Schedule, geometry

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "architecture.md").read_text()
PACKAGES = ("prunedeploy", "passes", "runtimes", "models")
LINKS = ("passes", "runtimes", "models")  # in prunedeploy/, for type checkers


def named(text: str) -> set[str]:
    """Paths of the project in a text: folders end with a slash, files with a suffix."""
    tops = "|".join((*PACKAGES, "docs", "tests", "benchmarks"))
    return set(re.findall(rf"(?<![\w./])(?:{tops})/[\w./-]*[\w/](?![\w(])", text))


def missing(text: str) -> list[str]:
    """Those that are not there."""
    return sorted(name for name in named(text) if not (ROOT / name).exists())


def rooms() -> Iterator[str]:
    """The folders of the packages down to the second level, and the sparse runtime's."""
    for package in PACKAGES:
        for folder in (ROOT / package).iterdir():
            linked = package == "prunedeploy" and folder.name in LINKS
            if (folder / "__init__.py").is_file() and not linked:
                yield f"{package}/{folder.name}/"
    for folder in (ROOT / "runtimes" / "sparse").iterdir():
        if (folder / "__init__.py").is_file():
            yield f"runtimes/sparse/{folder.name}/"


def test_every_path_that_is_named_exists() -> None:
    assert len(named(TEXT)) > 40
    assert not missing(TEXT)


def test_a_path_that_is_gone_is_found() -> None:
    assert missing(TEXT + " `passes/shrink/rules.py` and `prunedeploy/nowhere/`") == [
        "passes/shrink/rules.py",
        "prunedeploy/nowhere/",
    ]


@pytest.mark.parametrize("room", sorted(rooms()))
def test_every_room_is_named(room: str) -> None:
    assert room in TEXT


def test_layers_are_those_of_the_contract() -> None:
    """Top down in pyproject.toml, bottom up in the table."""
    contract = (ROOT / "pyproject.toml").read_text()
    contract = contract[contract.index("layers = [") :].split("]")[0]
    wanted = {
        name.replace("prunedeploy.", "") for name in re.findall(r"prunedeploy\.\w+", contract)
    }
    table = TEXT[TEXT.index("| layer |") : TEXT.index("Two choices differ")]
    order = re.findall(r"`(?:prunedeploy/)?(\w+)/`", table)
    assert set(order) == wanted
    levels = [
        set(re.findall(r"prunedeploy\.(\w+)", line))
        for line in reversed(contract.splitlines())
        if "prunedeploy." in line
    ]
    position = {name: level for level, names in enumerate(levels) for name in names}
    assert [position[name] for name in order] == sorted(position[name] for name in order)


def test_the_machine_code_is_what_packing_makes() -> None:
    weight = np.array([[2, 0, -1], [0, 0, 3]], np.float32).reshape(2, 3, 1, 1)
    bias = np.array([0.5, -1], np.float32)
    x, y = planar(0, (1, 3, 4, 4), 1), planar(1, (1, 2, 4, 4), 1)
    step = Conv("conv", x, y, weight, bias, activation=Activation("relu"))
    schedule = Schedule("jit", tile_rows=1, tile_width_x8=2, channels=3, packing="none", rows=2)
    ((part,),) = pack_jit(step, schedule, geometry(step, schedule)).parts
    block = TEXT[TEXT.index("   62 f2 7d 48 18 41 00") :].split("```")[0]
    said = "".join(
        re.match(r" *((?:[0-9a-f]{2} )+)", line)[1] for line in block.splitlines() if line.strip()
    )  # type: ignore[index]
    code = part.code.tobytes()
    assert code.startswith(bytes.fromhex(said))
    assert bytes.fromhex("00 00 00 40 00 00 80 bf 00 00 40 40") in code
    assert x.strides == (16, 16, 4, 1)


def test_the_labels_are_those_that_coupling_gives() -> None:
    graph = onnx.parser.parse_graph(
        """net (float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y) {
            a = Conv(x, w1)
            b = Conv(a, w2)
            s = Add(a, b)
            y = Conv(s, w3)
        }"""
    )
    random = np.random.default_rng(0)
    for name, shape in (("w1", (3, 2, 1, 1)), ("w2", (3, 3, 1, 1)), ("w3", (2, 3, 1, 1))):
        array = random.standard_normal(shape).astype(np.float32)
        graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    opsets = [onnx.helper.make_opsetid("", 20)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    found = {
        (str(value.name), axis): labels.tolist()
        for value, axis, labels in couple(preparation.from_proto(model).model.graph).items()
    }
    for row in re.findall(r"\| (`\w+` axis \d.*?) \| (\d[\d ]*) \|", TEXT):
        for name, axis in re.findall(r"`(\w+)` axis (\d)", row[0]):
            assert found[name, int(axis)] == [int(label) for label in row[1].split()]


def test_no_path_is_resolved_in_a_way_that_raises() -> None:
    """``Path.resolve`` raises RuntimeError for a link to itself, ``os.path.realpath`` does not."""
    sources = [*ROOT.glob("prunedeploy/**/*.py"), *ROOT.glob("runtimes/**/*.py")]
    found = [path for path in sources if re.search(r"\w\.resolve\(\)", path.read_text())]
    assert [path for path in found if "device" not in path.parts] == []
