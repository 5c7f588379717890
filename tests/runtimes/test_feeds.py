"""Arrays of every kind as inputs: the right result, or one line."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from engines import build, network, output

from prunedeploy.cli import arrays, main
from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array, TensorSpec
from prunedeploy.engines import building, opening
from prunedeploy.engines.lowering import lower
from prunedeploy.measure.labelled import load as load_images
from prunedeploy.reference import verify
from prunedeploy.runtimes.api import check_feeds, native

BATCH = 2
NAME = "gemm7_0"  # of the only output


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return network(tmp_path_factory.mktemp("model") / "net.onnx")


@pytest.fixture(scope="module", params=["ort", "sparse"])
def session(request: pytest.FixtureRequest, model: Path) -> Iterator[Any]:
    place = model.parent / f"{request.param}.engine"
    if request.param == "sparse":
        engine = build(model, place, batch=(1, 2))
    else:
        engine = building.build(model, "host", "ort", place)
    with opening.open(engine) as opened:
        yield opened


@pytest.fixture(scope="module")
def x() -> Array:
    return np.random.default_rng(0).standard_normal((BATCH, 5, 9, 9)).astype(np.float32)


class Sub(np.ndarray):
    """A subclass."""


def unaligned(x: Array) -> Array:
    raw = bytearray(x.nbytes + 1)
    found = np.frombuffer(raw, np.uint8, x.nbytes, 1).view(x.dtype).reshape(x.shape)
    found[...] = x
    assert not found.flags.aligned
    return found


def mapped(x: Array, folder: Path, dtype: str) -> Array:
    np.save(folder / "x.npy", x.astype(dtype))
    return np.load(folder / "x.npy", mmap_mode="r")


def read_only(x: Array) -> Array:
    x = x.copy()
    x.flags.writeable = False
    return x


SAME: dict[str, Callable[[Array, Path], object]] = {
    "plain": lambda x, _: x,
    "big-endian": lambda x, _: x.astype(">f4"),
    "big-endian in Fortran order": lambda x, _: np.asfortranarray(x).astype(">f4"),
    "big-endian and unaligned": lambda x, _: unaligned(x.astype(">f4")),
    "Fortran order": lambda x, _: np.asfortranarray(x),
    "negative strides": lambda x, _: x[:, :, ::-1, ::-1].copy()[:, :, ::-1, ::-1],
    "every second": lambda x, _: np.repeat(x, 2, 0)[::2],
    "unaligned": lambda x, _: unaligned(x),
    "read-only": lambda x, _: read_only(x),
    "mapped": lambda x, folder: mapped(x, folder, "<f4"),
    "mapped, big-endian": lambda x, folder: mapped(x, folder, ">f4"),
    "mapped, unaligned": lambda x, folder: unaligned(mapped(x, folder, "<f4")),
    "nothing masked": lambda x, _: np.ma.masked_array(x, mask=np.zeros(x.shape, bool)),
    "no mask": lambda x, _: np.ma.masked_array(x),
    "nothing masked, big-endian": lambda x, _: np.ma.masked_array(x.astype(">f4")),
    "a subclass": lambda x, _: x.view(Sub),
    "a list": lambda x, _: [list(sample) for sample in x],
    "a tensor": lambda x, _: torch.from_numpy(x),
}


@pytest.mark.parametrize("what", SAME)
def test_arrays_of_every_kind(session, x: Array, what: str, tmp_path: Path) -> None:
    want = output(session, {"input": x})
    given = SAME[what](x, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = output(session, {"input": given})
    assert found.dtype.isnative
    assert type(found) is np.ndarray
    assert np.array_equal(found, want)
    if hasattr(session, "profile"):
        assert session.profile({"input": given}, 1)


def test_one_sample_for_all(session, x: Array) -> None:
    want = output(session, {"input": np.repeat(x[:1], BATCH, 0)})
    broadcast = np.broadcast_to(x[:1], x.shape)
    assert broadcast.strides[0] == 0
    assert np.array_equal(output(session, {"input": broadcast}), want)


class Odd:
    """Its conversion to an array fails in its own way."""

    def __array__(self, *_: object, **__: object) -> Array:
        raise ZeroDivisionError("no such array\nat all")


REFUSED: dict[str, tuple[Callable[[Array], object], str]] = {
    "elements masked": (
        lambda x: np.ma.masked_array(x, mask=np.arange(x.size).reshape(x.shape) == 7),
        r"masked array with elements masked.*filled",
    ),
    "all masked": (lambda x: np.ma.masked_all(x.shape, np.float32), "elements masked"),
    "float64": (lambda x: x.astype(np.float64), "takes float32, found float64"),
    "big-endian float64": (lambda x: x.astype(">f8"), "takes float32, found float64"),
    "integers": (lambda x: x.astype(">i4"), "takes float32, found int32"),
    "objects": (lambda x: x.astype(object), "found object"),
    "fields": (lambda x: np.zeros(x.shape, [("a", "f4")]), "takes float32"),
    "times": (lambda x: np.zeros(x.shape, "M8[s]"), "takes float32"),
    "ragged": (lambda x: [[1.0], [1.0, 2.0]], "no array"),
    "no array at all": (lambda x: Odd(), r"no array: no such array$"),
    "a tensor with a gradient": (
        lambda x: torch.from_numpy(x).requires_grad_(),
        "no array: .*detach",
    ),
    "nothing": (lambda x: None, "found object"),
    "text": (lambda x: "abc", "takes float32"),
    "another rank": (lambda x: x[0], "takes batch x 5 x 9 x 9, found 5 x 9 x 9"),
    "no samples": (lambda x: x[:0], "found 0 x 5 x 9 x 9"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_input_is_one_line(session, x: Array, what: str) -> None:
    make, says = REFUSED[what]
    with pytest.raises(UserError, match=says) as caught:
        session.run({"input": make(x)})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("feeds", [[np.zeros(3)], None, {}, {1: 2}, {"x": 1}])
def test_what_is_no_mapping_of_inputs(session, feeds: Any) -> None:
    with pytest.raises(UserError):
        session.run(feeds)


def test_nothing_is_copied_that_need_not_be(x: Array) -> None:
    spec = TensorSpec("input", "float32", ("batch", 5, 9, 9))
    assert check_feeds((spec,), {"input": x})["input"] is x
    assert np.shares_memory(check_feeds((spec,), {"input": read_only(x)})["input"], x) is False


@pytest.mark.parametrize(
    "dtype", ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "c8"]
)
@pytest.mark.parametrize("order", "<>")
def test_native(dtype: str, order: str) -> None:
    array = np.arange(5).astype(order + dtype)
    found = native(array, "x")
    assert found.dtype == np.dtype(dtype)
    assert found.dtype.isnative
    assert found.tolist() == array.tolist()


def test_types_of_ml_dtypes() -> None:
    array = np.arange(5).astype(ml_dtypes.bfloat16)
    assert native(array, "x") is array
    spec = TensorSpec("x", "bfloat16", (5,))
    assert check_feeds((spec,), {"x": array})["x"].tolist() == [0, 1, 2, 3, 4]


# -- outputs that are given ------------------------------------------------------------------------

OUTPUTS: dict[str, tuple[Callable[[], object], str]] = {
    "big-endian": (lambda: np.zeros((BATCH, 10), ">f4"), "needs a float32 array"),
    "float64": (lambda: np.zeros((BATCH, 10)), "needs a float32 array"),
    "another shape": (lambda: np.zeros((3, 10), np.float32), "needs a float32 array of 2 x 10"),
    "read-only": (lambda: read_only(np.zeros((BATCH, 10), np.float32)), "must be writable"),
    "Fortran order": (lambda: np.zeros((BATCH, 10), np.float32, order="F"), "in C order"),
    "strided": (lambda: np.zeros((BATCH, 20), np.float32)[:, ::2], "in C order"),
    "broadcast": (lambda: np.broadcast_to(np.float32(0), (BATCH, 10)), "must be writable"),
    "unaligned": (lambda: unaligned(np.zeros((BATCH, 10), np.float32)), "aligned"),
    "masked": (lambda: np.ma.masked_all((BATCH, 10), np.float32), "masked one"),
    "a list": (lambda: [[0.0] * 10] * BATCH, "needs a float32 array"),
    "bytes": (lambda: bytes(80), "needs a float32 array"),
    "a tensor": (lambda: torch.zeros(BATCH, 10), "needs a float32 array"),
}


@pytest.fixture(scope="module")
def sparse(model: Path) -> Iterator[Any]:
    with opening.open(build(model, model.parent / "out.engine", batch=(1, 2))) as opened:
        yield opened


@pytest.mark.parametrize("what", OUTPUTS)
def test_outputs_that_cannot_be_written(sparse, x: Array, what: str) -> None:
    make, says = OUTPUTS[what]
    with pytest.raises(UserError, match=says) as caught:
        sparse.run({"input": x}, out={NAME: make()})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("out", [[np.zeros((BATCH, 10), np.float32)], np.zeros(3), "output", 3])
def test_what_is_no_mapping_of_outputs(sparse, x: Array, out: Any) -> None:
    with pytest.raises(UserError, match="outputs go by name"):
        sparse.run({"input": x}, out=out)


def test_outputs_are_written_in_place(sparse, x: Array, tmp_path: Path) -> None:
    want = output(sparse, {"input": x})
    buffer = np.zeros(1000, np.float32)
    mapped = np.lib.format.open_memmap(tmp_path / "y.npy", "w+", np.float32, (BATCH, 10))
    for given in (
        np.zeros_like(want),
        buffer[300:320].reshape(2, 10),
        mapped,
        want.copy().view(Sub),
    ):
        found = sparse.run({"input": x.astype(">f4")}, out={NAME: given})[NAME]
        assert found is given
        assert np.array_equal(np.asarray(given), want)
    assert not buffer[:300].any()
    wide = np.zeros(x.size + 20, np.float32)
    wide[: x.size] = x.ravel()
    feeds = {"input": wide[: x.size].reshape(x.shape)}
    with pytest.raises(UserError, match="overlaps"):
        sparse.run(feeds, out={NAME: wide[x.size - 10 : x.size + 10].reshape(2, 10)})


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_files_of_the_other_byte_order(model: Path, x: Array, suffix: str, tmp_path: Path) -> None:
    engine = building.build(model, "host", "ort", tmp_path / "e")
    with opening.open(engine) as opened:
        want = output(opened, {"input": x})
    for name, array in (("native", x), ("other", np.asfortranarray(x).astype(">f4"))):
        path = tmp_path / f"{name}{suffix}"
        if suffix == ".npy":
            np.save(path, array)
        else:
            np.savez(path, input=array)
        read = arrays.read(path, engine.manifest.inputs)["input"]
        assert read.dtype.isnative
        assert main(["run", str(tmp_path / "e"), str(path), "-o", str(tmp_path / "y.npy")]) == 0
        assert np.array_equal(np.load(tmp_path / "y.npy"), want)


def test_calibration_inputs_of_the_other_byte_order(model: Path, x: Array, tmp_path: Path) -> None:
    done = [
        lower(model, output=tmp_path / f"{at}.onnx", precision="float16", feeds={"input": feed})
        for at, feed in enumerate((x, x.astype(">f4")))
    ]
    assert done[0].difference == done[1].difference


@pytest.mark.parametrize("kind", ["u1", "f4", "u2"])
def test_data_of_the_other_byte_order(kind: str, tmp_path: Path) -> None:
    spec = TensorSpec("input", "uint16" if kind == "u2" else "float32", ("batch", 3, 4, 4))
    random = np.random.default_rng(0)
    images = random.integers(0, 255, (5, 4, 4, 3)).astype(kind)
    labels = np.arange(5)
    found = []
    for order in "<>":
        np.savez(
            tmp_path / "d.npz",
            images=images.astype(order + kind),
            labels=labels.astype(f"{order}i4"),
        )
        data = load_images(tmp_path / "d.npz", (spec,), ([0.5] * 3, [0.2] * 3))
        (batch,) = data.batches(5)
        assert batch["input"].dtype.isnative
        assert data.labels.tolist() == labels.tolist()
        found.append(batch["input"])
    assert np.array_equal(*found)


def test_random_feeds_are_plain() -> None:
    for array in verify.random_feeds((TensorSpec("x", "float32", ("batch", 3)),)).values():
        assert native(array, "x") is array
