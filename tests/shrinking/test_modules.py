"""Modules in memory: whatever mode, hooks and masks they have, and that they are left alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

import prunedeploy
from prunedeploy import models
from prunedeploy.core.errors import UserError
from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.shrinking.check_export import check_export
from prunedeploy.shrinking.examples import Call
from prunedeploy.shrinking.export import call_to_model
from prunedeploy.shrinking.inference_copy import inference_copy
from prunedeploy.shrinking.request import stem_of

X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Small(nn.Module):
    """Two convolutions with statistics that training changes, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 6, 3, padding=1)
        self.drop = nn.Dropout()
        self.last = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(self.second(x)).mean((2, 3))
        return self.last(self.drop(x))


class Doubled(nn.Module):
    """A parametrization: the weight is twice what is stored."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


def _masked(net: Small) -> None:
    prune.ln_structured(net.first, "weight", 0.5, n=1, dim=0)
    prune.l1_unstructured(net.first, "weight", 3)  # a container of two masks
    prune.random_unstructured(net.second, "bias", 2)


def _parametrized(net: Small) -> None:
    parametrize.register_parametrization(net.first, "weight", Doubled())
    parametrizations.weight_norm(net.second)
    parametrizations.spectral_norm(net.last)


def _normed(net: Small) -> None:
    weight_norm(net.second)
    spectral_norm(net.last)


def _hooked(net: Small) -> None:
    net.first.register_forward_hook(lambda _m, _i, output: 3 * output)
    net.last.register_forward_pre_hook(lambda _m, inputs: (inputs[0] + 1,))


def _tied(net: Small) -> None:
    net.other = nn.Conv2d(3, 8, 3, padding=1)
    net.other.weight = net.first.weight


KINDS: dict[str, Callable[[Small], object]] = {
    "plain": lambda _: None,
    "masks": _masked,
    "parametrizations": _parametrized,
    "norms of weights": _normed,
    "hooks": _hooked,
    "tied": _tied,
    "frozen": lambda net: net.requires_grad_(False),
}


def made(kind: str) -> Small:
    """A network in training, with statistics and singular vectors that are not those at first."""
    net = Small()
    KINDS[kind](net)
    for seed in range(3):
        net(torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed)))
    return net


def as_deployed(net: nn.Module, *inputs: torch.Tensor) -> np.ndarray:
    """What the module itself computes in eval mode; its mode is put back."""
    net.eval()
    with torch.no_grad():
        output = net(*inputs).numpy()
    net.train()
    return output


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[] if kind in ("masks", "hooks") else pytest.mark.slow)
        for kind in KINDS
    ],
)
def test_the_model_is_the_module_in_eval_mode(kind: str, folder: Path) -> None:
    net = made(kind)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    hooks = [len(each._forward_hooks) + len(each._forward_pre_hooks) for each in net.modules()]
    done = prunedeploy.shrink(net, X, align=1)
    assert net.training
    after = net.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert hooks == [
        len(each._forward_hooks) + len(each._forward_pre_hooks) for each in net.modules()
    ]
    if kind != "frozen":
        net(X.repeat(2, 1, 1, 1)).sum().backward()  # it trains on

    assert done.model == Path("Small.shrunk.onnx")
    assert done.difference.passed
    assert done.found == ("Small in memory, as in eval mode",)
    net.load_state_dict(before)
    evaluator = Evaluator(done.model)
    assert evaluator.inputs[0].name == "input"
    assert isinstance(evaluator.inputs[0].shape[0], str)
    for batch in (1, 3):
        x = torch.randn(batch, 3, 8, 8)
        found = evaluator.run({"input": x.numpy()})["output"]
        np.testing.assert_allclose(found, as_deployed(net, x), atol=1e-5)


def test_masked_channels_go(folder: Path) -> None:
    net = Small()
    prune.ln_structured(net.second, "weight", 0.5, n=1, dim=0)
    net.second.bias.data.zero_()
    done = prunedeploy.shrink(net, X, align=1)
    assert done.before.parameters - done.after.parameters >= 3 * (8 * 9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_shares_nothing(kind: str) -> None:
    net = made(kind)
    copied = inference_copy(net)
    own = {value.data_ptr() for value in net.state_dict().values()}
    assert not own & {value.data_ptr() for value in copied.state_dict().values()}
    assert not any(parametrize.is_parametrized(each) for each in copied.modules())
    np.testing.assert_allclose(copied(X).detach().numpy(), as_deployed(net, X), atol=1e-6)


def test_wrappers_are_taken_off(folder: Path) -> None:
    net = Small()
    wrapped = torch.compile(nn.DataParallel(net), backend="eager")
    assert type(inference_copy(wrapped)) is Small
    assert stem_of(wrapped) == "Small"


def test_what_cannot_be_copied_is_one_line() -> None:
    net = Small()
    net.lock = (item for item in ())  # type: ignore[assignment]
    with pytest.raises(UserError, match="cannot be copied") as caught:
        inference_copy(net)
    assert "\n" not in str(caught.value)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.linear = nn.Linear(6, 4)

    def forward(
        self, tokens: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        logits = self.linear(self.embed(tokens)) * scale[:, None]
        return {"logits": logits if shift is None else logits + shift[:, None], "scale": scale}


TOKENS, SCALE = torch.arange(7)[None], torch.full((1, 4), 0.5)


@pytest.mark.parametrize(
    ("inputs", "names"),
    [
        ([TOKENS.numpy(), SCALE.numpy()], ["tokens", "scale"]),
        ({"tokens": TOKENS, "shift": SCALE, "scale": SCALE}, ["tokens", "shift", "scale"]),
    ],
)
def test_several_inputs_by_position_or_by_name(folder: Path, inputs, names: list[str]) -> None:
    module = Two().eval()
    done = prunedeploy.shrink(module, inputs, "two.onnx", align=1)
    evaluator = Evaluator(done.model)
    assert {spec.name for spec in evaluator.inputs} == set(names)
    x = {"tokens": np.array([[1, 2, 3, 4, 5, 6, 7]] * 3), "scale": np.ones((3, 4), np.float32)}
    x["shift"] = np.full((3, 4), 2, np.float32)
    feeds = {name: x[name] for name in names}
    found = next(iter(evaluator.run(feeds).values()))
    with torch.no_grad():
        want = module(**{name: torch.as_tensor(value) for name, value in feeds.items()})["logits"]
    np.testing.assert_allclose(found, want.numpy(), atol=1e-6)


@pytest.mark.slow
def test_a_batch_that_the_code_fixes(folder: Path) -> None:
    class Fixed(Small):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).view(2, 5)

    done = prunedeploy.shrink(Fixed(), X.repeat(2, 1, 1, 1), align=1)
    assert Evaluator(done.model).inputs[0].shape == (2, 3, 8, 8)


def test_a_shape_alone_will_do(folder: Path) -> None:
    done = prunedeploy.shrink(Small(), input_shape=(1, 3, 8, 8), align=1)
    assert done.difference.passed


@pytest.mark.slow
def test_back_to_the_module(folder: Path) -> None:
    net = Small()
    _masked(net)
    prunedeploy.shrink(net, X, "small.onnx", align=1, state_dict="small.pt")
    other = Small()
    prunedeploy.apply_plan(other, "small.pt")
    other.load_state_dict(torch.load("small.pt")["state_dict"])
    np.testing.assert_allclose(as_deployed(other, X), as_deployed(net, X), atol=1e-5)


@pytest.mark.slow
def test_a_checkpoint_takes_the_shape_of_the_example(folder: Path) -> None:
    torch.save(models.by_name("resnet20").factory().state_dict(), folder / "net.pt")
    prunedeploy.shrink("net.pt", torch.zeros(1, 3, 16, 16), "small.onnx", align=1)
    assert Evaluator(folder / "small.onnx").inputs[0].shape[1:] == (3, 16, 16)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((Small(),), {}, "a module needs example inputs"),
        ((Small(), torch.zeros(1, 4, 8, 8)), {}, "does not run on the example inputs"),
        ((Small(), (1, 3, 8, 8)), {}, "a shape goes into input_shape"),
        ((Small(), ()), {}, "there are no example inputs"),
        ((Small(), X), {"arch": "resnet20"}, "--arch is for checkpoints, this is a module"),
        ((Small(), X), {"input_shape": (1, 3, 9, 9)}, "another shape than input_shape"),
        (("net.onnx", "a.onnx", "b.onnx"), {}, "two outputs"),
        ((Two(), TOKENS), {}, "does not run on the example inputs"),
    ],
)
def test_mistakes_are_one_line(folder: Path, arguments, options, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        prunedeploy.shrink(*arguments, **options)
    assert "\n" not in str(caught.value)
    assert not list(folder.iterdir())


def test_an_export_that_computes_something_else_is_refused() -> None:
    """The check is what sees it: the same model beside a module with another weight."""
    net = Small().eval()
    program = call_to_model(net, Call((X,)))
    check_export(program, net, Call((X,)))
    other = copy.deepcopy(net)
    other.last.weight.data[0, 0] += 0.5
    with pytest.raises(UserError, match="another network than the module computes"):
        check_export(program, other, Call((X,)))


def test_random_outputs_are_refused(folder: Path) -> None:
    class Noisy(Small):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + torch.rand(5)

    with pytest.raises(UserError, match="outputs are random"):
        prunedeploy.shrink(Noisy(), X)
