"""The wheel, built for real: what is in it, and that it does the main job in an empty environment.

A package that ``pyproject.toml`` does not list imports from a checkout all the same and is missing
from the wheel only; nothing but this sees it.
"""

from __future__ import annotations

import configparser
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
INSTALLED = {
    "prunedeploy": "prunedeploy",
    "passes": "prunedeploy/passes",
    "runtimes": "prunedeploy/runtimes",
    "models": "prunedeploy/models",
}
CHECKPOINT = ROOT / "examples" / "digits" / "resnet56_digits_sparse.pt"
NOT_SOURCES = (".git", ".venv", ".ci-venv", "__pycache__", "*.egg-info", "build", "dist", "out")


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTHON")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: setuptools takes along what an older ``build/`` holds."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT, source, symlinks=True, ignore=shutil.ignore_patterns(*NOT_SOURCES))
    command = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder)
    done = run(*command, source, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def read(wheel: Path, name: str) -> str:
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (n for n in archive.namelist() if n.endswith(f".dist-info/{name}"))
        return archive.read(path).decode()


@pytest.mark.parametrize("folder", INSTALLED)
def test_every_module_is_in_the_wheel(folder: str, names: set[str]) -> None:
    sources = [p.relative_to(ROOT / folder).as_posix() for p in (ROOT / folder).rglob("*.py")]
    assert "__init__.py" in sources
    missing = {f"{INSTALLED[folder]}/{source}" for source in sources} - names
    assert missing == set(), "list their package in pyproject.toml"


def test_nothing_else_is_in_the_wheel(names: set[str]) -> None:
    sources = {
        f"{installed}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, installed in INSTALLED.items()
        for path in (ROOT / folder).rglob("*.py")
    }
    extra = {name for name in names - sources if ".dist-info/" not in name}
    kernels = {path.name for path in (ROOT / "runtimes" / "sparse" / "c").iterdir()}
    data = {f"prunedeploy/runtimes/sparse/c/{name}" for name in kernels}
    ops = {path.name for path in (ROOT / "runtimes" / "hybrid" / "c").iterdir()}
    data |= {f"prunedeploy/runtimes/hybrid/c/{name}" for name in ops}
    device = (ROOT / "prunedeploy" / "bundle" / "device").glob("*.[cs]*")
    data |= {f"prunedeploy/bundle/device/{path.name}" for path in device}
    assert extra == {"prunedeploy/py.typed", *data}


def test_metadata(wheel: Path, names: set[str]) -> None:
    metadata = Parser().parsestr(read(wheel, "METADATA"))
    assert metadata["License-Expression"] == "Apache-2.0 AND MIT"
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert "Apache License" in read(wheel, "licenses/LICENSE")
    assert "Microsoft" in read(wheel, "licenses/runtimes/hybrid/c/LICENSE.onnxruntime")
    assert {"cpu", "gpu", "tensorrt", "rtx", "cross", "test", "dev"} <= set(
        metadata.get_all("Provides-Extra", [])
    )


def test_entry_point(wheel: Path) -> None:
    entries = configparser.ConfigParser()
    entries.read_string(read(wheel, "entry_points.txt"))
    assert dict(entries["console_scripts"]) == {"prunedeploy": "prunedeploy.cli:main"}


def test_constraints_pin_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["cpu"], *extras["demo"], *extras["test"]]
    wanted += [*extras["dev"], *extras["docs"]]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert {requirement.split(">=")[0] for requirement in wanted} - set(pins) == set()
    assert "+" not in pins["torch"]  # a local version is on no public index


@pytest.mark.slow
def test_main_job_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """Only the ``cpu`` extra: what the demo and the tests bring along must not be needed."""
    environment = tmp_path / "environment"
    assert run(sys.executable, "-m", "venv", environment, cwd=tmp_path).returncode == 0
    python = environment / "bin" / "python"
    pip = (python, "-m", "pip", "install", "-c", ROOT / "constraints.txt")
    if run(*pip, "--retries", "0", "--no-deps", "mdurl", cwd=tmp_path).returncode != 0:
        pytest.skip("pip reaches no package index")
    done = run(*pip, f"{wheel}[cpu]", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert run(python, "-c", "import sklearn", cwd=tmp_path).returncode == 1

    command = environment / "bin" / "prunedeploy"
    for arguments in (
        ("shrink", CHECKPOINT, "-o", "digits.onnx"),
        ("build", "-o", "engine"),
        ("bench", "engine", "--rounds", "3", "-o", "result.json"),
    ):
        done = run(command, *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["candidates"][0]["difference"]["max_rel"] <= 1e-5
