"""Checkpoints that a stranger makes to break who reads them, and a small assembler of pickles."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

Maker = Callable[[Path], Path]


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def tuple_of(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def dict_of(*pairs: tuple[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in pairs) + b"u"


def call(module: str, name: str, *arguments: bytes) -> bytes:
    return f"c{module}\n{name}\n".encode() + tuple_of(*arguments) + b"R"


def tensor(kind: str, key: str, count: int, size: Sequence[int], stride: Sequence[int]) -> bytes:
    storage = tuple_of(
        text("storage"), f"ctorch\n{kind}\n".encode(), text(key), text("cpu"), number(count)
    )
    sizes = [tuple_of(*map(number, each)) for each in (size, stride)]
    return call(
        "torch._utils", "_rebuild_tensor_v2", storage + b"Q", number(0), *sizes, b"\x89", b"N"
    )


def archive(
    path: Path, body: bytes, data: dict[str, bytes], compress: int = zipfile.ZIP_STORED
) -> Path:
    with zipfile.ZipFile(path, "w", compress) as made:
        made.writestr("a/data.pkl", b"\x80\x02" + body + b".")
        for key, content in data.items():
            made.writestr(f"a/data/{key}", content)
    return path


def _checkpoint(body: bytes, data: dict[str, bytes] | None = None) -> Maker:
    given = {"0": bytes(16)} if data is None else data
    return lambda folder: archive(folder / "net.pt", body, given)


def _pickle(body: Callable[[], bytes]) -> Maker:
    def make(folder: Path) -> Path:
        (folder / "net.pt").write_bytes(b"\x80\x02" + body() + b".")
        return folder / "net.pt"

    return make


WEIGHT = tensor("FloatStorage", "0", 4, (2, 2), (2, 1))


def _other_type(dtype: str) -> bytes:
    storage = tuple_of(
        text("storage"), b"ctorch\nByteStorage\n", text("0"), text("cpu"), number(16)
    )
    pair = tuple_of(number(2), number(2))
    parts = (storage + b"Q", number(0), pair, tuple_of(number(2), number(1)), b"\x89", b"N")
    made = call("torch._utils", "_rebuild_tensor_v3", *parts, f"ctorch\n{dtype}\n".encode())
    return dict_of(("w.weight", made))


def _modules() -> bytes:
    """Forty modules, each of which has the next one twice."""
    body = WEIGHT
    fields = (("_modules", b"}"), ("_parameters", dict_of(("weight", body))))
    body = b"ctorch.nn\nM\n)\x81" + dict_of(*fields) + b"bq\x01"
    for at in range(1, 41):
        twice = dict_of(("a", b"h" + bytes([at])), ("b", b"h" + bytes([at])))
        body += b"0ctorch.nn\nM\n)\x81" + dict_of(("_modules", twice), ("_parameters", b"}"))
        body += b"bq" + bytes([at + 1])
    return body


def _fan_out() -> bytes:
    """Four levels of four hundred keys, all of one dictionary without a weight."""
    body = dict_of(*((f"k{k}", number(1)) for k in range(400))) + b"q\x01"
    for level in range(1, 5):
        inside = b"h" + bytes([level])
        body += b"0" + dict_of(*((f"k{k}", inside) for k in range(400))) + b"q" + bytes([level + 1])
    return body


def _sparse() -> bytes:
    """Eight sparse tensors of one number each."""
    at = tensor("LongStorage", "1", 2, (2, 1), (1, 1))
    value = tensor("FloatStorage", "0", 4, (1,), (1,))
    size = tuple_of(number(1 << 14), number(1 << 15))
    parts = (text("torch.sparse_coo"), tuple_of(at, value, size))
    made = call("torch._utils", "_rebuild_sparse_tensor", *parts)
    return dict_of(*((f"l{k}.weight", made) for k in range(8)))


def _overlapping_members(folder: Path) -> Path:
    """Ten thousand entries of the central directory that lead to the same megabyte."""
    path = archive(folder / "net.pt", dict_of(("w.weight", WEIGHT)), {"0": bytes(1 << 20)})
    raw = path.read_bytes()
    at, end = raw.rindex(b"PK\x01\x02"), raw.rindex(b"PK\x05\x06")
    entry, tail = raw[at:end], bytearray(raw[end:])
    length = struct.unpack_from("<H", entry, 28)[0]
    name = 46 + length
    parts = [entry[:46] + f"{k:0{length}}".encode() + entry[name:] for k in range(10_000)]
    start = struct.unpack_from("<I", tail, 16)[0]
    struct.pack_into(
        "<HHI", tail, 8, 10_002, 10_002, at - start + len(entry) + len(b"".join(parts))
    )
    path.write_bytes(raw[:end] + b"".join(parts) + bytes(tail))
    return path


def _many_members(folder: Path) -> Path:
    path = folder / "net.pt"
    with zipfile.ZipFile(path, "w") as made:
        for k in range(40_000):
            made.writestr(zipfile.ZipInfo(f"a/data/{k}"), b"")
    return path


def _string(folder: Path) -> Path:
    body = b"}X" + struct.pack("<I", 1 << 28) + b"a" * (1 << 28) + b"K\x01s"
    return archive(folder / "net.pt", body, {}, zipfile.ZIP_DEFLATED)


CHECKPOINTS: dict[str, Maker] = {
    "memo-writes": _pickle(
        lambda: b"N" + b"".join(b"r" + struct.pack("<I", k) for k in range(600_000))
    ),
    "nested-lists": _pickle(lambda: b"]" * 200_000 + b"a" * 199_999),
    "nested-dicts": _pickle(lambda: b"}K\x00" * 200_000 + b"}" + b"s" * 200_000),
    "nested-tuples": _pickle(lambda: b")" + b"\x85" * 2_000_000),
    "nested-objects": _pickle(
        lambda: b"cx\ny\nq\x000Nq\x010" + b"h\x00)\x81h\x01bq\x010" * 300_000 + b"h\x01"
    ),
    "equal-hashes": _pickle(
        lambda: (
            b"}(" + b"".join(number((k + 1) * ((1 << 61) - 1)) + b"N" for k in range(60_000)) + b"u"
        )
    ),
    "pickle-fan-out": _pickle(_fan_out),
    "module-graph": _checkpoint(_modules()),
    "long-name": _checkpoint(dict_of(("a." * 150_000 + "weight", WEIGHT))),
    "bits": _checkpoint(_other_type("bits16")),
    "complex-halves": _checkpoint(_other_type("complex32")),
    "quantised": _checkpoint(_other_type("quint4x2")),
    "zero-stride": _checkpoint(
        dict_of(("w.weight", tensor("FloatStorage", "0", 4, (1 << 14, 1 << 15), (0, 0))))
    ),
    "sparse-sizes": _checkpoint(_sparse(), {"0": bytes(16), "1": bytes(16)}),
    "deflated-string": _string,
    "overlapping-members": _overlapping_members,
    "many-members": _many_members,
}
