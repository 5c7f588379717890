"""Several sets of weights in a file: named, chosen with a line, never in silence."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from prunedeploy.checkpoint import load, weights
from prunedeploy.checkpoint.readings import Reading, choose, of_all
from prunedeploy.cli import main
from prunedeploy.core.errors import UserError
from prunedeploy.inspection.inspect import inspect
from prunedeploy.models import by_name
from prunedeploy.shrinking.pipeline import shrink

ARCH = "small_net_of_the_tests:Net"
State = dict[str, Tensor]


@pytest.fixture
def other(net: nn.Module) -> nn.Module:
    """The same network with other weights, a third of them zero."""
    made = copy.deepcopy(net)
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.uniform_(-0.5, 1).clamp_(min=0)
    return made


def under(prefix: str, net: nn.Module) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in net.state_dict().items()}


PAIRS = (
    ("model", "ema"),
    ("model", "model_ema"),
    ("params", "params_ema"),
    ("state_dict", "state_dict_ema"),
    ("state_dict", "init_weight"),
    ("net", "best"),
)


@pytest.mark.parametrize("keys", PAIRS)
@pytest.mark.parametrize("first", [False, True])
def test_the_one_that_training_loads_and_the_other_named(
    net, other, same, keys, first: bool, tmp_path: Path
) -> None:
    value = {keys[0]: net.state_dict(), keys[1]: {"decay": 0.9, "module": other.state_dict()}}
    if not first:
        value = dict(reversed(value.items()))
    torch.save(value, tmp_path / "net")
    found = same(tmp_path / "net", net).found
    assert f"weights under '{keys[0]}'" in found
    (line,) = [line for line in found if line.startswith("another set of weights left out")]
    assert f"(under '{keys[1]}'.'module')" in line
    assert line.endswith("of its weights are zero, 0% of those taken")
    chosen = same(tmp_path / "net", other, weights=f"{keys[1]}.module").found
    assert f"weights under '{keys[1]}'.'module'" in chosen
    assert any(f"left out (under '{keys[0]}')" in line for line in chosen)
    same(tmp_path / "net", other, weights=keys[1])


def test_sets_that_are_as_sparse_are_named_without_figures(net, tmp_path: Path) -> None:
    torch.save({"model": net.state_dict(), "ema": net.state_dict()}, tmp_path / "net")
    found = load(tmp_path / "net", arch=ARCH).found
    assert "another set of weights left out (under 'ema')" in found


def test_masks_of_the_other_set_are_not_applied(net, other, same, tmp_path: Path) -> None:
    nn.utils.prune.l1_unstructured(other.fc, "weight", 0.5)
    torch.save({"model": net.state_dict(), "ema": other.state_dict()}, tmp_path / "net")
    same(tmp_path / "net", net)
    same(tmp_path / "net", other, weights="ema")


@pytest.mark.parametrize("keys", [("student", "teacher"), ("a", "b"), ("online", "target")])
def test_several_under_keys_that_say_nothing(net, other, same, keys, tmp_path: Path) -> None:
    torch.save({keys[0]: net.state_dict(), keys[1]: other.state_dict()}, tmp_path / "net")
    with pytest.raises(UserError, match=r"several sets of weights \(\w+, \w+\).*--weights"):
        load(tmp_path / "net", arch=ARCH)
    same(tmp_path / "net", net, weights=keys[0])
    same(tmp_path / "net", other, weights=keys[1])


@pytest.mark.parametrize("keys", [("student", "teacher"), ("encoder_q", "encoder_k")])
@pytest.mark.parametrize("wrapper", ["", "module.", "model."])
def test_several_in_one_state_dict(net, other, same, keys, wrapper: str, tmp_path: Path) -> None:
    state = under(f"{wrapper}{keys[0]}.", net) | under(f"{wrapper}{keys[1]}.", other)
    torch.save({"state_dict": state | {f"{wrapper}queue": torch.rand(3, 4)}}, tmp_path / "net")
    with pytest.raises(UserError, match=r"several sets of weights \(.*--weights") as caught:
        load(tmp_path / "net", arch=ARCH)
    assert "\n" not in str(caught.value)
    found = same(tmp_path / "net", net, weights=keys[0]).found
    assert any(f"names begin with {keys[0]}." in line for line in found)
    same(tmp_path / "net", other, weights=keys[1])


def test_averages_of_mmcv_are_left_out(net, same, tmp_path: Path) -> None:
    ema = {f"ema_{n.replace('.', '_')}": t + 1 for n, t in net.state_dict().items()}
    torch.save({"state_dict": net.state_dict() | ema}, tmp_path / "net")
    found = same(tmp_path / "net", net).found
    assert any("left out: ema_conv1_weight" in line for line in found)


def test_an_average_in_one_state_dict_is_left_out(net, other, same, tmp_path: Path) -> None:
    state = under("model.", net) | under("ema_model.", other) | {"ema_model.steps": torch.ones(1)}
    torch.save({"state_dict": state}, tmp_path / "net")
    with pytest.raises(UserError, match="unexpected"):
        load(tmp_path / "net", arch=ARCH, weights="ema_model")
    del state["ema_model.steps"]
    torch.save({"state_dict": state}, tmp_path / "net")
    found = same(tmp_path / "net", net).found
    assert "weights whose names begin with model.; left out: ema_model (15 tensors)" in found
    same(tmp_path / "net", other, weights="ema_model")


def test_a_teacher_of_another_kind_is_left_out(net, same, tmp_path: Path) -> None:
    state = under("student.", net) | {"teacher.fc.weight": torch.rand(9, 9)}
    torch.save(state, tmp_path / "net")
    found = same(tmp_path / "net", net).found
    assert "weights whose names begin with student.; left out: teacher (1 tensors)" in found


@pytest.mark.parametrize("name", ["criterion.weight", "loss_fn.centers", "train_acc.total"])
@pytest.mark.parametrize("prefix", ["", "model.", "module.", "net.backbone."])
def test_what_trains_beside_the_network(net, same, name, prefix: str, tmp_path: Path) -> None:
    state = under(prefix, net) | {name: torch.rand(8)}
    torch.save({"state_dict": state}, tmp_path / "net")
    found = same(tmp_path / "net", net).found
    assert any(f"left out: {name.partition('.')[0]} (1 tensors)" in line for line in found)


def test_a_part_that_may_be_the_networks_is_not_left_out(net, same, tmp_path: Path) -> None:
    torch.save(under("backbone.", net) | {"head.weight": torch.rand(3, 5)}, tmp_path / "net")
    with pytest.raises(UserError, match=r"those under backbone fit alone: .* --weights backbone"):
        load(tmp_path / "net", arch=ARCH)
    same(tmp_path / "net", net, weights="backbone")
    torch.save(net.state_dict() | {"head.weight": torch.rand(3, 5)}, tmp_path / "net")
    with pytest.raises(UserError, match=r"1 unexpected \(head\.weight\)"):
        load(tmp_path / "net", arch=ARCH)


def test_recognised_beside_a_loss_and_a_teacher(tmp_path: Path) -> None:
    torch.manual_seed(0)
    resnet = by_name("resnet20").factory()
    state = under("model.", resnet) | {"criterion.weight": torch.rand(10)}
    torch.save({"state_dict": state}, tmp_path / "net")
    for arch in (None, "resnet20"):
        loaded = load(tmp_path / "net", arch=arch)
        assert loaded.arch == "resnet20"
        assert torch.equal(loaded.module.state_dict()["conv1.weight"], resnet.conv1.weight)
        assert any("left out: criterion" in line for line in loaded.found)
    state = under("student.", resnet) | under("teacher.", by_name("resnet32").factory())
    torch.save(state, tmp_path / "net")
    with pytest.raises(UserError, match=r"several sets of weights \(student, teacher\)"):
        load(tmp_path / "net")
    assert load(tmp_path / "net", arch="resnet20").arch == "resnet20"
    assert load(tmp_path / "net", weights="teacher").arch == "resnet32"
    torch.save(under("a.", resnet) | {"b.weight": torch.rand(2, 2)}, tmp_path / "net")
    for arch in (None, "resnet20"):
        with pytest.raises(UserError, match="--weights a"):
            load(tmp_path / "net", arch=arch)


def test_a_name_that_is_not_there(net, tmp_path: Path) -> None:
    torch.save({"model": net.state_dict(), "ema": net.state_dict()}, tmp_path / "net")
    with pytest.raises(UserError, match="no weights called swa: it has model, ema"):
        load(tmp_path / "net", arch=ARCH, weights="swa")
    torch.save({k: {"b": net.state_dict()} for k in "ac"}, tmp_path / "net")
    with pytest.raises(UserError, match=r"called b \(a\.b, c\.b\): name one of these"):
        load(tmp_path / "net", arch=ARCH, weights="b")


def test_inspect_and_shrink_take_the_name(net, other, tmp_path: Path) -> None:
    torch.save({"model": net.state_dict(), "ema": other.state_dict()}, tmp_path / "net.pt")
    for name, expected in (("model", net), ("ema", other)):
        tensors, _ = weights(tmp_path / "net.pt", name=name)
        assert torch.equal(tensors["fc.weight"], expected.fc.weight)
        nonzero = sum(int(w.count_nonzero()) for w in expected.parameters() if w.dim() > 1)
        for arch in (None, ARCH):
            assert inspect(tmp_path / "net.pt", arch, weights=name).totals.nonzero == nonzero
    done = shrink(
        tmp_path / "net.pt", tmp_path / "o.onnx", arch=ARCH, input_shape=(1, 3, 9, 9), weights="ema"
    )
    assert "weights under 'ema'" in done.found


def test_the_commands_print_the_choice(net, other, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": net.state_dict(), "ema": other.state_dict()}, tmp_path / "net.pt")
    shape = ["--arch", ARCH, "--input-shape", "1,3,9,9"]
    for line in (["inspect", "net.pt"], ["shrink", "net.pt", *shape, "-o", "o.onnx"]):
        assert main(line) == 0
        said = capsys.readouterr().out
        assert "weights under 'model'" in said
        assert "another set of weights left out (under 'ema')" in said
        assert main([*line, "--weights", "ema"]) == 0
        assert "weights under 'ema'" in capsys.readouterr().out
        assert main([*line, "--weights", "swa"]) == 2
        assert "no weights called swa: it has model, ema" in capsys.readouterr().err


def test_a_trusted_module_of_several(net, other, same, tmp_path: Path) -> None:
    torch.save({"model": net, "ema": other}, tmp_path / "net")
    same(tmp_path / "net", net, arch=None, trust=True)
    loaded = same(tmp_path / "net", other, arch=None, trust=True, weights="ema")
    assert loaded.arch == "pickled module"


NAMES = ["m.a.w", "m.a.b", "m.c.w"]


@pytest.mark.parametrize(
    ("names", "readings"),
    [
        (NAMES, [Reading(), Reading("m.")]),
        (["w"], [Reading()]),
        (["a.w"], [Reading(), Reading("a.")]),
        ([], [Reading()]),
        (["l.module.w", "k.b"], [Reading(), Reading("", True)]),
        (["l.module.w", "l.w"], [Reading(), Reading("l.")]),
        (["l.module.w"], [Reading(), Reading("", True), Reading("l.", True)]),
    ],
)
def test_ways_to_read_all_names(names: list[str], readings: list[Reading]) -> None:
    assert of_all(names) == readings


def test_layers_that_are_alike_are_no_sets() -> None:
    """Two linear layers of a Sequential have the same names below theirs."""
    names = ["0.weight", "0.bias", "1.weight", "1.bias"]

    def fits(wanted: set[str]) -> Callable[[Reading], bool]:
        return lambda reading: set(reading.aliases(names).values()) == wanted

    assert choose(names, fits(set(names))) == Reading()
    with pytest.raises(UserError, match="several sets"):
        choose(names, fits({"weight", "bias"}))


SAME = {
    "compiled": lambda net: under("_orig_mod.", net),
    "another prefix": lambda net: under("ema_model.net.", net),
    "parameters without names": lambda net: {"decay": 0.9, "shadow_params": [*net.parameters()]},
    "a list of snapshots": lambda net: [net.state_dict()],
}


@pytest.mark.parametrize("what", SAME)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_another_set_whatever_its_names(
    net, other, same, what: str, prefix: str, tmp_path: Path
) -> None:
    torch.save({"state_dict": under(prefix, net), "ema": SAME[what](other)}, tmp_path / "net")
    found = same(tmp_path / "net", net).found
    assert any(line.startswith("another set of weights left out (under 'ema'") for line in found)


def test_weights_in_lists(net, other, same, tmp_path: Path) -> None:
    torch.save((net.state_dict(), {"epoch": 3}), tmp_path / "net")
    assert "weights under '0'" in same(tmp_path / "net", net).found
    torch.save([net.state_dict(), other.state_dict()], tmp_path / "net")
    with pytest.raises(UserError, match=r"several sets of weights \(0, 1\)"):
        load(tmp_path / "net", arch=ARCH)
    same(tmp_path / "net", other, weights="1")
