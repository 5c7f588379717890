"""Nothing in a file is ever run: gadgets in every container, and no marker appears."""

from __future__ import annotations

import builtins
import codecs
import contextlib
import functools
import importlib
import io
import operator
import os
import pickle
import runpy
import shutil
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prunedeploy.checkpoint import load, weights
from prunedeploy.checkpoint.pickle.rebuild import FUNCTIONS
from prunedeploy.checkpoint.pickle.stub import Stub
from prunedeploy.checkpoint.pickle.unpickle import load_pickle
from prunedeploy.core.errors import UserError


class Call:
    """Unpickled by the ordinary pickle, it calls ``function``."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[object, ...]:
        return self.call


def touch(marker: Path) -> str:
    return f"open({str(marker)!r}, 'w')"


GADGETS: dict[str, Callable[[Path], object]] = {
    "os.system": lambda m: Call(os.system, f"touch {m}"),
    "os.popen": lambda m: Call(os.popen, f"touch {m}"),
    "subprocess.call": lambda m: Call(subprocess.call, ["touch", str(m)]),
    "subprocess.Popen": lambda m: Call(subprocess.Popen, ["touch", str(m)]),
    "builtins.eval": lambda m: Call(eval, touch(m)),
    "builtins.exec": lambda m: Call(exec, touch(m)),
    "codecs.open": lambda m: Call(codecs.open, str(m), "w"),
    "builtins.open": lambda m: Call(open, str(m), "w"),
    "builtins.getattr": lambda m: Call(getattr, Path, "touch"),
    "builtins.__import__": lambda m: Call(builtins.__import__, "this"),
    "builtins.map": lambda m: Call(list, Call(map, eval, [touch(m)])),
    "importlib": lambda m: Call(importlib.import_module, "antigravity"),
    "runpy": lambda m: Call(runpy.run_path, str(m)),
    "shutil": lambda m: Call(shutil.copy, sys.executable, str(m)),
    "operator": lambda m: Call(operator.methodcaller("system", f"touch {m}"), 1),
    "pickle.loads": lambda m: Call(pickle.loads, pickle.dumps(Call(os.system, f"touch {m}"))),
    "sys.modules": lambda m: Call(sys.setrecursionlimit, 10),
}
# Not refused by name, and still nothing runs: they are stubs.
QUIET: dict[str, Callable[[Path], object]] = {
    "torch.load": lambda m: Call(torch.load, str(m)),
    "torch.hub": lambda m: Call(torch.hub.load, "x/y", "z"),
    "torch.save": lambda m: Call(torch.save, {}, str(m)),
    "Path.touch": lambda m: Call(Path.touch, m),
    "functools.partial": lambda m: Call(functools.partial(Path.touch, m)),
}


def containers(value: object, folder: Path) -> list[Path]:
    torch.save(value, folder / "zip.pt")
    torch.save(value, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    files = [folder / "zip.pt", folder / "legacy.pt"]
    for protocol in (0, 1, 2, 4, 5):
        files.append(folder / f"plain{protocol}.pkl")
        files[-1].write_bytes(pickle.dumps(value, protocol=protocol))
    return files


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "MARKER"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_gadgets_would_work(tmp_path: Path, marker: Path) -> None:
    for name in ("os.system", "builtins.eval", "builtins.map", "pickle.loads", "Path.touch"):
        pickle.loads(pickle.dumps((GADGETS | QUIET)[name](marker)))
        assert marker.exists(), name
        marker.unlink()


@pytest.mark.parametrize("name", GADGETS)
def test_code_is_refused(name: str, tmp_path: Path, marker: Path) -> None:
    value = {"state_dict": {"fc.weight": torch.ones(2, 2)}, "hook": GADGETS[name](marker)}
    for path in containers(value, tmp_path):
        for call in (load, weights):
            with pytest.raises(UserError, match="--trust") as caught:
                call(path)
            assert "\n" not in str(caught.value)
        assert not marker.exists()


@pytest.mark.parametrize("name", QUIET)
def test_unknown_callables_are_inert(name: str, tmp_path: Path, marker: Path) -> None:
    value = {"state_dict": {"fc.weight": torch.ones(2, 2)}, "hook": QUIET[name](marker)}
    for path in containers(value, tmp_path):
        try:
            found, _ = weights(path)
        except UserError:
            pass  # operator and the like
        else:
            assert found["fc.weight"].tolist() == [[1, 1], [1, 1]]
        assert not marker.exists()


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "Path.touch"])
def test_code_in_place_of_weights(name: str, tmp_path: Path, marker: Path) -> None:
    gadget = (GADGETS | QUIET)[name]
    for value in (gadget(marker), {"state_dict": gadget(marker)}, {"fc.weight": gadget(marker)}):
        for path in containers(value, tmp_path):
            with pytest.raises(UserError):
                load(path)
            assert not marker.exists()


def test_code_inside_the_bytes_of_a_storage(tmp_path: Path, marker: Path) -> None:
    inner = pickle.dumps(Call(os.system, f"touch {marker}"))
    torch.save(Call(os.system, f"touch {marker}"), tmp_path / "inner")
    for data in (inner, (tmp_path / "inner").read_bytes()):
        value = {"fc.weight": Call(torch.storage._load_from_bytes, data)}
        (tmp_path / "net").write_bytes(pickle.dumps(value))
        with pytest.raises(UserError):
            load(tmp_path / "net")
        assert not marker.exists()


def test_code_in_a_mask_file(tmp_path: Path, marker: Path) -> None:
    torch.save({"fc.weight": torch.ones(2, 2)}, tmp_path / "net")
    for path in containers({"fc.weight": Call(os.system, f"touch {marker}")}, tmp_path):
        with pytest.raises(UserError, match="--trust"):
            load(tmp_path / "net", mask=path)
        assert not marker.exists()


@pytest.mark.parametrize("member", ["data/weights/weight_0", "data/sample_inputs/model.pt"])
def test_code_in_a_torch_export_archive(member: str, tmp_path: Path, marker: Path) -> None:
    exported = torch.export.export(torch.nn.Linear(2, 2).eval(), (torch.ones(1, 2),))
    torch.export.save(exported, tmp_path / "net.pt2")
    torch.save(Call(os.system, f"touch {marker}"), tmp_path / "gadget")
    with (
        zipfile.ZipFile(tmp_path / "net.pt2") as old,
        zipfile.ZipFile(tmp_path / "bad.pt2", "w") as new,
    ):
        for info in old.infolist():
            data = old.read(info)
            if info.filename.endswith(member):
                data = (tmp_path / "gadget").read_bytes()
            if info.filename.endswith("weights_config.json"):
                data = data.replace(b'"use_pickle": false', b'"use_pickle": true')
            new.writestr(info.filename, data)
    with pytest.raises(UserError):
        load(tmp_path / "bad.pt2")
    assert not marker.exists()


def test_trust_runs_code(tmp_path: Path, marker: Path) -> None:
    value = {"state_dict": {"fc.weight": torch.ones(2, 2)}, "hook": Call(Path.touch, marker)}
    for path in containers(value, tmp_path):
        weights(path, trust=True)
        assert marker.exists()
        marker.unlink()


def raw(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


# Opcodes that no pickler of this process would write.
ODD = {
    "state set on one of our functions": raw(
        b"ctorch._utils\n_rebuild_tensor_v2\n", b"}X\x01\x00\x00\x00aK\x01sb"
    ),
    "slots set on one of our functions": raw(
        b"ctorch._utils\n_rebuild_tensor_v2\nN}X\x09\x00\x00\x00_functionK\x01s\x86b"
    ),
    "state set on a container": raw(b"ccollections\nOrderedDict\n", b"}X\x01\x00\x00\x00aK\x01sb"),
    "a new object of one of our functions": raw(b"ctorch._utils\n_rebuild_parameter\n)\x81"),
    "an extension": raw(b"\x82\x01"),
    "a persistent id": raw(b"X\x01\x00\x00\x00aQ"),
    "dotted names": b"\x80\x04\x8c\x05torch\x8c\x0fserialization.os\x93.",
    "instance of a class": raw(b"(ios\nsystem\n"),
    "object of a class": raw(b"(cos\nsystem\nX\x02\x00\x00\x00lso"),
    "a buffer": b"\x80\x05\x97.",
    "a huge length": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "a huge index": raw(b"Nr\xff\xff\xff\x7f"),
    "a huge index as text": raw(b"Np2147483647\n"),
    "a huge frame": b"\x80\x04\x95\xff\xff\xff\xff\x0f\x00\x00\x00N.",
    "a huge byte array": b"\x80\x05\x96\xff\xff\xff\xff\x0f\x00\x00\x00.",
    "a huge list": raw(b"]q\x00" + b"(" + b"h\x00" * 1000 + b"e"),
    "a list in itself": raw(b"]q\x00h\x00a"),
    "a dictionary in itself": raw(b"}q\x00X\x05\x00\x00\x00modelh\x00s"),
}


@pytest.mark.parametrize("what", ODD)
def test_odd_pickles(what: str, tmp_path: Path) -> None:
    before = {name: (f, getattr(f, "__dict__", {}).copy()) for name, f in FUNCTIONS.items()}
    (tmp_path / "net").write_bytes(ODD[what])
    with pytest.raises(UserError):
        load(tmp_path / "net")
    assert {n: (f, getattr(f, "__dict__", {})) for n, f in FUNCTIONS.items()} == before


def test_nothing_real_comes_out_of_a_global() -> None:
    """Whatever module and name a pickle asks for, it gets ours or a stub, never the thing."""
    for module in sorted(sys.modules):
        if not module.isidentifier() and "." not in module:
            continue
        for name in ("system", "load", "open", "eval", "Module", "os", "__builtins__", "a.b"):
            file = io.BytesIO(f"c{module}\n{name}\n.".encode())
            try:
                found = load_pickle(file)
            except Exception:
                continue
            assert (
                isinstance(found, type) and issubclass(found, Stub)
            ) or found.__class__.__module__.startswith("prunedeploy."), (module, name)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.binary(max_size=80), st.sampled_from([b"", b"}", b"]", b"(", b"ccollections\nOrderedDict\n"])
)
def test_random_pickles(tmp_path_factory: pytest.TempPathFactory, data: bytes, head: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "random"
    path.write_bytes(b"\x80\x02" + head + data + b".")
    with contextlib.suppress(UserError):
        weights(path)


def test_ordered_dict_keeps_what_torch_puts_on_it() -> None:
    state = OrderedDict(a=1)
    state._metadata = {"version": 1}  # type: ignore[attr-defined]
    file = io.BytesIO(pickle.dumps(state))
    found = load_pickle(file)
    assert found == state
    assert found._metadata == {"version": 1}
