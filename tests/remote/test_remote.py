"""Devices over SSH: a real server on the loopback, broken connections, devices that hang."""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from engines import network

from prunedeploy import targets
from prunedeploy.bundle.write import write_bundle
from prunedeploy.cli import main
from prunedeploy.core.errors import UserError
from prunedeploy.core.files import from_json
from prunedeploy.engines import engine_folder, opening
from prunedeploy.remote import ssh
from prunedeploy.remote.device import remote_bench, remote_build
from prunedeploy.remote.record import RemoteResult
from prunedeploy.reports.report import report

HERE = targets.by_name("x86-avx2")
pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("asyncssh") is None or shutil.which("ssh") is None,
        reason="needs ssh and the package asyncssh",
    ),
    pytest.mark.skipif(
        targets.why_not_here(HERE) is not None or shutil.which("gcc") is None,
        reason="no x86-64 with AVX2 and gcc here",
    ),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return network(tmp_path_factory.mktemp("model") / "net.onnx")


@pytest.fixture(scope="module")
def bundle(model, tmp_path_factory):
    return write_bundle(model, "x86-avx2", tmp_path_factory.mktemp("b") / "net.bundle", batch=2)


@pytest.fixture
def device(tmp_path):
    from ssh_server import device as running

    with running(tmp_path) as found:
        yield found


def cached(device) -> list[str]:
    """What is left on the device."""
    folder = device.home / ".cache" / "prunedeploy"
    return sorted(x.name for x in folder.iterdir()) if folder.is_dir() else []


