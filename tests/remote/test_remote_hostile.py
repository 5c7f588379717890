"""Devices that are broken, or not ours: one line, in bounds, nothing outside of the output."""

from __future__ import annotations

import copy
import gzip
import io
import json
import os
import resource
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_ssh
import numpy as np
import pytest
from engines import network

from prunedeploy.bundle import archive
from prunedeploy.bundle.write import write_bundle
from prunedeploy.cli import main
from prunedeploy.core.errors import UserError
from prunedeploy.core.files import from_json, to_json
from prunedeploy.engines.bundle_record import Plan, Written, read
from prunedeploy.remote import device as remote
from prunedeploy.remote import ssh
from prunedeploy.remote.record import RemoteResult

Doc = dict[str, Any]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Of a machine that builds its engine itself, and measures two of TensorRT's besides."""
    folder = tmp_path_factory.mktemp("b")
    network(folder / "net.onnx")
    made = write_bundle(folder / "net.onnx", "jetson-nano", folder / "net.bundle", batch=2)
    assert {plan.name for plan in made.bundle.plans} == {"model.float32", "model.float16"}
    return made


@pytest.fixture
def doc(bundle: Written) -> Doc:
    """What an honest device says."""
    outputs = {spec.name: "out/output_0.npy" for spec in bundle.bundle.outputs}
    common = {"of": "model", "error": "", "outputs": outputs, "runs": 4, "samples_ns": [1000, 1100]}
    return {
        "type": "DeviceResult",
        "bundle_sha256": bundle.sha256,
        "complete": True,
        "missing": [],
        "identity": {"board": "a board", "cores": 4},
        "before": {"celsius": {"cpu": 40.0}},
        "seen": {"cpu_khz": [1e6, 2e6]},
        "after": {},
        "tegrastats": "RAM 1/2",
        "throttled": False,
        "candidates": [
            {**common, "name": "model.float32", "runtime": "tensorrt", "precision": "float32"},
            {**common, "name": "sparse", "runtime": "sparse", "precision": "float32", "threads": 2},
        ],
    }


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the ssh that answers."""
    folder = fake_ssh.install(tmp_path / "bin", "aarch64")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def pack(there: Path, bundle: Written, doc: object, more: dict[str, bytes] | None = None) -> None:
    """The archive that comes back: the record, the outputs, an engine."""
    recorded = (bundle.path / bundle.bundle.outputs[0].file).read_bytes()
    files = {
        "n/results/result.json": doc if isinstance(doc, bytes) else json.dumps(doc).encode(),
        "n/results/out/output_0.npy": recorded,
        "n/built/model.float32.plan": b"plan",
        "n/sparse/model.so": b"library of the device",
    }
    with tarfile.open(there / "result.tar.gz", "w:gz") as tar:
        for name, data in (files | (more or {})).items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    if isinstance(doc, dict):
        (there / "events").write_text(json.dumps({"event": "result", "result": doc}) + "\n")


def build(bundle: Written, tmp_path: Path, **more: Any) -> RemoteResult:
    out = tmp_path / "deep" / "er" / "out"
    out.parent.mkdir(parents=True, exist_ok=True)
    before = {path for path in tmp_path.rglob("*") if out not in path.parents}
    try:
        return remote.remote_build(bundle.path, "device", None, out, **more)
    finally:
        after = {path for path in tmp_path.rglob("*") if out not in path.parents and path != out}
        assert after == before, "something was written outside of the output folder"


def refused(bundle: Written, tmp_path: Path, says: str, **more: Any) -> None:
    with pytest.raises(UserError, match=says) as caught:
        build(bundle, tmp_path, **more)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1500
    assert not (tmp_path / "deep" / "er" / "out").exists()


def test_an_honest_device(bundle, doc: Doc, there: Path, tmp_path: Path) -> None:
    pack(there, bundle, doc)
    found = build(bundle, tmp_path)
    assert found.complete
    assert set(found.engines) == {"model.float32.engine", "sparse.engine"}
    assert found.runs[0].samples_ns == (1000, 1100)
    assert from_json(RemoteResult, to_json(found)) == found


NAMES = {
    "above": "../../evil",
    "far above": "../../../../../../../tmp/evil",
    "absolute": "/tmp/evil",
    "a folder": "a/b",
    "nothing": "",
    "a dot": ".",
    "long": "n" * 300,
    "control characters": "\x1b[31mred\r\n",
    "not in the bundle": "model.fp8",
    "a number": 3,
    "a list": ["sparse"],
    "none": None,
}


@pytest.mark.parametrize("what", NAMES)
def test_names_that_are_not_the_bundles(bundle, doc, there, what: str, tmp_path: Path) -> None:
    doc["candidates"][0]["name"] = NAMES[what]
    pack(there, bundle, doc, {"n/evil.plan": b"x", "n/built/x": b"x"})
    refused(bundle, tmp_path, "the bundle has no engine called")


def test_one_name_twice(bundle, doc: Doc, there: Path, tmp_path: Path) -> None:
    doc["candidates"].append(doc["candidates"][0])
    pack(there, bundle, doc)
    refused(bundle, tmp_path, "two engines are called model.float32")


def test_what_an_engine_is_is_for_the_bundle_to_say(bundle, doc, there, tmp_path: Path) -> None:
    doc["candidates"][0] |= {"of": "baseline", "runtime": "../x", "precision": "float16"}
    pack(there, bundle, doc)
    run = build(bundle, tmp_path).runs[0]
    assert (run.of, run.runtime, run.precision) == ("model", "tensorrt", "float32")


def change(**fields: object) -> Callable[[Doc], object]:
    def changed(doc: Doc) -> Doc:
        doc["candidates"][0] |= fields
        return doc

    return changed


RECORDS: dict[str, tuple[Callable[[Doc], object], str]] = {
    "a list": (lambda _: b"[]", "no record of bench.py"),
    "a number": (lambda _: b"3", "no record of bench.py"),
    "deep": (lambda _: b'{"a":' + b"[" * 200_000, "no record of bench.py"),
    "binary": (lambda _: b"\xff\xfe\x00", "cannot be read"),
    "empty": (lambda _: b"", "no record of bench.py"),
    "cut": (lambda doc: json.dumps(doc).encode()[:100], "no record of bench.py"),
    "of another bundle": (lambda doc: doc | {"bundle_sha256": "0" * 64}, "another bundle"),
    "engines that are no list": (lambda doc: doc | {"candidates": {"a": 1}}, "no list"),
    "an engine that is none": (lambda doc: doc | {"candidates": [3]}, "no record"),
    "NaN": (change(samples_ns=[float("nan")]), "a time that cannot be: nan"),
    "infinite": (change(samples_ns=[float("inf")]), "a time that cannot be: inf"),
    "huge": (change(samples_ns=[10**400]), "a time that cannot be"),
    "negative": (change(samples_ns=[-5]), "a time that cannot be: -5"),
    "zero": (change(samples_ns=[0, 0]), "a time of zero"),
    "less than a nanosecond": (change(samples_ns=[0.5]), "a time of zero"),
    "texts": (change(samples_ns=["\x1b[2J"]), "no number"),
    "no list of times": (change(samples_ns={"a": 1}), "no list"),
    "no times": (change(samples_ns=None), "no list"),
    "seconds without end": (change(build_seconds=float("inf")), "cannot be"),
    "threads": (change(threads=[]), "threads that is no number"),
    "an engine without a name": (lambda doc: doc | {"candidates": [{}]}, "cannot be read"),
}


@pytest.mark.parametrize("what", RECORDS)
def test_records_that_are_none(bundle, doc, there, what: str, tmp_path: Path) -> None:
    make, says = RECORDS[what]
    pack(there, bundle, make(copy.deepcopy(doc)))
    (there / "events").write_text(json.dumps({"event": "result", "result": doc}) + "\n")
    refused(bundle, tmp_path, says)


def test_engines_without_times_have_no_speed(bundle, doc, there, tmp_path: Path) -> None:
    doc["candidates"][0]["samples_ns"] = []
    pack(there, bundle, doc)
    run = build(bundle, tmp_path).runs[0]
    assert (run.samples_ns, run.error) == ((), "it was not timed")


OUTPUTS: dict[str, Callable[[bytes], bytes]] = {
    "another size": lambda _: _npy(np.zeros((3, 7), np.float32)),
    "a header that claims more": lambda data: data.replace(b"(8, 10)", b"(9**9,)"),
    "a header of an exabyte": lambda _: _header((1 << 57,)) + bytes(64),
    "cut": lambda data: data[:-100],
    "objects": lambda _: _npy(np.array([{"a": 1}] * 80, object).reshape(8, 10), allow_pickle=True),
    "texts": lambda _: _npy(np.full((8, 10), "x")),
    "an archive": lambda _: b"PK\x05\x06" + bytes(18),
    "nothing": lambda _: b"",
    "other numbers": lambda _: _npy(np.ones((8, 10), np.float32)),
    "no numbers": lambda _: _npy(np.full((8, 10), np.nan, np.float32)),
}


def _npy(array: np.ndarray, allow_pickle: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=allow_pickle)
    return file.getvalue()


def _header(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    return file.getvalue()


@pytest.mark.parametrize("what", OUTPUTS)
def test_outputs_that_are_not_the_recorded_ones(bundle, doc, there, what, tmp_path: Path) -> None:
    recorded = (bundle.path / bundle.bundle.outputs[0].file).read_bytes()
    spoilt = OUTPUTS[what](recorded)
    assert spoilt != recorded
    pack(there, bundle, doc, {"n/results/out/output_0.npy": spoilt})
    found = remote.remote_bench(bundle.path, "device")
    for run in found.runs:
        assert run.samples_ns == ()
        assert "no speed" in run.error


@pytest.mark.parametrize("place", ["../result.json", "/etc/passwd", "out/absent.npy", 3, None, []])
def test_outputs_that_lie_elsewhere(bundle, doc, there, place: object, tmp_path: Path) -> None:
    for each in doc["candidates"]:
        each["outputs"] = dict.fromkeys(each["outputs"], place)
    pack(there, bundle, doc)
    found = build(bundle, tmp_path)
    assert all("no speed" in run.error for run in found.runs)


def test_a_library_that_the_bundle_held_is_the_bundles(bundle, doc, there, tmp_path: Path) -> None:
    """Compiled here: what the device sends in its place is not taken."""
    if bundle.bundle.sparse is None or not bundle.bundle.sparse.compiled:
        pytest.skip("nothing compiles for AArch64 here")
    pack(there, bundle, doc)
    build(bundle, tmp_path)
    engine = tmp_path / "deep" / "er" / "out" / "sparse.engine"
    assert (engine / "model.so").read_bytes() == (bundle.path / "sparse/model.so").read_bytes()


def test_engines_that_did_not_arrive(bundle, doc: Doc, there: Path, tmp_path: Path) -> None:
    doc["candidates"][0]["name"] = "model.float16"
    pack(there, bundle, doc)
    refused(bundle, tmp_path, r"its model\.float16\.plan did not arrive")


# -- what it says on the way -----------------------------------------------------------------------

EVENTS = {
    "a list": b'["a"]',
    "a result that is a list": b'{"event": "result", "result": [1, 2]}',
    "a result that is a number": b'{"event": "result", "result": 3}',
    "deep": b'{"event": ' + b"[" * 200_000,
    "a deep text": b'{"say": ' + b"[" * 900 + b"]" * 900 + b"}",
    "binary": b"\xff\xfe\x00\x1b[31m",
    "control characters": b'{"say": "\\u001b]0;title\\u0007\\u001b[2J"}',
    "a long text": b'{"say": "' + b"x" * 100_000 + b'"}',
    "no end of the line": b'{"say": "x"}',
}


@pytest.mark.parametrize("what", EVENTS)
def test_odd_events(bundle, doc: Doc, there: Path, what: str, tmp_path: Path) -> None:
    pack(there, bundle, doc)
    events = (there / "events").read_bytes()
    (there / "events").write_bytes(events + EVENTS[what] + b"\n" * (what != "no end of the line"))
    said: list[str] = []
    assert build(bundle, tmp_path, progress=said.append).complete
    assert all(line.isprintable() and len(line) < 500 for line in said)


def test_what_a_device_tells_of_itself(
    bundle, doc: Doc, there: Path, tmp_path: Path, capsys
) -> None:
    """Shown on a terminal, put into a record and a report: no character of it does anything."""
    evil = "\x1b]0;x\x07\x1b[31m\nred | <b>"
    nested: Any = evil
    for _ in range(50):
        nested = [nested]
    doc |= {
        "identity": {"board": evil, evil: evil, "power_mode": {"a": evil}, "system": nested},
        "seen": {"cpu_khz": [evil, evil], "celsius": [None, float("inf")]},
        "before": [1, 2],
        "after": {"x": 10**400, "y": float("nan"), "z": [evil] * 5},
        "tegrastats": evil,
        "throttled": evil,
        "missing": [evil, 3, {}],
    }
    doc["candidates"][1] |= {"version": evil, "error": evil}
    pack(there, bundle, doc)
    arguments = ["bench", str(bundle.path), "--remote", "device", "-o", str(tmp_path / "r.json")]
    assert main(arguments) == 1
    shown = capsys.readouterr()
    text = (tmp_path / "r.json").read_text()
    for said in (shown.out, shown.err):
        assert all(line.isprintable() for line in said.splitlines())
    assert "\\u001b" not in text
    assert from_json(RemoteResult, text).throttled is None
    assert main(["report", str(tmp_path / "r.json")]) == 0
    assert all(line.isprintable() for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("look", "sends more than 1,048,576 bytes"),
        ("errors", "hangs|did not answer|sends more|is silent"),
        ("line", "sends a line without an end"),
        ("file", "sends more than"),
    ],
)
def test_answers_without_an_end(
    bundle, doc, there, what, says, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(remote, "RESULTS", 1 << 24)
    monkeypatch.setattr(ssh, "LONGEST_LINE", 1 << 24)
    if what == "errors":
        monkeypatch.setattr(remote, "LOOK", 3.0)
    pack(there, bundle, doc)
    (there / "endless").write_text(what)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.monotonic()
    refused(bundle, tmp_path, says)
    assert time.monotonic() - begin < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # kB


def test_events_without_an_end(bundle, doc: Doc, there: Path, tmp_path: Path) -> None:
    pack(there, bundle, doc)
    (there / "endless").write_text("events")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = remote.remote_bench(bundle.path, "device", timeout=4)
    assert "no end in 4 s: given up" in found.problem
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), 1e30, 0, -1])
def test_seconds_that_nobody_waits(bundle, there, seconds: float, tmp_path: Path) -> None:
    refused(bundle, tmp_path, "cannot wait for", timeout=seconds)
    with pytest.raises(UserError, match="cannot wait for"):
        remote.remote_bench(bundle.path, "device", quiet=seconds)


# -- archives --------------------------------------------------------------------------------------
def sparse_member(size: int) -> bytes:
    """A file with a hole of ``size`` bytes, as GNU tar writes it: a kilobyte."""
    info = tarfile.TarInfo("n/results/big")
    info.size = 512
    raw = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    raw[156:157] = b"S"
    raw[386:398] = b"\x80" + (size - 512).to_bytes(11, "big")
    raw[398:410] = b"%011o\0" % 512
    raw[482:483] = b"\0"
    raw[483:495] = b"\x80" + size.to_bytes(11, "big")
    raw[148:156] = b"        "
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw) + bytes(512) + bytes(1024)


def pax_member(size: int) -> bytes:
    """A header that is to be read into memory before anything else."""
    info = tarfile.TarInfo("n/x")
    info.type, info.size = tarfile.XHDTYPE, size
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)


def zeros(count: int) -> bytes:
    info = tarfile.TarInfo("n/results/zeros")
    info.size = count
    return info.tobuf() + bytes(count) + bytes(1024)


def link(kind: bytes) -> bytes:
    info = tarfile.TarInfo("n/results")
    info.type, info.linkname = kind, "/tmp"
    return info.tobuf() + bytes(1024)


ARCHIVES: dict[str, tuple[Callable[[], bytes], str]] = {
    "a hole": (lambda: sparse_member(2 << 30), "no plain file"),
    "a hole of an exabyte": (lambda: sparse_member(1 << 60), "no plain file"),
    "a header of gigabytes": (lambda: pax_member(4 << 30), "claims a header"),
    "more than the limit": (lambda: zeros(40 << 20), "more than|end of data"),
    "a link": (lambda: link(tarfile.SYMTYPE), "no plain file"),
    "a hard link": (lambda: link(tarfile.LNKTYPE), "no plain file"),
    "a device": (lambda: link(tarfile.CHRTYPE), "no plain file"),
    "no archive": (lambda: b"nothing of the kind" * 99, "cannot"),
    "nothing": (lambda: b"", "cannot"),
    "names with control characters": (
        lambda: tarfile.TarInfo("\x1b[31m\n").tobuf() + bytes(1024),
        "no plain file",
    ),
}


@pytest.mark.parametrize("what", ARCHIVES)
def test_archives_of_results(bundle, doc, there, what, tmp_path: Path, monkeypatch) -> None:
    make, says = ARCHIVES[what]
    monkeypatch.setattr(remote, "RESULTS", 20 << 20)
    monkeypatch.setattr(remote, "RESULTS_PER_BYTE", 0)
    pack(there, bundle, doc)
    (there / "result.tar.gz").write_bytes(gzip.compress(make()))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(bundle, tmp_path, says)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def test_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_FILES", 5)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        for at in range(10):
            tar.addfile(tarfile.TarInfo(f"n/{at}"))
    with pytest.raises(UserError, match="more than 5 files"):
        archive.unpack(tmp_path / "a.tar.gz", tmp_path / "out")


@pytest.mark.parametrize("name", ["../evil", "a/b", "", "\x1b[31m", "n" * 300, ".hidden"])
def test_bundles_whose_engines_have_such_names(bundle, name: str, tmp_path: Path) -> None:
    plan = bundle.bundle.plans[0]
    evil = replace(bundle.bundle, plans=(Plan(name, *list(vars(plan).values())[1:]),))
    (tmp_path / "bundle.json").write_text(to_json(evil))
    with pytest.raises(UserError, match="is not a device bundle: its manifest names") as caught:
        read(tmp_path)
    assert str(caught.value).isprintable()
