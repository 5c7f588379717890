"""Weights in files beside a model: nothing outside of its folder, nothing but regular files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from commands import assert_same, through_all
from onnx import TensorProto, numpy_helper
from small_onnx import FLOAT, draw, external, graph, info, model, node, write

import prunedeploy
from prunedeploy.cli import main
from prunedeploy.core.errors import UserError
from prunedeploy.core.files import sha256, to_json
from prunedeploy.engines import engine_folder
from prunedeploy.graph import external_data, wire
from prunedeploy.graph import model as models

WEIGHT = draw(16, 16)
X, Y = info("x", FLOAT, [2, 16]), info("y", FLOAT, [2, 16])
PLACES = ("initializer", "constant", "branch", "branch constant", "function")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the model, with its weights in it, and a secret beside that folder."""
    (tmp_path / "secret").write_bytes(b"SECRET KEY " * 200)
    (tmp_path / "m" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "m")
    for name in ("w.bin", "sub/w.bin"):
        Path(name).write_bytes(WEIGHT.tobytes())
    return tmp_path


def net(place: str = "initializer", location: object = "w.bin", **entries: object) -> Path:
    """x @ w, whose weights lie elsewhere, in the given place of the file."""
    tensor = external("w", (16, 16), location=location, **({"length": 1024} | entries))
    product = node("MatMul", ["x", "w"], ["y"])
    constant = node("Constant", [], ["w"], value=tensor)
    inputs, nodes, functions = [X], [product], []
    weights: list[TensorProto] = []
    if place == "initializer":
        weights = [tensor]
    elif place == "constant":
        nodes = [constant, product]
    elif place == "function":
        opsets = [onnx.helper.make_opsetid("", 17)]
        functions = [
            onnx.helper.make_function("my", "F", ["x"], ["y"], [constant, product], opsets)
        ]
        nodes = [node("F", ["x"], ["y"], domain="my")]
    else:
        inputs = [X, info("k", TensorProto.BOOL, [])]
        then = graph("t", [node("MatMul", ["x", "w"], ["t"])], ["t"])
        if place == "branch":
            then.initializer.append(tensor)
        else:
            then.node.insert(0, constant)
        otherwise = graph("e", [node("Neg", ["x"], ["e"])], ["e"])
        nodes = [node("If", ["k"], ["y"], then_branch=then, else_branch=otherwise)]
    made = model(nodes, inputs, [Y])
    made.graph.initializer.extend(weights)
    if functions:
        made.functions.extend(functions)
        made.opset_import.append(onnx.helper.make_opsetid("my", 1))
    return write(made)


COMMANDS: dict[str, Callable[[], object]] = {
    "inspect": lambda: prunedeploy.inspect("net.onnx"),
    "shrink": lambda: prunedeploy.shrink("net.onnx", "small.onnx", align=1),
    "build ort": lambda: prunedeploy.build("net.onnx", runtime="ort", output="e"),
    "build sparse": lambda: prunedeploy.build("net.onnx", runtime="sparse", output="e"),
    "lower": lambda: prunedeploy.lower("net.onnx", "low.onnx"),
    "predict": lambda: prunedeploy.predict("net.onnx"),
    "emit": lambda: prunedeploy.emit_c("net.onnx", output="c"),
    "bundle": lambda: prunedeploy.write_bundle("net.onnx", "jetson-nano", "b"),
    "hash": lambda: models.sha256(Path("net.onnx")),
}


# -- what may be read ---------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("location", ["w.bin", "./w.bin", "sub/w.bin", "link"])
def test_weights_beside_the_model_wherever_they_are_read(place: str, location: str) -> None:
    Path("link").symlink_to("sub/w.bin")
    path = net(place, location)
    feeds = {"x": draw(2, 16, seed=1)}
    expected = {"y": feeds["x"] @ WEIGHT}
    if "branch" in place:
        feeds["k"] = np.array(True)
    runtimes = ("ort",) if "branch" in place else ("ort", "sparse")
    through_all(onnx.load(path, load_external_data=False), feeds, expected, runtimes)
    assert models.data_files(path) == [Path(location)]


@pytest.mark.parametrize("place", PLACES)
def test_the_hash_covers_weights_wherever_they_are_read(place: str) -> None:
    path = net(place)
    before = models.sha256(path)
    Path("w.bin").write_bytes(bytes(1024))
    assert models.sha256(path) != before


def test_an_engine_does_not_need_the_files_of_its_model() -> None:
    net("constant")
    engine = prunedeploy.build("net.onnx", runtime="ort", output="e")
    Path("w.bin").unlink()
    feeds = {"x": draw(2, 16)}
    with prunedeploy.open("e") as session:
        assert_same(session.run(feeds), {"y": feeds["x"] @ WEIGHT})
    assert "model.onnx" in engine.manifest.files


