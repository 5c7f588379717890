"""Engines as models in a repository of NVIDIA's Triton inference server: files, and no more.

    repo/NAME/config.pbtxt
    repo/NAME/1/model.onnx | model.plan | model.py and engine.so

The protobuf schema of ``config.pbtxt`` is Triton's ``model_config.proto``.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prunedeploy.core.errors import OutputError, UserError, naming_file
from prunedeploy.core.files import atomic_directory
from prunedeploy.core.records import Engine, TensorSpec
from prunedeploy.core.text import printable
from prunedeploy.engines import engine_folder
from prunedeploy.engines.sizes import refuse_several
from prunedeploy.graph.external_data import check_listed
from prunedeploy.runtimes.api import listed_hash
from prunedeploy.runtimes.hybrid.placement import OP_LIBRARY
from prunedeploy.runtimes.ort.cpu import DATA, PAYLOAD
from prunedeploy.serving.names import model_name
from prunedeploy.serving.onnxruntime_op import onnxruntime_library, onnxruntime_model

Backend = Literal["auto", "python", "onnxruntime"]

CONFIG, VERSION = "config.pbtxt", "1"
MAX_BATCH = 64  # for engines that take batches of any size
BITS = (8, 16, 32, 64)
TEMPLATE = Path(__file__).with_name("triton_model.py")

DTYPES = {
    **{f"{kind}{bits}": f"TYPE_{kind.upper()}{bits}" for kind in ("uint", "int") for bits in BITS},
    "bool": "TYPE_BOOL",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    "bfloat16": "TYPE_BF16",
}

ACCELERATOR = """\
optimization {
  execution_accelerators {
    gpu_execution_accelerator { name: "tensorrt" }
  }
}
"""


@dataclass(frozen=True)
class Model:
    """How engines of one runtime are served: Triton's backend, the device kind, the files."""

    backend: str  # the line of the configuration
    kind: str
    write: Callable[[Engine, Path], None]  # its files into the folder of a version
    needs: tuple[str, ...]  # files that the engine's manifest must have the hashes of
    more: str = ""


def _payload(engine: Engine, folder: Path) -> None:
    if PAYLOAD in engine.manifest.files:
        try:  # the server would read whatever it names
            check_listed(engine.path / PAYLOAD, engine.manifest.files)
        except ValueError as error:
            raise UserError(f"{engine.path / PAYLOAD} is not ONNX: {error}") from None
    for name in engine.manifest.files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(engine.path / name, folder / name)


def _python(engine: Engine, folder: Path) -> None:
    shutil.copyfile(engine.path / "model.so", folder / "engine.so")
    shutil.copyfile(TEMPLATE, folder / "model.py")


def _hybrid(engine: Engine, folder: Path) -> None:
    for name in (PAYLOAD, DATA, OP_LIBRARY):
        if name in engine.manifest.files:
            shutil.copyfile(engine.path / name, folder / name)


def _custom_op(engine: Engine, folder: Path) -> None:
    onnxruntime_model(engine, folder / "model.onnx")
    shutil.copyfile(onnxruntime_library(engine.manifest.target), folder / OP_LIBRARY)


ONNX, PLAN = 'platform: "onnxruntime_onnx"', 'platform: "tensorrt_plan"'
MODELS: dict[tuple[str, Backend], Model] = {
    ("ort", "auto"): Model(ONNX, "KIND_CPU", _payload, (PAYLOAD,)),
    ("ort-cuda", "auto"): Model(ONNX, "KIND_GPU", _payload, (PAYLOAD,)),
    ("ort-tensorrt", "auto"): Model(ONNX, "KIND_GPU", _payload, (PAYLOAD,), ACCELERATOR),
    ("tensorrt", "auto"): Model(PLAN, "KIND_GPU", _payload, ("model.plan",)),
    ("hybrid", "auto"): Model(ONNX, "KIND_CPU", _hybrid, (PAYLOAD, OP_LIBRARY)),
    ("sparse", "auto"): Model('backend: "python"', "KIND_CPU", _python, ("model.so",)),
    ("sparse", "python"): Model('backend: "python"', "KIND_CPU", _python, ("model.so",)),
    ("sparse", "onnxruntime"): Model(ONNX, "KIND_CPU", _custom_op, ("model.so",)),
}


