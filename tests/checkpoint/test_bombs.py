"""Files of a few kilobytes that claim much: one line, in little time, memory and stack."""

from __future__ import annotations

import io
import pickle
import resource
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from prunedeploy.checkpoint import load, weights
from prunedeploy.core.errors import UserError


def glob(module: str, name: str) -> bytes:
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def tuple_of(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def dict_of(*pairs: tuple[bytes, bytes]) -> bytes:
    return b"}(" + b"".join(key + value for key, value in pairs) + b"u"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + tuple_of(*arguments) + b"R"


def tensor(kind: str, key: str, count: int, size: tuple, stride: tuple, offset: int = 0) -> bytes:
    pid = (
        tuple_of(text("storage"), glob("torch", kind), text(key), text("cpu"), number(count)) + b"Q"
    )
    return call(
        glob("torch._utils", "_rebuild_tensor_v2"),
        pid,
        number(offset),
        tuple_of(*map(number, size)),
        tuple_of(*map(number, stride)),
        b"\x89",
        b"N",
    )


def archive(body: bytes, data: dict[str, bytes], compress: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compress) as made:
        made.writestr("a/data.pkl", b"\x80\x02" + body + b".")
        for key, content in data.items():
            made.writestr(f"a/data/{key}", content)
    return file.getvalue()


def state(*pairs: tuple[str, bytes]) -> bytes:
    return dict_of(*((text(name), value) for name, value in pairs))


def wide(count: int = 1, stride: tuple[int, int] = (0, 0)) -> list[tuple[str, bytes]]:
    made = tensor("HalfStorage", "0", 1, (1 << 14, 1 << 14), stride)
    return [(f"l{at}.weight", made) for at in range(count)]


def claimed() -> bytes:
    made = bytearray(
        archive(
            state(("w.weight", tensor("FloatStorage", "0", 1 << 29, (2, 2), (2, 1)))),
            {"0": bytes(16)},
        )
    )
    at = made.rindex(b"PK\x01\x02")
    made[at + 24 : at + 28] = struct.pack("<I", 1 << 31)
    return bytes(made)


def numpy_of_an_integer() -> bytes:
    kind = call(glob("numpy", "dtype"), text("u1"), number(0), number(1))
    kind += tuple_of(number(3), text("|"), *[b"N"] * 3, number(-1), number(-1), number(0)) + b"b"
    made = call(
        glob("numpy.core.multiarray", "_reconstruct"),
        glob("numpy", "ndarray"),
        tuple_of(number(0)),
        text("b"),
    )
    shape = tuple_of(number(1 << 32), number(1))
    made += tuple_of(number(1), shape, kind, b"\x89", number(1 << 32)) + b"b"
    return b"\x80\x02" + state(("w.weight", made)) + b"."


def module_graph() -> bytes:
    """Forty modules, each of which has the next one twice."""

    def module(fields: bytes) -> bytes:
        return glob("torch.nn", "M") + b")\x81" + fields + b"b"

    leaf = dict_of((text("weight"), tensor("FloatStorage", "0", 4, (2, 2), (2, 1))))
    body = module(dict_of((text("_modules"), b"}"), (text("_parameters"), leaf))) + b"q\x01"
    for at in range(1, 41):
        twice = dict_of((text("a"), b"h" + bytes([at])), (text("b"), b"h" + bytes([at])))
        fields = dict_of((text("_modules"), twice), (text("_parameters"), b"}"))
        body += b"0" + module(fields) + b"q" + bytes([at + 1])
    return archive(body, {"0": bytes(16)})


def fan_out() -> bytes:
    """Four levels of four hundred keys, all of one dictionary."""
    body = b"}(" + b"".join(text(f"k{k}") + number(1) for k in range(400)) + b"uq\x01"
    for level in range(1, 5):
        keys = b"".join(text(f"k{k}") + b"h" + bytes([level]) for k in range(400))
        body += b"0}(" + keys + b"uq" + bytes([level + 1])
    return b"\x80\x02" + body + b"."


def storages(count: int, size: int) -> bytes:
    head = b"".join(
        pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    )
    parts = [
        (f"w{k}.weight", tensor("ByteStorage", str(k), size, (2, 2), (2, 1))) for k in range(count)
    ]
    return head + b"\x80\x02" + state(*parts) + b"." + pickle.dumps([], 2) + bytes(size)


def legacy_view(begin: int) -> bytes:
    """A storage of PyTorch before 0.4: a part of another one, here of four floats."""
    head = b"".join(
        pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    )
    part = tuple_of(text("v"), number(begin), number(4))
    pid = tuple_of(
        text("storage"), glob("torch", "FloatStorage"), text("0"), text("cpu"), number(4), part
    )
    made = call(
        glob("torch._utils", "_rebuild_tensor_v2"),
        pid + b"Q",
        number(0),
        tuple_of(number(2), number(2)),
        tuple_of(number(2), number(1)),
        b"\x89",
        b"N",
    )
    body = b"\x80\x02" + state(("w.weight", made)) + b"."
    return head + body + pickle.dumps(["0"], 2) + struct.pack("<q", 4) + bytes(16)


def sparse(count: int) -> bytes:
    index = tensor("LongStorage", "1", 2, (2, 1), (1, 1))
    value = tensor("FloatStorage", "2", 1, (1,), (1,))
    made = call(
        glob("torch._utils", "_rebuild_sparse_tensor"),
        text("torch.sparse_coo"),
        tuple_of(index, value, tuple_of(number(1 << 14), number(1 << 14))),
    )
    pairs = [(f"l{at}.weight", made) for at in range(count)]
    return archive(state(*pairs), {"1": bytes(16), "2": bytes(4)})


def grown_by_state() -> bytes:
    """A tensor whose state is set to one beyond an empty storage."""
    small = tensor("FloatStorage", "0", 4, (2, 2), (2, 1))
    empty = tensor("FloatStorage", "1", 0, (0,), (1,))
    side = number(1 << 14)
    changed = small + tuple_of(empty, number(0), tuple_of(side, side), tuple_of(side, number(1)))
    return archive(state(("w.weight", changed + b"b")), {"0": bytes(16), "1": b""})


def nested(step: bytes, end: bytes, begin: bytes = b"N") -> bytes:
    return b"\x80\x02" + begin + step * 300_000 + end + b"."


def zeros() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **{"w.weight": np.zeros((1 << 14, 1 << 13), np.float32)})
    return file.getvalue()


