from __future__ import annotations

import dataclasses
import platform

import pytest

from prunedeploy import targets
from prunedeploy.core.errors import UserError
from prunedeploy.engines import choice
from prunedeploy.engines.self_check import self_check
from prunedeploy.runtimes import registry
from prunedeploy.runtimes.registry import RUNTIMES
from prunedeploy.targets import machine

X86_V3 = "processor\t: 0\nflags\t\t: fpu sse2 avx2 fma\n"
X86_V4 = "flags : fpu avx2 fma avx512f avx512vl\n"
ARM = "processor : 0\nFeatures\t: fp asimd evtstrm crc32\n"


def test_the_host_is_detected():
    host = targets.by_name("host")
    assert host.arch == platform.machine()
    assert host.isa == targets.host_isa()
    assert targets.why_not_here(host) is None


@pytest.mark.parametrize(
    ("text", "isa"),
    [
        (X86_V3, ("avx2", "fma")),
        (X86_V4, ("avx2", "fma", "avx512")),
        (ARM, ("neon",)),
        ("", ()),
        ("flags : avx512fp16\n", ()),
    ],
)
def test_instruction_sets(tmp_path, text, isa):
    file = tmp_path / "cpuinfo"
    file.write_text(text)
    assert targets.host_isa(file) == isa
    assert targets.host_isa(tmp_path / "none") == ()


@pytest.mark.parametrize("name", [row.name for row in targets.TARGETS])
def test_every_row_is_found_by_its_name(name):
    row = targets.by_name(name)
    assert row.name == name
    assert set(row.isa) <= set(targets.ISA_FLAGS)


def test_aliases_and_near_names():
    assert targets.by_name("jetson").compute_capability == "5.3"
    assert targets.by_name("rtx2080ti").compute_capability == "7.5"
    with pytest.raises(UserError, match="did you mean raspberry-pi-5"):
        targets.by_name("raspberry-pi")
    with pytest.raises(UserError, match="choose from host"):
        targets.by_name("zzz")


def test_another_machine_is_refused_in_one_line():
    arch = "aarch64" if platform.machine() == "x86_64" else "x86_64"
    row = targets.Target("far", "a far machine", arch)
    assert "far is not at hand" in (registry.refuse(row, "auto") or "")
    here = dataclasses.replace(row, arch=platform.machine())
    assert registry.refuse(here, "auto") is None
    assert "not a Board" in (targets.why_not_here(dataclasses.replace(here, board="Board")) or "")


def test_gpus(monkeypatch):
    """What the driver would say; without one there is none."""
    row = targets.Target("far", "", platform.machine(), compute_capability="7.5")
    monkeypatch.setattr(machine, "gpus", lambda: ())
    assert "no CUDA GPU here" in (targets.why_not_here(row) or "")
    assert targets.by_name("host").compute_capability is None
    monkeypatch.setattr(machine, "gpus", lambda: ("9.0",))
    assert "the GPU here is of 9.0, not 7.5" in (targets.why_not_here(row) or "")
    assert "tensorrt" in targets.by_name("host").runtimes
    assert targets.by_name("host").runtimes[0] == "ort"
    monkeypatch.setattr(machine, "gpus", lambda: ("9.0", "7.5"))
    assert targets.why_not_here(row) is None


def test_the_driver_is_asked():
    assert all(float(capability) >= 3 for capability in targets.gpus())


@pytest.mark.parametrize("row", targets.TARGETS[1:], ids=lambda row: row.name)
def test_rows_are_complete_and_plausible(row):
    assert row.source
    assert row.multiple > 1
    assert row.bytes_per_second > 1e10
    assert {peak.precision for peak in row.peaks} <= set(targets.PRECISIONS)
    assert row.peak("float16") >= 1.9 * row.peak("float32")
    assert row.peak("none") == 0
    if row.toolchain is not None:
        assert set(row.toolchain.precisions) <= set(targets.PRECISIONS)
        assert 11 <= row.toolchain.opset <= 25
    if row.peaks and row.compute_capability:
        assert row.sparse_tensor_cores == (float(row.compute_capability) >= 8.0)


