"""Engines, bundles, arrays, results and targets that a stranger makes."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from hostile_containers import HUGE, written
from hostile_models import WEIGHTS, node, save, values
from hostile_pickles import WEIGHT, Maker, archive, dict_of

Edit = Callable[[dict[str, Any], Path], object]


@cache
def _bases() -> Path:
    """What is right: a checkpoint, a model, an input, and an engine for ONNX Runtime."""
    folder = Path(tempfile.mkdtemp(prefix="prunedeploy-hostile-"))
    archive(folder / "good.pt", dict_of(("w.weight", WEIGHT)), {"0": bytes(16)})
    save(folder, [node("MatMul", "x w", "y")], values(WEIGHTS)).rename(folder / "good.onnx")
    np.save(folder / "good.npy", np.ones((2, 16), np.float32))
    words = ("build", "good.onnx", "--runtime", "ort", "-o", "good.engine")
    line = [sys.executable, "-P", "-m", "prunedeploy", *words]
    subprocess.run(line, cwd=folder, check=True, capture_output=True)
    return folder


def good(name: str, path: Path) -> None:
    """Copy one of these to ``path``, unless it is there."""
    made = _bases() / name
    if path.exists() and path.name == name:
        return
    if made.is_dir():
        shutil.copytree(made, path)
    else:
        shutil.copy(made, path)


def _engine(edit: Edit) -> Maker:
    """An engine whose manifest, or a file of which, is another."""

    def make(folder: Path) -> Path:
        path = folder / "net.engine"
        good("good.engine", path)
        manifest = json.loads((path / "manifest.json").read_text())
        edit(manifest, path)
        if not (path / "manifest.json").is_symlink():
            (path / "manifest.json").write_text(json.dumps(manifest))
        return path

    return make


def _manifest(content: Callable[[], bytes]) -> Maker:
    def make(folder: Path) -> Path:
        path = folder / "net.engine"
        good("good.engine", path)
        (path / "manifest.json").write_bytes(content())
        return path

    return make


def _linked(name: str, to: str) -> Edit:
    def edit(manifest: dict[str, Any], path: Path) -> None:
        (path / name).unlink()
        (path / name).symlink_to(to)

    return edit


def _rehashed(content: bytes) -> Edit:
    """Another model, whose hash is right."""

    def edit(manifest: dict[str, Any], path: Path) -> None:
        (path / "model.onnx").write_bytes(content)
        manifest["files"]["model.onnx"] = hashlib.sha256(content).hexdigest()

    return edit


def _hole(path: Path, size: int) -> Path:
    """An archive of a kilobyte with a member of ``size`` bytes, all a hole (GNU sparse)."""
    info = tarfile.TarInfo("n/bundle.json")
    raw = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    large = b"\x80" + size.to_bytes(11, "big")
    raw[156:157] = b"S"
    raw[386:398] = b"\x80" + (size - 512).to_bytes(11, "big")
    raw[398:410] = raw[124:136] = b"%011o\0" % 512
    raw[482:483], raw[483:495] = b"\0", large
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    path.write_bytes(gzip.compress(bytes(raw) + bytes(512 + 1024)))
    return path


def _packed(members: Callable[[tarfile.TarFile], object]) -> Maker:
    def make(folder: Path) -> Path:
        with tarfile.open(folder / "net.bundle.tar.gz", "w:gz") as made:
            members(made)
        return folder / "net.bundle.tar.gz"

    return make


def _add(made: tarfile.TarFile, name: str, data: bytes = b"", **fields: object) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    made.addfile(info, io.BytesIO(data))


def _many(made: tarfile.TarFile) -> None:
    for at in range(100_000):
        _add(made, f"n/{at}")


def _npy(header: bytes) -> Maker:
    data = header + b" " * (-(len(header) + 13) % 64) + b"\n"
    start = b"\x93NUMPY\x02\0" + struct.pack("<I", len(data))
    return written("net.npy", lambda: start + data + bytes(64))


def _targets(text: str | bytes) -> Maker:
    data = text if isinstance(text, bytes) else text.encode()
    return written("prunedeploy.targets.toml", lambda: data)


LIKE = '[evil]\nlike = "raspberry-pi-5"\n'
ENGINES: dict[str, Maker] = {
    "manifest-nested": _manifest(lambda: b"[" * 200_000),
    "manifest-number": _manifest(lambda: b'{"threads": ' + b"9" * 400_000 + b"}"),
    "manifest-binary": _manifest(lambda: b"\xff\xfe\0"),
    "manifest-device": _engine(_linked("manifest.json", "/dev/zero")),
    "engine-device": _engine(_linked("model.onnx", "/dev/zero")),
    "engine-outside": _engine(_linked("model.onnx", "/etc/passwd")),
    "engine-no-files": _engine(lambda m, _: m.update(files={})),
    "engine-file-outside": _engine(lambda m, _: m["files"].update({"../../etc/passwd": "0" * 64})),
    "engine-many-files": _engine(
        lambda m, _: m["files"].update({f"f{k}": "0" * 64 for k in range(100_000)})
    ),
    "engine-shape": _engine(lambda m, _: m["inputs"][0].update(shape=[HUGE, HUGE])),
    "engine-threads": _engine(lambda m, _: m.update(threads=10**30)),
    "engine-other-model": _engine(lambda _, path: (path / "model.onnx").write_bytes(b"\x08\x08")),
    "engine-bad-model": _engine(_rehashed(b"\x08\x08" + b"\x3a\xff\xff\xff\xff\x0f")),
    "engine-escape": _engine(lambda m, _: m.update(runtime="\x1b[2J\u202e")),
    "bundle-hole": lambda folder: _hole(folder / "net.bundle.tar.gz", 3 << 30),
    "bundle-zeros": _packed(lambda made: _add(made, "n/bundle.json", bytes(1 << 28))),
    "bundle-outside": _packed(lambda made: _add(made, "../bundle.json", b"{}")),
    "bundle-link": _packed(
        lambda made: _add(made, "n/bundle.json", type=tarfile.SYMTYPE, linkname="/etc/passwd")
    ),
    "bundle-device": _packed(lambda made: _add(made, "n/bundle.json", type=tarfile.CHRTYPE)),
    "bundle-nested": _packed(lambda made: _add(made, "n/bundle.json", b"[" * 200_000)),
    "bundle-many-members": _packed(_many),
    "npy-shape": _npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (%d, 2), }" % HUGE),
    "npy-objects": _npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (2, 2), }"),
    "npy-nested": _npy(b"{'descr': " + b"(" * 60_000),
    "npy-text": _npy(b"{'descr': '<U1000000000', 'fortran_order': False, 'shape': (2,), }"),
    "npy-no-bytes": _npy(
        b"{'descr': '|S0', 'fortran_order': False, 'shape': (%d, %d), }" % (HUGE, HUGE)
    ),
    "targets-nested": _targets("a = " + "[" * 50_000),
    "targets-binary": _targets(b"\xff\xfe"),
    "targets-number": _targets(LIKE + "cores = " + "9" * 5_000),
    "targets-shell": _targets(LIKE + 'cpu = "x; touch ran; true"\n'),
    "targets-escape": _targets('[evil]\nlike = "\\u001b[2J"\n'),
    "targets-many": _targets("".join(f"[t{k}]\nlike = 't{k + 1}'\n" for k in range(20_000))),
}