def test_a_cache_that_links_to_files_under_their_hashes(folder: Path) -> None:
    """As the Hugging Face cache does: snapshots/VERSION/NAME -> ../../blobs/HASH."""
    blobs, version = folder / "blobs", folder / "snapshots" / "1"
    blobs.mkdir()
    version.mkdir(parents=True)
    net().rename(blobs / "aa")
    Path("w.bin").rename(blobs / "bb")
    (version / "net.onnx").symlink_to("../../blobs/aa")
    (version / "w.bin").symlink_to("../../blobs/bb")
    loaded = models.load(version / "net.onnx")
    np.testing.assert_array_equal(loaded.graph.initializers["w"].const_value.numpy(), WEIGHT)


def test_a_tensor_of_a_few_bytes_beside_the_model() -> None:
    """The checker looks at such small ones itself, and in the wrong folder."""
    Path("s.bin").write_bytes(np.float32(2.0).tobytes())
    made = model([node("Mul", ["x", "s"], ["y"])], [X], [Y])
    made.graph.initializer.append(external("s", (), location="s.bin"))
    feeds = {"x": draw(2, 16)}
    through_all(made, feeds, {"y": feeds["x"] * 2})


# -- what may not -------------------------------------------------------------------------------


def outside(folder: Path) -> dict[str, object]:
    """Locations that lead out of the model's folder, or to no regular file in it."""
    Path("out").symlink_to("../secret")
    Path("outdir").symlink_to("..")
    Path("null").symlink_to("/dev/zero")
    Path("loop").symlink_to("loop")
    os.mkfifo("fifo")
    os.link(folder / "secret", "hard")
    return {
        "above": "../secret",
        "absolute": folder / "secret",
        "back again": "../m/w.bin",
        "a link": "out",
        "a linked folder": "outdir/secret",
        "a linked device": "null",
        "a device": "/dev/zero",
        "a pipe": "fifo",
        "a folder": "sub",
        "the folder": ".",
        "a loop": "loop",
        "a hard link": "hard",
        "nothing": "",
        "no entry": None,
        "a null byte": "w.bin\0",
    }


CASES = (
    "above",
    "absolute",
    "back again",
    "a link",
    "a linked folder",
    "a linked device",
    "a device",
    "a pipe",
    "a folder",
    "the folder",
    "a loop",
    "a hard link",
    "nothing",
    "no entry",
    "a null byte",
)


@pytest.mark.parametrize("place", ["initializer", "constant", "branch"])
@pytest.mark.parametrize("case", CASES)
def test_nothing_outside_of_the_folder_is_read(folder: Path, case: str, place: str) -> None:
    locations = outside(folder)
    assert set(CASES) == set(locations)
    net(place, locations[case])
    for name, command in COMMANDS.items():
        if name == "hash" and case == "no entry":
            continue  # there is nothing beside it to hash
        before = sorted(Path().iterdir())
        with pytest.raises(UserError, match=r"net\.onnx") as caught:
            command()
        assert "\n" not in str(caught.value)
        assert sorted(Path().iterdir()) == before, name


@pytest.mark.parametrize("how", ["net.onnx", "./net.onnx", "../m/net.onnx", "absolute"])
def test_however_the_model_is_named(folder: Path, how: str) -> None:
    net(location="../secret")
    path = folder / "m" / "net.onnx" if how == "absolute" else Path(how)
    with pytest.raises(UserError, match="outside of the model's folder"):
        models.load(path)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"offset": 4}, "bytes 4 to 1028 of w.bin, which has 1024"),
        ({"offset": -4}, "bytes -4 to"),
        ({"length": -1}, "bytes 0 to -1"),
        ({"length": 8}, "has 8 bytes, its shape takes 1024"),
        ({"length": 1 << 40}, "which has 1024"),
        ({"offset": "x"}, "lies at x"),
        ({"location": "gone.bin"}, "gone.bin, is missing"),
    ],
)
def test_places_that_are_not_in_the_file(entries: dict[str, object], said: str) -> None:
    net(**entries)
    for name, command in COMMANDS.items():
        if name != "hash":  # that is of the whole file
            with pytest.raises(UserError, match=said):
                command()


def test_a_model_in_memory_has_no_folder() -> None:
    path = net()
    with pytest.raises(UserError, match="give the path"):
        prunedeploy.shrink(onnx.load(path, load_external_data=False), "small.onnx")


