"""What importing costs and needs: nothing heavy at the start, nothing optional anywhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from refused import small_model

import prunedeploy

ROOT = Path(__file__).parents[1]
FOLDERS = {"": ROOT / "prunedeploy"} | {
    f".{name}": ROOT / name for name in ("passes", "runtimes", "models")
}
HEAVY = {"torch", "numpy", "onnx", "onnx_ir", "onnxscript", "onnx_graphsurgeon", "onnxruntime"}
HEAVY |= {"rich", "safetensors", "sklearn"}
OPTIONAL = ("onnxruntime", "safetensors", "sklearn", "tensorrt", "tensorrt_rtx", "ziglang")
OPTIONAL += ("pytest", "hypothesis", "build")
OPTIONAL += ("fastapi", "starlette", "uvicorn", "httptools", "orjson", "prometheus_client")

IMPORT_ALL = """
import importlib, json, sys, traceback

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {optional!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
failed = {{}}
for name in {modules!r}:
    try:
        importlib.import_module(name)
    except Exception:
        failed[name] = traceback.format_exc(limit=-2)
print(json.dumps(failed))
"""


def submodules() -> list[str]:
    """Every module of the project by its installed name; ``__main__`` runs when imported."""
    names = []
    for package, folder in FOLDERS.items():
        for path in folder.rglob("*.py"):
            if path.parent == FOLDERS[""] / "bundle" / "device":
                continue  # programs of a device, which import one another from beside them
            parts = path.relative_to(folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            names.append(".".join((f"prunedeploy{package}", *parts)))
    return sorted(name for name in names if not name.endswith("__main__"))


def python(code: str, cwd: Path) -> str:
    """What a fresh interpreter prints for ``code``; ``-I`` keeps the checkout off its path."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def heavy_after(code: str, cwd: Path) -> set[str]:
    printed = python(f"{code}\nimport sys; print(); print(*sys.modules)", cwd)
    return {name.partition(".")[0] for name in printed.splitlines()[-1].split()} & HEAVY


@pytest.mark.parametrize(
    "code",
    [
        "import prunedeploy",
        "import prunedeploy; dir(prunedeploy); prunedeploy.UserError",
        "from prunedeploy.cli import main; assert main(['--help']) == 0",
        "from prunedeploy.cli import main; assert main(['shrink', '--help']) == 0",
        "from prunedeploy.cli import main; assert main(['--version']) == 0",
    ],
)
def test_start_imports_nothing_heavy(code: str, tmp_path: Path) -> None:
    assert heavy_after(code, tmp_path) == set()


# what a command loads before it knows that it has something to compute
LIGHT = {
    "inspect net.onnx": {"numpy", "onnx", "onnx_ir"},
    "inspect damaged.pt": {"numpy"},
    "inspect damaged.safetensors": {"numpy", "safetensors"},
    "shrink damaged.onnx": {"numpy", "onnx", "onnx_ir"},
    "build damaged.onnx": {"numpy", "onnx", "onnx_ir"},
    "lower damaged.onnx -o out.onnx": {"numpy", "onnx", "onnx_ir"},
    "predict damaged.onnx": {"numpy", "onnx", "onnx_ir"},
    "optimize damaged.onnx": {"numpy", "onnx", "onnx_ir"},
}


@pytest.mark.parametrize("command", LIGHT)
def test_what_is_refused_is_refused_before_heavy_imports(command: str, tmp_path: Path) -> None:
    model = small_model(tmp_path / "net.onnx").read_bytes()
    (tmp_path / "damaged.onnx").write_bytes(model[:-40])
    (tmp_path / "damaged.pt").write_bytes(b"PK" + model)
    header = b'{"w":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'
    (tmp_path / "damaged.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    status = 0 if "net.onnx" in command else 2
    code = f"from prunedeploy.cli import main; assert main({command.split()}) == {status}"
    assert heavy_after(code, tmp_path) <= LIGHT[command]


def test_heavy_imports_would_be_seen(tmp_path: Path) -> None:
    assert heavy_after("import prunedeploy.core.records", tmp_path) == {"numpy"}


def test_every_module_imports_without_the_extras(tmp_path: Path) -> None:
    modules = submodules()
    assert {"prunedeploy.cli", "prunedeploy.models", "prunedeploy.passes.shrink"} < set(modules)
    code = IMPORT_ALL.format(optional=set(OPTIONAL), modules=modules)
    failed = json.loads(python(code, tmp_path).splitlines()[-1])
    assert failed == {}, "\n".join(failed.values())


@pytest.mark.parametrize("name", prunedeploy.__all__)
def test_public_names_are_there(name: str) -> None:
    assert name in dir(prunedeploy)
    assert callable(getattr(prunedeploy, name))


def test_a_function_outlives_the_import_of_its_module(tmp_path: Path) -> None:
    code = "import prunedeploy, prunedeploy.measure.bench\n"
    code += "print(*map(callable, (prunedeploy.bench, prunedeploy.report, prunedeploy.export)))"
    assert python(code, tmp_path).split() == ["True"] * 3
