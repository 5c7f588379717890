"""Every container: what is loaded computes what was saved."""

from __future__ import annotations

import argparse
import collections
import json
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from prunedeploy.checkpoint import load, weights
from prunedeploy.core.errors import MissingExtra, UserError

Save = Callable[[object, Path], None]


def save_zip(value: object, path: Path) -> None:
    torch.save(value, path)


def save_legacy(value: object, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def save_pickle(value: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(value))


def save_old_pickle(value: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(value, protocol=0))


SAVERS = (save_zip, save_legacy, save_pickle, save_old_pickle)
ALL = pytest.mark.parametrize("save", SAVERS)


@ALL
def test_plain_state_dict(save: Save, net: nn.Module, same: Callable, tmp_path: Path) -> None:
    save(net.state_dict(), tmp_path / "net")
    loaded = same(tmp_path / "net", net)
    assert len(loaded.sha256) == 64
    assert loaded.recipe is None


Settings = collections.namedtuple("Settings", "lr depth")


@ALL
def test_objects_beside_the_weights(
    save: Save, net: nn.Module, same: Callable, tmp_path: Path
) -> None:
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.rand(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    value = {
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1, path=Path("/data")),
        "settings": Settings(0.1, 4),
        "best": np.float64(0.93),
        "history": np.arange(4.0),
        "counts": collections.defaultdict(list, a=[1]),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "state_dict": net.state_dict(),
    }
    save(value, tmp_path / "net")
    found = same(tmp_path / "net", net).found
    assert "weights under 'state_dict'" in found


@ALL
def test_whole_module_without_its_code(
    save: Save, net: nn.Module, same: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save({"net": net, "acc": 0.9}, tmp_path / "net")
    with pytest.raises(UserError, match=r"not recognised.*--trust"):
        load(tmp_path / "net")
    loaded = same(tmp_path / "net", net)
    assert any("read as a state_dict, no code run" in line for line in loaded.found)
    monkeypatch.delitem(sys.modules, "small_net_of_the_tests")
    monkeypatch.setattr(sys, "path", [])
    assert set(weights(tmp_path / "net")[0]) == set(net.state_dict())


@ALL
def test_whole_module_trusted(save: Save, net: nn.Module, same: Callable, tmp_path: Path) -> None:
    save(net, tmp_path / "net")
    assert same(tmp_path / "net", net, arch=None, trust=True).arch == "pickled module"


def test_numpy_state_dict(net: nn.Module, same: Callable, tmp_path: Path) -> None:
    arrays = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    arrays["conv1.weight"] = np.asfortranarray(arrays["conv1.weight"]).astype(">f4")
    for protocol in (0, 2, 5):
        (tmp_path / "net").write_bytes(pickle.dumps(arrays, protocol=protocol))
        same(tmp_path / "net", net)
    np.savez(tmp_path / "net.npz", **arrays)
    same(tmp_path / "net.npz", net)


def test_safetensors(net: nn.Module, same: Callable, tmp_path: Path) -> None:
    torch_files = pytest.importorskip("safetensors.torch")
    torch_files.save_file(net.state_dict(), tmp_path / "net")
    same(tmp_path / "net", net)


def test_safetensors_of_more_names_than_bytes(tmp_path: Path) -> None:
    """A header of empty tensors: each takes far more memory than its line of the file."""
    pytest.importorskip("safetensors")
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({str(at): empty for at in range(25_000)}).encode()
    (tmp_path / "net").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(UserError, match="its header would take 25,000 tensors"):
        weights(tmp_path / "net")


def test_safetensors_without_the_extra(
    net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch_files = pytest.importorskip("safetensors.torch")
    torch_files.save_file(net.state_dict(), tmp_path / "net")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(MissingExtra, match=r"prunedeploy\[safetensors\]"):
        weights(tmp_path / "net")


@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_cuda_tensors_without_cuda(
    save: Save, net: nn.Module, same: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.serialization, "location_tag", lambda _: "cuda:0")
    save(net.state_dict(), tmp_path / "net")
    assert b"cuda:0" in (tmp_path / "net").read_bytes()
    same(tmp_path / "net", net)


def test_cuda_tensors_in_a_plain_pickle(
    net: nn.Module, same: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.serialization, "location_tag", lambda _: "cuda:0")
    save_pickle(net.state_dict(), tmp_path / "net")
    monkeypatch.undo()
    assert b"cuda:0" in (tmp_path / "net").read_bytes()
    tensors, _ = weights(tmp_path / "net")
    assert torch.equal(tensors["fc.weight"], net.state_dict()["fc.weight"])
    tensors, _ = weights(tmp_path / "net", trust=True)
    assert torch.equal(tensors["fc.weight"], net.state_dict()["fc.weight"])


def test_archive_without_checksums(net: nn.Module, same: Callable, tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(net.state_dict(), tmp_path / "net")
    finally:
        torch.serialization.set_crc32_options(True)
    same(tmp_path / "net", net)


def test_archive_packed_again(net: nn.Module, same: Callable, tmp_path: Path) -> None:
    torch.save(net.state_dict(), tmp_path / "a")
    with (
        zipfile.ZipFile(tmp_path / "a") as old,
        zipfile.ZipFile(tmp_path / "b", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    same(tmp_path / "b", net)


def test_views_of_one_storage(tmp_path: Path) -> None:
    base = torch.arange(24.0)
    value = {
        "a.weight": base[:12].view(3, 4).t(),
        "b.weight": base[4:].view(4, 5),
        "c.weight": torch.ones(1).expand(3, 3),
        "d.weight": torch.arange(4, dtype=torch.int32).view(2, 2),
    }
    for save in SAVERS:
        save(value, tmp_path / "net")
        found, _ = weights(tmp_path / "net")
        for name, tensor in value.items():
            assert torch.equal(found[name], tensor)


@ALL
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(
    save: Save, dtype: torch.dtype, net: nn.Module, same: Callable, tmp_path: Path
) -> None:
    net.to(dtype)
    save(net.state_dict(), tmp_path / "net")
    loaded = same(tmp_path / "net", net.double() if dtype == torch.float64 else net.float())
    wanted = torch.float64 if dtype == torch.float64 else torch.float32
    assert {p.dtype for p in loaded.module.parameters()} == {wanted}
    converted = [line for line in loaded.found if "converted to float32" in line]
    assert bool(converted) == (dtype != torch.float64)


def test_new_dtypes(tmp_path: Path) -> None:
    tensor = torch.tensor([[0.5, 2.0]]).to(torch.float8_e4m3fn)
    torch.save({"a.weight": tensor, "n": torch.ones(2, dtype=torch.uint16)}, tmp_path / "net")
    found, _ = weights(tmp_path / "net")
    assert found["a.weight"].tolist() == [[0.5, 2.0]]


@pytest.mark.parametrize("save", [save_zip, save_legacy])
@pytest.mark.parametrize("form", ["to_sparse_coo", "to_sparse_csr", "to_sparse_csc"])
def test_sparse_tensors(
    save: Save, form: str, net: nn.Module, same: Callable, tmp_path: Path
) -> None:
    with torch.no_grad():
        net.fc.weight[net.fc.weight < 0.2] = 0
    state = net.state_dict()
    state["fc.weight"] = getattr(state["fc.weight"], form)()
    save(state, tmp_path / "net")
    assert any("made dense" in line for line in same(tmp_path / "net", net).found)


def test_parameters_and_tensors_with_attributes(
    net: nn.Module, same: Callable, tmp_path: Path
) -> None:
    state = dict(net.named_parameters()) | dict(net.named_buffers())
    state["fc.weight"].is_pruned = True
    for save in SAVERS:
        save(state, tmp_path / "net")
        same(tmp_path / "net", net)


def test_quantised_tensors_are_refused(tmp_path: Path) -> None:
    tensor = torch.quantize_per_tensor(torch.rand(3, 3), 0.1, 0, torch.qint8)
    for save in (save_zip, save_legacy):
        save({"fc.weight": tensor}, tmp_path / "net")
        with pytest.raises(UserError, match=r"fc\.weight is quantised"):
            weights(tmp_path / "net")


def test_tar_archive_is_refused(tmp_path: Path) -> None:
    import tarfile

    with tarfile.open(tmp_path / "net", "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    with pytest.raises(UserError, match=r"tar archive.*--trust"):
        load(tmp_path / "net")


def test_labelled_images_are_no_weights(tmp_path: Path) -> None:
    path = tmp_path / "test.npz"
    np.savez(path, images=np.ones((4, 3, 8, 8), np.float32), labels=np.arange(4))
    with pytest.raises(UserError, match="labelled images, not weights: they go to --data"):
        weights(path)
    np.savez(path, images=np.ones((4, 3), np.float32))  # a layer may be called so
    assert list(weights(path)[0]) == ["images"]