def test_the_command_line_says_it_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    net(location="../secret")
    assert main(["shrink", "net.onnx"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("prunedeploy: error: cannot read net.onnx")
    assert "'../secret'" in last


# -- engines ------------------------------------------------------------------------------------


def engine(location: str, *listed: str) -> Path:
    """An engine of ONNX Runtime whose model.onnx reads weights from ``location``.

    Its manifest lists model.onnx and ``listed``, with the right hashes.
    """
    net()
    folder = prunedeploy.build("net.onnx", runtime="ort", output="e").path
    made = model([node("MatMul", ["x", "w"], ["y"])], [X], [Y])
    made.graph.initializer.append(external("w", (16, 16), location=location, length=1024))
    manifest = engine_folder.read_engine(folder).manifest
    write(made, folder / "model.onnx")
    (folder / "w.bin").write_bytes(WEIGHT.tobytes())
    hashes = {name: sha256(folder / name) for name in ("model.onnx", *listed)}
    (folder / "manifest.json").write_text(to_json(dataclasses.replace(manifest, files=hashes)))
    return folder


def test_an_engine_reads_weights_that_it_lists() -> None:
    feeds = {"x": draw(2, 16)}
    with prunedeploy.open(engine("w.bin", "w.bin")) as session:
        assert_same(session.run(feeds), {"y": feeds["x"] @ WEIGHT})


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("w.bin", "not among the engine's files"),
        ("../w.bin", "outside"),
        ("../../secret", "outside"),
        ("link", "outside"),
        ("fifo", "not a regular file"),
    ],
)
def test_an_engine_reads_no_other_file(folder: Path, location: str, said: str) -> None:
    path = engine(location)
    (path / "link").symlink_to(folder / "secret")
    os.mkfifo(path / "fifo")
    with pytest.raises(UserError, match=said), prunedeploy.open(path):
        pass
    with pytest.raises(UserError, match=said):
        prunedeploy.serve_repo(path, "repo")
    assert not list(Path().glob("repo/*"))


def test_a_location_that_its_tensor_does_not_use_counts_in_an_engine() -> None:
    """A message may be in a file in two parts, of which protobuf makes one."""
    path = engine("w.bin", "w.bin")
    made = onnx.load(path / "model.onnx", load_external_data=False)
    stored = made.graph.initializer[0]
    stored.CopyFrom(numpy_helper.from_array(WEIGHT, "w"))
    entry = stored.external_data.add()
    entry.key, entry.value = "location", "../w.bin"
    write(made, path / "model.onnx")
    with pytest.raises(UserError, match="outside"):
        external_data.check_listed(path / "model.onnx", ["model.onnx"])


# -- the wire format ----------------------------------------------------------------------------


def test_locations_are_those_that_protobuf_finds() -> None:
    """In every part of a file that holds tensors."""
    made = onnx.ModelProto()
    attribute = made.graph.node.add().attribute.add()
    inner = attribute.g.node.add().attribute.add()
    tensors = [
        made.graph.initializer.add(),
        made.graph.sparse_initializer.add().values,
        made.graph.sparse_initializer.add().indices,
        attribute.t,
        attribute.tensors.add(),
        attribute.sparse_tensor.values,
        attribute.sparse_tensors.add().indices,
        attribute.graphs.add().initializer.add(),
        inner.t,
        made.functions.add().node.add().attribute.add().t,
        made.functions.add().attribute_proto.add().t,
        made.training_info.add().initialization.initializer.add(),
        made.training_info.add().algorithm.initializer.add(),
    ]
    for number, tensor in enumerate(tensors):
        tensor.raw_data = bytes(range(256)) * 3
        for key in ("offset", "location"):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, f"{key}{number}"
        if number % 2:
            tensor.data_location = TensorProto.EXTERNAL
    path = write(made)
    found = sorted(wire.locations(path))
    assert found == sorted((f"location{i}", bool(i % 2)) for i in range(len(tensors)))


@pytest.mark.parametrize(
    "content",
    [b"\x3a\xff", b"\x3a\x05\x0a", b"\x3b", b"\xff" * 12, b"\x3a\x02\x2a\x7f", b"\x08"],
)
def test_what_is_not_in_wire_format(content: bytes) -> None:
    Path("net.onnx").write_bytes(content)
    with pytest.raises(ValueError, match="it "):
        wire.locations(Path("net.onnx"))
    assert models.data_files(Path("net.onnx")) == []


def test_messages_nested_without_end() -> None:
    content = b""
    for _ in range(300):  # graph.node.attribute.g.node and so on
        for tag in (0x32, 0x2A, 0x0A):
            content = bytes([tag]) + wire_length(content) + content
    content = b"\x3a" + wire_length(content) + content
    Path("net.onnx").write_bytes(content)
    with pytest.raises(ValueError, match="nested too deep"):
        wire.locations(Path("net.onnx"))
    with pytest.raises(UserError, match=r"cannot read net\.onnx"):
        prunedeploy.inspect("net.onnx")


def wire_length(content: bytes) -> bytes:
    size, found = len(content), b""
    while size > 127:
        found, size = found + bytes([size & 127 | 128]), size >> 7
    return found + bytes([size])