def serve_repo(
    engine: str | Path | Engine,
    output: str | Path,
    *,
    name: str = "",
    backend: Backend = "auto",
    mount: str = "",
) -> Path:
    """Put an engine into a Triton model repository: ``tritonserver --model-repository OUTPUT``.

    An engine of TensorRT takes a server with the very version it was built with; a sparse one runs
    under Triton's python backend, or in its ONNX Runtime with the custom op.

    Args:
        engine: an engine's folder, or one that was read.
        output: the repository, made where there is none; other models in it stay.
        name: of the model; the engine's where empty.
        backend: for sparse engines, "python" or "onnxruntime".
        mount: where the server sees ``output``, if elsewhere than here, as in a container.

    Returns:
        The model's folder.

    Raises:
        UserError: Triton has nothing for this engine, a file of it is in no hash of its manifest,
            or there is a model of that name.

    Example:
        >>> import prunedeploy
        >>> folder = prunedeploy.serve_repo("net.engine", "repository", name="net")
        >>> sorted(path.name for path in folder.iterdir())
        ['1', 'config.pbtxt']
    """
    known = engine if isinstance(engine, Engine) else engine_folder.read_engine(engine)
    refuse_several(known, "Triton")
    with naming_file(known.path):
        return _serve_repo(known, Path(output), name, backend, mount)


def _serve_repo(known: Engine, repository: Path, name: str, backend: Backend, mount: str) -> Path:
    runtime = known.manifest.runtime
    model = MODELS.get((runtime, backend))
    if model is None:
        if backend != "auto" and (runtime, "auto") in MODELS:
            raise UserError(f"backend {backend} is for sparse engines, this is one of {runtime}")
        raise UserError(f"Triton has no backend for engines of {runtime}: build with ort or sparse")
    title = model_name(known, name)
    path = repository / title
    if path.exists() or path.is_symlink():
        raise UserError(f"{path} is there already: give another --name, or remove it")
    for needed in model.needs:
        listed_hash(known, needed)
    text = _config(known, title, model, f"{mount or os.path.realpath(repository)}/{title}")
    made = not repository.exists()
    try:
        repository.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {repository}: {error.strerror or error}") from None
    try:
        with atomic_directory(path) as folder:
            (folder / VERSION).mkdir()
            model.write(known, folder / VERSION)
            (folder / CONFIG).write_text(text)
    except BaseException:
        if made:
            with suppress(OSError):  # somebody has put another model into it
                repository.rmdir()
        raise
    return path


def _config(engine: Engine, name: str, model: Model, path: str) -> str:
    """The text of config.pbtxt."""
    manifest = engine.manifest
    max_batch = _max_batch_size(engine)
    lines = [
        printable(
            f"# engine {engine.sha256[:16]} of {manifest.runtime} for {manifest.target}, built "
            + "with "
            + ", ".join(f"{key} {value}" for key, value in sorted(manifest.versions.items()))
        ),
        f"name: {_string(name)}",
        model.backend,
        f"max_batch_size: {max_batch}",
        *(_tensor("input", spec, max_batch) for spec in manifest.inputs),
        *(_tensor("output", spec, max_batch) for spec in manifest.outputs),
        f"instance_group {{ count: 1 kind: {model.kind} }}",
    ]
    if max_batch > 1:
        sizes = [size for size in manifest.batches if 1 < size <= max_batch]
        lines.append(f"dynamic_batching {{ preferred_batch_size: [{_list(sizes)}] }}")
    if model.more:
        lines.append(model.more.rstrip())
    if model.write in (_custom_op, _hybrid):
        library = _string(f"{path}/{VERSION}/{OP_LIBRARY}")
        lines.append(f"model_operations {{ op_library_filename: {library} }}")
    lines.append(_parameter("prunedeploy.engine", engine.sha256))
    if model.write is _python:
        lines.append(_parameter("threads", str(manifest.threads)))
    return "\n".join(lines) + "\n"


def _max_batch_size(engine: Engine) -> int:
    """Triton's ``max_batch_size``: 0 where the first axis is not the batch."""
    manifest = engine.manifest
    specs = (*manifest.inputs, *manifest.outputs)
    if not all(spec.shape and isinstance(spec.shape[0], str) for spec in specs):
        return 0
    if manifest.runtime in ("sparse", "hybrid") and 1 not in manifest.batches:
        sizes = ", ".join(map(str, manifest.batches))
        raise UserError(
            f"{engine.path} was built for batches of {sizes}, and a server gets single samples: "
            f"build it with --batch 1,{sizes.replace(' ', '')}"
        )
    return max(manifest.batches, default=MAX_BATCH)


def _tensor(what: str, spec: TensorSpec, max_batch: int) -> str:
    if spec.dtype not in DTYPES:
        raise UserError(f"Triton has no type for {spec.name!r}, which is {spec.dtype}")
    dims = [dim if isinstance(dim, int) else -1 for dim in spec.shape]
    dims = dims[1:] if max_batch else dims
    # a tensor without axes of its own has one of length 1 for Triton
    shape = f"dims: [{_list(dims)}]" if dims else "dims: [1] reshape { shape: [] }"
    return f"{what} {{ name: {_string(spec.name)} data_type: {DTYPES[spec.dtype]} {shape} }}"


def _parameter(key: str, value: str) -> str:
    return f"parameters {{ key: {_string(key)} value {{ string_value: {_string(value)} }} }}"


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
