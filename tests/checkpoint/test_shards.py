"""Weights in several files: all of them and nothing else, or one line about what is amiss."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from prunedeploy.checkpoint import kind, load, weights
from prunedeploy.core.errors import UserError

save_file = pytest.importorskip("safetensors.torch").save_file


def shard(state: dict[str, Tensor], folder: Path, safe: bool = True) -> Path:
    """Every other tensor in each of two files, and their index, as transformers writes them."""
    stem, end = ("model", "safetensors") if safe else ("pytorch_model", "bin")
    files = [f"{stem}-0000{n}-of-00002.{end}" for n in (1, 2)]
    names = list(state)
    for file, part in zip(files, (names[::2], names[1::2]), strict=True):
        tensors = {name: state[name].contiguous() for name in part}
        (save_file if safe else torch.save)(tensors, folder / file)
    index = folder / f"{stem}.{end}.index.json"
    places = {name: files[at % 2] for at, name in enumerate(names)}
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}, indent=2))
    return index


@pytest.mark.parametrize("safe", [True, False])
def test_the_same_network(safe: bool, net: nn.Module, same, tmp_path: Path) -> None:
    index = shard(net.state_dict(), tmp_path, safe)
    assert kind(index) == "shards"
    by_index, by_folder = same(index, net), same(tmp_path, net)
    assert by_index.found[0] == "weights in several files"
    assert by_index.sha256 == by_folder.sha256
    assert by_index.path == by_folder.path == index


def test_the_hash_is_that_of_all_files(net: nn.Module, tmp_path: Path) -> None:
    first = load(shard(net.state_dict(), tmp_path), arch="small_net_of_the_tests:Net").sha256
    net.fc.bias.data += 1
    assert load(shard(net.state_dict(), tmp_path), "small_net_of_the_tests:Net").sha256 != first


def test_a_file_that_is_missing_or_has_other_tensors(net: nn.Module, tmp_path: Path) -> None:
    index = shard(net.state_dict(), tmp_path)
    second = tmp_path / "model-00002-of-00002.safetensors"
    tensors = weights(second)[0]
    save_file({name: x for name, x in tensors.items() if name != "conv1.bias"}, second)
    with pytest.raises(UserError, match=r"has no conv1\.bias, which model.* says is in it"):
        weights(index)
    save_file(tensors | {"conv1.weight": torch.ones(1)}, second)
    with pytest.raises(UserError, match=r"has conv1\.weight, which another file"):
        weights(index)
    second.unlink()
    with pytest.raises(UserError, match=r"lacks model-00002-of-00002\.safetensors, of model"):
        weights(index)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "..", "", 3, "a\\b"])
def test_files_elsewhere_are_not_read(name: object, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a.weight": name}})
    )
    with pytest.raises(UserError, match="does not lie beside it"):
        weights(tmp_path)


@pytest.mark.parametrize(
    "text", ["{", '{"weight_map": []}', '{"weight_map": {}}', '{"a": 1}', "{" * 5000]
)
def test_other_json_is_no_index(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.index.json").write_text(text)
    with pytest.raises(UserError, match=r"cannot be read|no index of weights") as caught:
        weights(tmp_path / "x.index.json")
    assert "\n" not in str(caught.value)
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match="is not a checkpoint"):
        weights(tmp_path / "x.json")


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    name = "x" * 5000 + ".safetensors"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"layer.weight": name}}))
    with pytest.raises(UserError, match=r"lacks x+\.{3}x*\.safetensors, of model"):
        load(index)
