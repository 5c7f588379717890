"""Strangers' files and folders through the real command: nothing runs, and one line says so.

What a file may cost is in ``tests/core/test_budget.py``, ``tests/checkpoint/test_bombs.py`` and
``tests/reference/test_cost.py``.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from refused import small_model
from torch import Tensor, nn

from prunedeploy.checkpoint import weights
from prunedeploy.cli import main
from prunedeploy.core.errors import UserError

NAMES = ("numpy", "torch", "onnx", "onnx_ir", "onnxruntime", "ziglang", "typer", "sitecustomize")


class Stateful(nn.Module):
    """Its program restores it by code of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, bool]:
        return (self.w, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, bool]) -> None:
        self.w = state[0]
        self.training = state[1]


def test_the_program_of_a_checkpoint_is_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its ``__setstate__`` saves a tensor to a file as soon as torch loads it."""
    torch.jit.script(Stateful()).save(tmp_path / "plain.pt")
    marker = tmp_path / "marker"
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "net.pt", "w") as changed,
    ):
        for name in plain.namelist():
            data = plain.read(name)
            if name.endswith(".py"):
                text = data.decode()
                at = text.index("def __setstate__")
                at = text.index(":\n", text.index("->", at)) + 2
                line = f'    torch.save(torch.ones([1]), "{marker}")\n'
                data = (text[:at] + line + text[at:]).encode()
            changed.writestr(name, data)
    for command in ("inspect", "shrink"):
        assert main([command, str(tmp_path / "net.pt")]) in (0, 2)
    state = tmp_path / "net.weights.pt"
    torch.save({"w": torch.ones(3, 3)}, state)
    assert main(["inspect", str(state), "--mask", str(tmp_path / "net.pt")]) in (0, 2)
    assert not marker.exists()
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["\x1b[2Jw.weight", "\u202ew.weight", "a\ud800.weight", "a\nb.w"])
def test_names_do_not_drive_the_terminal(
    name: str, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    torch.save({"x.weight": torch.ones(2, 2)}, tmp_path / "net.pt")
    with zipfile.ZipFile(tmp_path / "net.pt") as plain:
        members = {each: plain.read(each) for each in plain.namelist()}
    raw = name.encode("utf-8", "surrogatepass")
    with zipfile.ZipFile(tmp_path / "net.pt", "w") as changed:
        for each, data in members.items():
            old = b"X\x08\x00\x00\x00x.weight"
            changed.writestr(each, data.replace(old, b"X" + len(raw).to_bytes(4, "little") + raw))
    for options in ((), ("--json",)):
        assert main(["inspect", str(tmp_path / "net.pt"), *options]) == 0
        shown = capsysbinary.readouterr().out.decode()
        assert all(line.isprintable() for line in shown.splitlines())
        assert ascii(name)[1:-1].split(".")[0] in shown.replace("\\u001b", "\\x1b")
    assert main(["shrink", str(tmp_path / "net.pt")]) == 2
    [line] = [x for x in capsysbinary.readouterr().err.decode().splitlines() if "error" in x]
    assert line.isprintable()


def test_a_set_of_weights_within_a_budget(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "net.npz", "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("w.npy", bytes(1 << 28))
    with pytest.raises(UserError, match="made to exhaust memory"):
        weights(tmp_path / "net.npz")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["inspect", "shrink", "build", "predict"])
def test_modules_of_the_current_folder_never_run(command: str, tmp_path: Path) -> None:
    model = small_model(tmp_path / "net.onnx")
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(f"open('ran', 'a').write('{name} ')\n")
    (tmp_path / "conftest").mkdir()
    line = (sys.executable, "-m", "prunedeploy", command, model.name)
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert not (tmp_path / "ran").exists()
    assert "Traceback" not in done.stderr