def script(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod((folder / name).stat().st_mode | stat.S_IXUSR)


# -- all of it -------------------------------------------------------------------------------------


def test_build_there_and_run_here(device, model, tmp_path):
    """The engine that comes back is one: verified, with its hashes, and it computes."""
    said: list[str] = []
    found = remote_build(
        *(model, "device", "x86-avx2", tmp_path / "out", said.append),
        ssh_options=device.options,
        batch=(1, 2),
    )
    assert found.complete
    assert found.engines == ("sparse.engine",)
    (run,) = found.runs
    assert run.difference is not None
    assert run.difference.passed
    assert run.difference.samples == 8
    assert from_json(RemoteResult, (tmp_path / "out" / "device.json").read_text()) == found
    engine = engine_folder.read_engine(tmp_path / "out" / "sparse.engine")
    assert (engine.manifest.target, engine.manifest.runtime) == ("x86-avx2", "sparse")
    assert engine.manifest.difference == run.difference
    with opening.open(engine) as session:
        feeds = {"input": np.ones((2, 5, 9, 9), np.float32)}
        assert next(iter(session.run(feeds).values())).shape == (2, 10)
    assert len(cached(device)) == 1  # the bundle, for the measurement that follows
    assert any(line.startswith("device: running sparse") for line in said)


def test_measured_there_and_verified_here(device, bundle):
    sent = [
        remote_bench(
            bundle.path, "device", ssh_options=device.options, rounds=6, repeats=2, threads=1
        )
        for _ in range(2)
    ]
    for found in sent:
        assert found.complete
        assert (found.target, found.kind, found.host) == ("x86-avx2", "measured", "device")
        assert found.bundle_sha256 == bundle.sha256
        (run,) = found.runs
        assert (run.name, run.of, run.batch, run.threads) == ("sparse", "model", 2, 1)
        assert len(run.samples_ns) == 12
        assert min(run.samples_ns) > 0
        assert run.difference.max_rel <= 1e-5
        assert found.identity["cores"] == len(os.sched_getaffinity(0))
        assert found.before["time"] < found.after["time"]
    assert len(device.received) == 1  # the second time it was there


def test_outputs_that_are_wrong_on_arrival_have_no_speed(device, bundle, tmp_path):
    """The device's own word for it is not enough."""
    remote_bench(bundle.path, "device", ssh_options=device.options, rounds=1, repeats=1)
    script(tmp_path / "bin", "tar", f'sh {tmp_path}/spoil; exec /bin/tar "$@"')
    spoil = "import glob, numpy; f, = glob.glob('*/results/sparse/output_0.npy'); "
    spoil += "x = numpy.load(f); x[0, 0] += 1; numpy.save(f, x)"
    (tmp_path / "spoil").write_text(
        f'ls */results/sparse >/dev/null 2>&1 && {sys.executable} -c "{spoil}"\ntrue\n'
    )
    device.path = str(tmp_path / "bin")
    found = remote_bench(bundle.path, "device", ssh_options=device.options, rounds=1, repeats=1)
    (run,) = found.runs
    assert found.complete
    assert not run.difference.passed
    assert (run.samples_ns, run.error) == (
        (),
        "its outputs are not the recorded ones: it has no speed",
    )


def test_the_commands(device, bundle, tmp_path, capsys):
    (option,) = device.options
    common = ["--target", "x86-avx2", "--remote", "device", f"--ssh-option={option}"]
    assert main(["build", str(bundle.path), *common, "-o", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "device (x86-avx2)" in said
    assert "sparse.engine" in said
    result = tmp_path / "result.json"
    assert main(["bench", str(bundle.path), *common, "--rounds", "9", "-o", str(result)]) == 0
    said = capsys.readouterr().out
    assert "same outputs" in said
    record = from_json(RemoteResult, result.read_text())
    assert record.runs[0].samples_ns
    assert {x.runtime for x in record.predicted} == {"ort", "sparse"}
    assert "### Speed on x86-avx2, measured" in report([result])
    assert main(["bench", str(bundle.path), str(bundle.path), *common]) == 2
    assert "one model or bundle" in capsys.readouterr().err
    assert main(["build", str(bundle.path), "--target", "jetson", *common[2:]]) == 2
    assert "is a bundle for x86-avx2, not for jetson" in capsys.readouterr().err


# -- connections that break ------------------------------------------------------------------------


def test_a_broken_transfer_goes_on_where_it_stopped(device, bundle):
    device.cut_in = [20_000, 10_000]
    said: list[str] = []
    found = remote_bench(
        *(bundle.path, "device", None, said.append),
        ssh_options=device.options,
        rounds=1,
        repeats=1,
    )
    assert found.complete
    assert device.received[:2] == [20_000, 10_000]
    assert len(device.received) == 3
    assert 1 <= sum("going on at" in line for line in said) <= 2
    assert not any(name.endswith(".part") for name in cached(device))


def test_what_arrived_is_used_the_next_time(device, bundle):
    device.cut_in = [9_000, 9_000, 9_000, 9_000]
    with pytest.raises(UserError, match="the next try goes on from it"):
        remote_bench(bundle.path, "device", ssh_options=device.options)
    (part,) = cached(device)
    file = device.home / ".cache/prunedeploy" / part
    size = -1
    while file.stat().st_size != size:  # what the server had taken is on its way to the disk
        size = file.stat().st_size
        time.sleep(0.5)
    # a try that asks before all of the one before is on the disk goes on from less
    assert size in (9_000, 18_000, 27_000, 36_000)
    found = remote_bench(bundle.path, "device", ssh_options=device.options, rounds=1, repeats=1)
    assert found.complete
    assert len(device.received) == 5


def test_results_that_break_off_go_on_and_leave_nothing(device, bundle):
    device.cut_out = [100, 50]
    found = remote_bench(bundle.path, "device", ssh_options=device.options, rounds=2, repeats=1)
    assert found.complete
    assert len(found.runs[0].samples_ns) == 2
    assert not any("result" in name for name in cached(device))


def test_what_was_damaged_on_the_way_is_sent_again(device, bundle):
    folder = device.home / ".cache" / "prunedeploy"
    device.cut_in = [15_000] * 4
    with pytest.raises(UserError):
        remote_bench(bundle.path, "device", ssh_options=device.options)
    (part,) = folder.iterdir()
    with part.open("r+b") as file:
        file.write(b"damage")
    found = remote_bench(bundle.path, "device", ssh_options=device.options, rounds=1, repeats=1)
    assert found.complete
    (name,) = cached(device)
    (folder / name / "check" / "input_0.npy").write_bytes(b"damage")
    again = remote_bench(bundle.path, "device", ssh_options=device.options, rounds=1, repeats=1)
    assert again.complete


# -- devices that hang -----------------------------------------------------------------------------


def test_a_device_that_hangs_is_given_up_with_what_is_known(device, bundle, tmp_path):
    """The runner answers once, and then never again."""
    remote_bench(bundle.path, "device", ssh_options=device.options, rounds=1, repeats=1)
    (name,) = cached(device)
    folder = device.home / ".cache" / "prunedeploy" / name
    (folder / "sparse" / "runner").rename(folder / "sparse" / "real")
    once = f"[ -e {tmp_path}/once ] && exec sleep 600; touch {tmp_path}/once; "
    script(folder / "sparse", "runner", once + 'exec "$(dirname "$0")"/real "$@"')
    sums = folder / "SHA256SUMS"  # so that it is not sent again
    sums.write_text("".join(x for x in sums.open() if "runner" not in x))
    text = (folder / "bench.py").read_text()
    text = text.replace("self.check_files()", "pass")
    (folder / "bench.py").write_text(text)
    sums.write_text("".join(x for x in sums.open() if "bench.py" not in x))
    begin = time.monotonic()
    found = remote_bench(
        *(bundle.path, "device"),
        ssh_options=device.options,
        rounds=3,
        repeats=2,
        timeout=9,
    )
    assert time.monotonic() - begin < 40
    assert not found.complete
    assert "device hangs: no end in 9 s: given up" in found.problem
    assert found.identity["cores"] > 0
    (run,) = found.runs
    assert len(run.samples_ns) == 3  # of its first turn, and verified
    assert run.difference.passed
    assert not (folder / "bench.pid").exists()


def test_a_device_that_says_nothing(device, bundle, tmp_path):
    remote_bench(bundle.path, "device", ssh_options=device.options, rounds=1, repeats=1)
    script(tmp_path / "bin", "python3", "exec sleep 600")
    device.path = str(tmp_path / "bin")
    found = remote_build(
        *(bundle.path, "device", None, tmp_path / "out"), ssh_options=device.options, quiet=1.5
    )
    assert "device hangs: nothing for 2 s: given up" in found.problem
    assert (found.complete, found.runs, found.output) == (False, (), None)
    assert not (tmp_path / "out").exists()


def test_a_server_that_never_answers(device):
    device.deaf = True
    begin = time.monotonic()
    with pytest.raises(UserError, match="device did not answer within 1 s"):
        ssh.run(ssh.host("device", device.options), "true", 1)
    assert time.monotonic() - begin < 10


# -- mistakes --------------------------------------------------------------------------------------


def test_a_host_key_that_is_not_known(device, bundle):
    device.configure(known="none")
    with pytest.raises(UserError, match="its host key is not the known one") as caught:
        remote_bench(bundle.path, "device", ssh_options=device.options)
    assert "\n" not in str(caught.value)
    assert device.commands == []


def test_a_key_that_is_not_let_in(device, bundle):
    (device.keys / "client").unlink()
    with pytest.raises(UserError, match=r"Permission denied.*ssh-copy-id device"):
        remote_bench(bundle.path, "device", ssh_options=device.options)


def test_another_kind_of_machine(device, bundle, tmp_path):
    script(tmp_path / "bin", "uname", "echo aarch64")
    device.path = str(tmp_path / "bin")
    with pytest.raises(UserError, match="the bundle is for x86_64, device is aarch64"):
        remote_bench(bundle.path, "device", ssh_options=device.options)
    assert cached(device) == []


@pytest.mark.parametrize(
    ("address", "options", "message"),
    [
        ("-oProxyCommand=evil", (), "is no address"),
        ("", (), "is no address"),
        ("a b", (), "is no address"),
        ("nano", ("-o 'x",), "cannot read the ssh options"),
    ],
)
def test_addresses(address, options, message):
    with pytest.raises(UserError, match=message):
        ssh.host(address, options)


def test_a_model_needs_a_target_and_a_place_is_not_taken(model, bundle, tmp_path):
    with pytest.raises(UserError, match="what kind of machine it is with --target"):
        remote_bench(model, "device")
    with pytest.raises(UserError, match="host is this machine"):
        remote_bench(model, "device", "host")
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match="did not come from a device"):
        remote_build(bundle.path, "device", None, tmp_path / "taken")
