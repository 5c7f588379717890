"""Inputs as a user states them: parsed, drawn, given to the network by name or in order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from prunedeploy.cli import main
from prunedeploy.core.errors import UserError
from prunedeploy.graph import model as models
from prunedeploy.shrinking.example_inputs import ExampleInput, by_name, call_of, parse
from prunedeploy.shrinking.export import call_to_model

SOURCE = """
from torch import nn


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, input_ids, labels=None, attention_mask=None):
        x = self.embed(input_ids) * attention_mask.unsqueeze(-1)
        return self.down(self.up(x.mean(1)).relu())
"""


class Positional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.fc(first) * second.to(torch.float32)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ids=int64[1,128]", ExampleInput("ids", "int64", (1, 128))),
        ("ids=int64[1x128]:0..30521", ExampleInput("ids", "int64", (1, 128), (0.0, 30521.0))),
        ("x=float32[2,3,8,8]:-1.5..1", ExampleInput("x", "float32", (2, 3, 8, 8), (-1.5, 1.0))),
        ("scale=float32[1]", ExampleInput("scale", "float32", (1,))),
    ],
)
def test_forms(text: str, expected: ExampleInput) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ids", "is not an input: write it as NAME=int64"),
        ("ids=int63[1]", "types are float32"),
        ("ids=int64[]", "is not an input"),
        ("ids=int64[0,3]", "a size of zero"),
        ("ids=int64[1]:9..0", "write the lower one first"),
        ("ids=int64[1]:0..1.2.3", "a range that is none"),
    ],
)
def test_mistakes(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        parse(text)


def test_values_lie_within_their_range_and_reach_its_ends() -> None:
    generator = torch.Generator().manual_seed(0)
    ids = parse("ids=int64[2,500]:3..7").draw(generator)
    assert (ids.shape, ids.dtype) == ((2, 500), torch.int64)
    assert set(ids.unique().tolist()) == {3, 4, 5, 6, 7}
    assert set(parse("m=int64[1,99]").draw(generator).unique().tolist()) == {0, 1}
    pixels = parse("x=float32[1,999]:-2..2").draw(generator)
    assert -2 <= float(pixels.min()) < -1.9
    assert 1.9 < float(pixels.max()) <= 2


def test_names_of_arguments() -> None:
    ids, other = parse("input=float32[1,4]"), parse("other=float32[1,4]")
    assert by_name(nn.Linear(4, 2), [ids])
    assert not by_name(Positional(), [ids, other])
    with pytest.raises(UserError, match="no argument other: its forward takes input"):
        by_name(nn.Linear(4, 2), [ids, other])
    with pytest.raises(UserError, match="two inputs have one name"):
        by_name(Positional(), [ids, ids])


def test_inputs_in_their_order() -> None:
    inputs = [parse("pixels=float32[1,4]"), parse("gate=int64[1,1]")]
    program = call_to_model(Positional(), call_of(Positional(), inputs))
    specs, _ = models.specs(program)
    assert [(x.name, x.dtype, x.shape) for x in specs] == [
        ("pixels", "float32", ("batch", 4)),
        ("gate", "int64", ("batch", 1)),
    ]


def test_inputs_that_do_not_fit_are_one_line() -> None:
    with pytest.raises(UserError, match=r"does not run on input=float32\[1,5\] \(.*--input"):
        call_to_model(nn.Linear(4, 2), call_of(nn.Linear(4, 2), [parse("input=float32[1,5]")]))


def test_a_token_model_from_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the names of its arguments, with another between them; ids beyond 1 are tried, too."""
    monkeypatch.chdir(tmp_path)
    Path("tokens_of_the_tests.py").write_text(SOURCE)
    scope: dict[str, type[nn.Module]] = {}
    exec(SOURCE, scope)
    net = scope["Tokens"]()
    net.up.weight.data[:5] = 0
    torch.save(net.state_dict(), "tokens.pt")
    arch = ["--arch", "tokens_of_the_tests.py:Tokens"]
    ids, mask = "input_ids=int64[1,6]:0..49", "attention_mask=int64[1,6]"
    assert main(["shrink", "tokens.pt", *arch]) == 2
    assert "--input NAME=int64[1,128]" in capsys.readouterr().err
    stated = ["--input", ids, "--input", mask]
    assert main(["shrink", "tokens.pt", *arch, *stated, "--align", "1"]) == 0
    specs, _ = models.specs(models.load(Path("tokens.shrunk.onnx")))
    assert {x.name: (x.dtype, x.shape) for x in specs} == {
        "input_ids": ("int64", ("batch", 6)),
        "attention_mask": ("int64", ("batch", 6)),
    }
    assert specs[0].range is not None
    assert (specs[0].range.low, specs[0].range.high) == ((0.0,), (49.0,))
    result = json.loads(Path("tokens.shrunk.json").read_text())
    assert result["before"]["parameters"] - result["after"]["parameters"] == 5 * (8 + 1 + 3)