def test_the_limits_of_a_jetson_nano():
    row = targets.by_name("jetson")
    assert row.toolchain == targets.Toolchain(
        "TensorRT 8.2", 13, 7, ("float32", "float16"), "3.6", "2.27"
    )
    assert row.peak("int8") == 0
    assert row.peak("float16") == 2 * row.peak("float32") > 0
    assert row.compute_capability == "5.3"
    assert not row.sparse_tensor_cores


def test_an_instruction_set_that_is_missing(monkeypatch):
    monkeypatch.setattr(machine, "host_isa", lambda: ("avx2", "fma"))
    row = targets.Target("v4", "", platform.machine(), ("avx2", "avx512"))
    assert "lacks avx512" in (targets.why_not_here(row) or "")


def test_runtimes_that_are_not_there():
    host = targets.by_name("host")
    assert "no runtime 'dense' yet" in (registry.refuse(host, "dense") or "")
    row = dataclasses.replace(host, runtimes=("tvm",))
    assert "none of host's runtimes" in (registry.refuse(row, "auto") or "")
    assert "cannot have ort" in (registry.refuse(row, "ort") or "")


def test_auto_is_the_best_that_does_not_refuse(monkeypatch):
    """A GPU is at hand, the library for it is not."""
    monkeypatch.setattr(machine, "gpus", lambda: ("7.5",))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    row = dataclasses.replace(
        targets.by_name("t4"), arch=platform.machine(), runtimes=("tensorrt",)
    )
    assert "pip install 'prunedeploy[tensorrt]'" in (registry.refuse(row, "auto") or "")
    row = dataclasses.replace(row, runtimes=("tensorrt", "ort"))
    assert registry.refuse(row, "auto") is None
    names, refused = choice.candidates(row, "auto")
    assert names == ("ort",)
    assert [each.runtime for each in refused] == ["tensorrt"]


def test_self_check_runs_every_runtime():
    rows = self_check()
    host = {row.runtime: row for row in rows if row.target == "host"}
    assert set(host) == set(RUNTIMES)
    tried = [row for row in host.values() if row.status != "-"]
    assert {row.status for row in tried} == {"PASS"}
    assert {"ort", "null"} <= {row.runtime for row in tried}
    assert all(row.reason for row in host.values())
    assert "onnxruntime" in host["ort"].reason
    compiled = [row.reason for row in rows if row.runtime == "sparse" and row.target != "host"]
    assert len(compiled) == sum("sparse" in row.runtimes for row in targets.TARGETS) - 1
    assert all("compiled here with" in reason or "pip install" in reason for reason in compiled)
    assert {row.target for row in rows} == {row.name for row in targets.TARGETS}
    assert {row.status for row in rows if row.target != "host"} == {"-"}


def test_self_check_says_why_a_runtime_fails(monkeypatch):
    from prunedeploy.core.errors import MissingExtra
    from prunedeploy.runtimes.ort.cpu import Ort

    def missing(self):
        raise MissingExtra("onnxruntime", "cpu")

    monkeypatch.setattr(Ort, "versions", missing)
    row = next(row for row in self_check() if row.runtime == "ort")
    assert row.status == "FAIL"
    assert "pip install 'prunedeploy[cpu]'" in row.reason


def test_the_host_takes_the_figures_of_its_instruction_sets(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    for isa, like in ((("avx2", "fma"), "x86-avx2"), (("avx2", "fma", "avx512"), "x86-avx512")):
        monkeypatch.setattr(machine, "host_isa", lambda isa=isa: isa)
        row = next(row for row in targets.TARGETS if row.name == like)
        assert targets.by_name("host").macs_per_second == row.macs_per_second > 0
    monkeypatch.setattr(machine, "host_isa", lambda: ())
    assert targets.by_name("host").macs_per_second == 0
