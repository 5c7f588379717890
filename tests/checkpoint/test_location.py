"""Checkpoints in the places where libraries put them."""

from __future__ import annotations

import logging
import os
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from prunedeploy.checkpoint import find, hub, kind, location, name_of
from prunedeploy.core.errors import MissingExtra, UserError

COMMIT = "0" * 39 + "1"


def cached(home: Path, repository: str, files: dict[str, Path], commit: str = COMMIT) -> Path:
    """A repository in the cache as huggingface_hub lays it out: links to blobs."""
    root = home / "hub" / f"models--{repository.replace('/', '--')}"
    snapshot = root / "snapshots" / commit
    for folder in (root / "blobs", root / "refs", snapshot):
        folder.mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text(commit)
    for name, source in files.items():
        blob = root / "blobs" / f"blob-of-{name}"
        blob.write_bytes(source.read_bytes())
        (snapshot / name).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub's cache of its own, and no network."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


@pytest.mark.parametrize("given", ["maker/net", "hf://maker/net", f"maker/net@{COMMIT}"])
def test_a_repository_in_the_cache(
    given: str, net: nn.Module, same, tmp_path: Path, offline: Path
) -> None:
    torch.save(net.state_dict(), tmp_path / "saved")
    snapshot = cached(offline, "maker/net", {"pytorch_model.bin": tmp_path / "saved"})
    loaded = same(given, net)
    assert loaded.path == snapshot / "pytorch_model.bin"
    assert find(Path(given)) == loaded.path  # which has lost a slash
    assert name_of(given) == "net"


def test_a_repository_in_several_files(tmp_path: Path, offline: Path) -> None:
    save_file = pytest.importorskip("safetensors.torch").save_file
    index, shard = "model.safetensors.index.json", "model-00001-of-00001.safetensors"
    save_file({"a.weight": torch.ones(2, 2)}, tmp_path / shard)
    (tmp_path / index).write_text(f'{{"weight_map": {{"a.weight": "{shard}"}}}}')
    snapshot = cached(offline, "maker/large", {index: tmp_path / index})
    with pytest.raises(UserError, match=f"its {shard} cannot be fetched"):
        find("maker/large")
    cached(offline, "maker/whole", {index: tmp_path / index, shard: tmp_path / shard})
    assert find("maker/whole").name == snapshot.joinpath(index).name


def test_what_the_hub_library_warns_of_is_not_printed_beside_the_error(
    offline: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = logging.getLogger("huggingface_hub")
    level = hub.level

    def fetch(*_: object, **__: object) -> str:
        hub.warning("in a line of its own")
        raise OSError("no way there")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    monkeypatch.setattr(hub, "handlers", [logging.StreamHandler()])
    with pytest.raises(UserError, match="no way there"):
        find("maker/nowhere")
    assert capsys.readouterr().err == ""
    assert hub.level == level


def test_a_damaged_index_in_the_cache(tmp_path: Path, offline: Path) -> None:
    index = "model.safetensors.index.json"
    for at, text in enumerate(('{"weight_map": {', '{"weight_map": 3}')):
        (tmp_path / index).write_text(text)
        snapshot = cached(offline, f"maker/damaged{at}", {index: tmp_path / index})
        with pytest.raises(UserError, match=re.escape(str(snapshot / index))):
            find(f"maker/damaged{at}")


@pytest.mark.parametrize("name", ["maker--other/net", "a..b/net"])
def test_names_that_the_hub_does_not_allow(name: str, offline: Path) -> None:
    with pytest.raises(UserError, match=f"{re.escape(name)} is no file here, and no name"):
        find(name)


def test_what_is_nowhere(tmp_path: Path, offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="maker/other is no file here and not in the hub's cache"):
        find("maker/other")
    with pytest.raises(UserError, match="no such file"):
        kind(find("maker/net.pt"))  # a path of a file
    (tmp_path / "work" / "runs").mkdir()
    assert find("runs/net") == Path("runs/net")  # the folder is there, the file is not
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtra, match=r"maker/other is no file here.*prunedeploy\[hub\]"):
        find("maker/other")


PATHS = (
    *("net", "net.pt", "a/b/c", "../net", "/etc/x", "maker/net.safetensors", "a b/c", "x/@y"),
    *("runs/net.PT", "runs/net.pkl", "runs/bench.json", "runs/net.engine", "runs/net.tar.gz"),
)


@pytest.mark.parametrize("text", PATHS)
def test_paths_are_no_repositories(text: str) -> None:
    assert hub.parse(text, location.FILES) is None


@pytest.mark.parametrize(
    "text", ["timm/resnet50.a1_in1k", "Qwen/Qwen2.5-0.5B", "a/b.c", "a/b-v1.0"]
)
def test_repositories_with_dots(text: str) -> None:
    assert hub.parse(text, location.FILES) == hub.Repository(text, None)


@pytest.mark.parametrize("name", ["runs/net.pkl", "runs/net.PTH", "runs/net.json"])
def test_a_mistyped_path_never_asks_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # any use of it fails
    with pytest.raises(UserError, match=f"no such file: {name}|{name}: no such file"):
        kind(find(name))


@pytest.mark.parametrize(
    ("files", "taken"),
    [
        (("config.json", "model.safetensors", "pytorch_model.bin"), "model.safetensors"),
        (("pytorch_model.bin", "training_args.bin"), "pytorch_model.bin"),
        (("README.md", "resnet.pth"), "resnet.pth"),
        (("hparams.yaml", "checkpoints/epoch=3-step=40.ckpt"), "checkpoints/epoch=3-step=40.ckpt"),
        (("args.yaml", "weights/best.pt"), "weights/best.pt"),
        (("onnx/model.onnx", "config.json"), "onnx/model.onnx"),
    ],
)
def test_folders(files: tuple[str, ...], taken: str, tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find(tmp_path) == tmp_path / taken


def test_folders_that_leave_a_choice_or_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a folder without a checkpoint"):
        find(tmp_path)
    (tmp_path / "weights").mkdir()
    for name in ("best.pt", "last.pt"):
        (tmp_path / "weights" / name).touch()
    with pytest.raises(UserError, match=r"several checkpoints \(best\.pt, last\.pt\)"):
        find(tmp_path)


def test_names_of_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "resnet50.a1_in1k").mkdir()
    monkeypatch.chdir(tmp_path / "resnet50.a1_in1k")
    assert name_of("nets/resnet.v2.pt") == "resnet.v2"
    assert name_of(".") == name_of(tmp_path / "resnet50.a1_in1k") == "resnet50.a1_in1k"
    assert name_of("timm/resnet50.a1_in1k@main") == "resnet50.a1_in1k"