INERT = glob("x", "y") + b"q\x00Nq\x010"
ODD = "FloatStorage", "0", 4
FILES: dict[str, Callable[[], bytes]] = {
    "an empty storage seen as many": lambda: archive(
        state(("w.weight", tensor("FloatStorage", "0", 0, (100, 100), (100, 1)))), {"0": b""}
    ),
    "a storage seen beyond its end": lambda: archive(
        state(("w.weight", tensor(*ODD, (2, 3), (2, 1)))), {"0": bytes(16)}
    ),
    "an offset beyond the end": lambda: archive(
        state(("w.weight", tensor(*ODD, (1, 1), (1, 1), 4))), {"0": bytes(16)}
    ),
    "a stride that wraps": lambda: archive(
        state(("w.weight", tensor(*ODD, (5, 2), (1 << 62, 1)))), {"0": bytes(16)}
    ),
    "a negative stride": lambda: archive(
        state(("w.weight", tensor(*ODD, (4, 1), (-1, 1), 3))), {"0": bytes(16)}
    ),
    "a state beyond the end": grown_by_state,
    "a view before its storage": lambda: legacy_view(-4),
    "a view behind its storage": lambda: legacy_view(4),
    "many that are expanded": lambda: archive(state(*wide(8)), {"0": bytes(2)}),
    "many that are sparse": lambda: sparse(8),
    "a set of an expanded one": lambda: archive(
        dict_of((text("w"), call(glob("builtins", "set"), wide()[0][1]))), {"0": bytes(2)}
    ),
    "a size that the archive does not have": claimed,
    "a pickle of a gigabyte": lambda: archive(
        b"}X" + struct.pack("<I", 1 << 29) + bytes(1 << 29) + b"K\x01s", {}, zipfile.ZIP_DEFLATED
    ),
    "compressed zeros": lambda: archive(
        state(("w.weight", tensor("FloatStorage", "0", 1 << 28, (1 << 14, 1 << 14), (1 << 14, 1)))),
        {"0": bytes(1 << 30)},
        zipfile.ZIP_DEFLATED,
    ),
    "a compressed array of zeros": zeros,
    "lists in lists": lambda: b"\x80\x02" + b"]" * 300_000 + b"a" * 299_999 + b".",
    "states of states": lambda: nested(b"h\x00)\x81h\x01bq\x010", b"h\x01", INERT),
    "writes to the memo": lambda: nested(b"r\0\0\0\0" * 2, b""),
    "an array of an integer": numpy_of_an_integer,
    "many storages": lambda: storages(3000, 2_000_000),
    "a module of 2^40 paths": module_graph,
    "400^4 keys": fan_out,
    "a name of 30,000 parts": lambda: archive(
        state(("a." * 30_000 + "weight", tensor(*ODD, (2, 2), (2, 1)))), {"0": bytes(16)}
    ),
    "keys of one hash": lambda: (
        b"\x80\x02}("
        + b"".join(number((k + 1) * (2**61 - 1)) + b"N" for k in range(60_000))
        + b"u."
    ),
    "a key of nested tuples": lambda: nested(b"\x85", b"Ns", b"})"),
    "nested tuples from the memo": lambda: nested(b"h\x01\x85q\x010", b"}h\x01Ns", b"Nq\x010"),
    "a set of nested tuples": lambda: nested(b"\x85", b"\x85R", glob("builtins", "set") + b")"),
    "24 MB of fields": lambda: b"\x08\x01" * 12_000_000,
}


