"""Files of safetensors, NumPy and JSON, links and pipes that a stranger makes."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from hostile_pickles import Maker

HUGE = 1 << 40


def _safetensors(header: Callable[[], bytes], length: int | None = None) -> Maker:
    def make(folder: Path) -> Path:
        data = header()
        size = len(data) if length is None else length
        (folder / "net.safetensors").write_bytes(struct.pack("<Q", size) + data)
        return folder / "net.safetensors"

    return make


def _entry(shape: Sequence[int], end: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}


def _npz(header: bytes) -> Maker:
    def make(folder: Path) -> Path:
        data = header + b" " * (-(len(header) + 13) % 64) + b"\n"
        with zipfile.ZipFile(folder / "net.npz", "w", zipfile.ZIP_DEFLATED) as made:
            made.writestr(
                "w.weight.npy", b"\x93NUMPY\x02\0" + struct.pack("<I", len(data)) + data + bytes(64)
            )
        return folder / "net.npz"

    return make


def _index(files: dict[str, str]) -> Maker:
    def make(folder: Path) -> Path:
        path = folder / "model.safetensors.index.json"
        path.write_text(json.dumps({"weight_map": files}))
        return path

    return make


def written(name: str, content: Callable[[], bytes]) -> Maker:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content())
        return folder / name

    return make


def _pipe(name: str) -> Maker:
    def make(folder: Path) -> Path:
        os.mkfifo(folder / name)
        return folder / name

    return make


def _linked(name: str, to: str) -> Maker:
    def make(folder: Path) -> Path:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(to)
        return path if path.parent == folder else path.parent

    return make


OTHERS: dict[str, Maker] = {
    "safetensors-header": _safetensors(lambda: b"{}", 1 << 62),
    "safetensors-nested": _safetensors(lambda: b'{"a":' * 200_000),
    "safetensors-shape": _safetensors(
        lambda: json.dumps({"w": _entry([1 << 32, 1 << 32, 1 << 32], 0)}).encode()
    ),
    "safetensors-empty-tensors": _safetensors(
        lambda: json.dumps({f"w{k}": _entry([0], 0) for k in range(90_000)}).encode()
    ),
    "npz-nested": _npz(b"{'descr': " + b"(" * 60_000),
    "npz-shape": _npz(b"{'descr': '<f4', 'fortran_order': False, 'shape': (%d, 2), }" % HUGE),
    "npz-objects": _npz(b"{'descr': '|O', 'fortran_order': False, 'shape': (2, 2), }"),
    "index-outside": _index({"w.weight": "../../../../etc/passwd"}),
    "index-absolute": _index({"w.weight": "/dev/zero"}),
    "index-of-itself": _index({"w.weight": "model.safetensors.index.json"}),
    "index-nested": written(
        "model.safetensors.index.json", lambda: b'{"weight_map":' + b'{"a":' * 200_000
    ),
    "json-nested": written("result.json", lambda: b"[" * 200_000),
    "json-number": written("result.json", lambda: b'{"samples": ' + b"9" * 400_000 + b"}"),
    "pipe": _pipe("net.pt"),
    "pipe-onnx": _pipe("net.onnx"),
    "pipe-json": _pipe("result.json"),
    "pipe-npy": _pipe("net.npy"),
    "link-of-result": _linked("result.json", "/dev/zero"),
    "link-to-device": _linked("net.pt", "/dev/zero"),
    "link-to-itself": _linked("net.onnx", "net.onnx"),
    "folder-with-device": _linked("net/model.safetensors", "/dev/zero"),
}
