"""NumPy files as damage and malice leave them: an array, or one line that names the file."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from prunedeploy.core.arrays import read_arrays
from prunedeploy.core.errors import UserError


def npy(header: str, data: bytes = bytes(64)) -> bytes:
    """A file with this header."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data


def form(descr: str = "'<f4'", order: str = "False", shape: str = "(2, 3)") -> bytes:
    return npy(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n")


BAD = {
    "no file of NumPy's": b"text",
    "nothing": b"",
    "half a header": npy("{'descr': (\n"),
    "no Python": npy("{'descr': \x80\n"),
    "too many": form(shape=f"({2**62}, 8)"),
    "more than 64 bits": form(shape=f"({10**30},)"),
    "a bool for a size": form(shape="(True, 3)"),
    "below zero": form(shape="(-5,)"),
    "objects": form(descr="'|O'"),
    "no dtype": form(descr="'xx'"),
    "cut short": form(shape="(2, 300)"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("inside", [False, True])
def test_what_is_no_array(tmp_path: Path, name: str, inside: bool) -> None:
    path = tmp_path / ("x.npz" if inside else "x.npy")
    if inside:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.npy", BAD[name])
    else:
        path.write_bytes(BAD[name])
    if inside and name in ("no file of NumPy's", "nothing"):
        assert list(read_arrays(path)) == ["a"]  # NumPy gives members that are no arrays as bytes
        return
    with pytest.raises(UserError) as caught:
        read_arrays(path)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)


@pytest.mark.parametrize("at", [4, 6, 8, 10])
def test_archives_of_other_versions_and_methods(tmp_path: Path, at: int) -> None:
    stream = io.BytesIO()
    np.savez(stream, a=np.ones(3))
    data = bytearray(stream.getvalue())
    data[data.index(b"PK\x01\x02") + at] = 99
    (tmp_path / "x.npz").write_bytes(data)
    said = str(tmp_path)
    try:
        assert read_arrays(tmp_path / "x.npz")["a"].shape == (3,)
    except UserError as error:
        said = str(error)
    assert str(tmp_path) in said


def test_arrays_come_as_they_are(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(6).reshape(2, 3))
    np.savez(tmp_path / "x.npz", a=np.float32(2), b=np.ones((0, 3)))
    assert read_arrays(tmp_path / "x.npy").tolist() == [[0, 1, 2], [3, 4, 5]]
    arrays = read_arrays(tmp_path / "x.npz")
    assert {name: (x.dtype.name, x.shape) for name, x in arrays.items()} == {
        "a": ("float32", ()),
        "b": ("float64", (0, 3)),
    }
    with pytest.raises(UserError, match="no such file"):
        read_arrays(tmp_path / "y.npy")