@pytest.mark.parametrize("what", FILES)
def test_claims(what: str, tmp_path: Path) -> None:
    (tmp_path / "net.pt").write_bytes(FILES[what]())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.process_time()
    for read in (load, weights):
        with pytest.raises(UserError) as caught:
            read(tmp_path / "net.pt")
        assert "\n" not in str(caught.value)
    assert time.process_time() - begin < 30  # of this process: others do not count
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_500_000  # kB


SPARES = ("bits8", "uint1", "uint7", "float4_e2m1fn_x2", "complex32")


@pytest.mark.parametrize("kind", [name for name in SPARES if hasattr(torch, name)])
def test_types_that_are_no_numbers(kind: str, tmp_path: Path) -> None:
    made = call(
        glob("torch._utils", "_rebuild_tensor_v3"),
        tuple_of(text("storage"), glob("torch", "ByteStorage"), text("0"), text("cpu"), number(64))
        + b"Q",
        number(0),
        tuple_of(number(2), number(2)),
        tuple_of(number(1), number(1)),
        b"\x89",
        b"N",
        glob("torch", kind),
    )
    plain = tensor("FloatStorage", "0", 16, (2, 2), (2, 1))
    for name in ("w.weight_mask", "w.weight", "x.weight"):
        data = archive(state(("w.bias", plain), (name, made)), {"0": b"\1\0\0\0" * 16})
        (tmp_path / "net.pt").write_bytes(data)
        with pytest.raises(UserError, match="not supported"):
            weights(tmp_path / "net.pt")


STATES: dict[str, dict[str, torch.Tensor]] = {
    "a gate without a bias": {"x.bn.weight": torch.rand(2), "x.g": torch.rand(2)},
    "a gate of another size": {
        "x.bn.weight": torch.rand(2),
        "x.bn.bias": torch.rand(3),
        "x.g": torch.rand(2),
    },
    "a threshold of a number": {"a.sparseThreshold": torch.rand(2), "a.weight": torch.rand(())},
}


@pytest.mark.parametrize("what", STATES)
def test_conventions_that_are_not_whole(what: str, tmp_path: Path) -> None:
    torch.save(STATES[what] | {"b.weight": torch.rand(2, 2)}, tmp_path / "net")
    with pytest.raises(UserError, match="incomplete"):
        weights(tmp_path / "net")


def test_conventions_that_only_look_so(tmp_path: Path) -> None:
    value = {
        "a.weight_g": torch.ones(2, 1, dtype=torch.int64),
        "a.weight_v": torch.ones(2, 4, dtype=torch.int64),
        "x.bn.weight": torch.rand(2),
        "x.bn.bias": torch.rand(2),
        "x.g": torch.rand(2),
        "x.bn.y.z": torch.rand(2),
    }
    torch.save(value, tmp_path / "net")
    assert {"a.weight_g", "x.weight", "x.y.z"} <= weights(tmp_path / "net")[0].keys()
