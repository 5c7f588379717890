"""Where a checkpoint lies: a file, a folder that holds one, or a repository of a hub."""

from __future__ import annotations

import os
from pathlib import Path

from prunedeploy.checkpoint import hub
from prunedeploy.core.errors import UserError

# The names that libraries give to the weights in a folder, the first that is there is taken.
NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_pytorch_model.bin",
    "model.onnx",
)
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pt2", ".tar", ".npz", ".onnx")
# What ends so is a path that was mistyped, never a repository.
FILES = (
    *SUFFIXES,
    *(".pkl", ".pickle", ".p", ".th", ".t7", ".jit", ".ts", ".torchscript", ".model", ".weights"),
    *(".h5", ".hdf5", ".keras", ".pb", ".tflite", ".pdparams", ".msgpack", ".gguf", ".mlmodel"),
    *(".npy", ".zip", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".json", ".txt", ".toml", ".yaml"),
    *(".yml", ".csv", ".md", ".py", ".html", ".ort", ".onnxtxt", ".textproto", ".prototxt"),
    *(".engine", ".plan", ".trt", ".so", ".bundle", ".log", ".out"),
)
BELOW = ("checkpoints", "weights", "onnx")  # of Lightning, ultralytics, optimum
SHOWN = 4  # files in a message


def find(given: str | Path) -> Path:
    """The file of the checkpoint or model that ``given`` names.

    Args:
        given: a file; a folder as Hugging Face's libraries, Lightning or ultralytics write it; or a
            repository of the Hugging Face hub, ``owner/name`` or ``owner/name@revision``.

    Returns:
        The file; of weights in several files their index. What is no folder and no repository is
        returned as it is.

    Raises:
        UserError: the folder or the repository has no checkpoint, or several.
        MissingExtra: a repository, and no huggingface_hub.
    """
    path = Path(given)
    if path.is_dir():
        return _in_folder(path)
    if not path.exists() and (repository := hub.parse(str(given), FILES)) is not None:
        return hub.find(repository, NAMES)
    return path


def name_of(given: str | Path) -> str:
    """What the results of a checkpoint are called after: ``net`` of ``net.pt`` and of ``net/``."""
    path = Path(given)
    is_file = path.is_file() or path.suffix in SUFFIXES
    return path.stem if is_file else Path(os.path.realpath(path)).name.partition("@")[0]


def _in_folder(folder: Path) -> Path:
    for name in NAMES:
        if (folder / name).is_file():
            return folder / name
    for inside in (folder, *(folder / name for name in BELOW)):
        files = sorted(x for x in inside.glob("*") if x.suffix in SUFFIXES and x.is_file())
        if len(files) == 1:
            return files[0]
        if files:
            shown = ", ".join(file.name for file in files[:SHOWN])
            more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
            raise UserError(f"{inside} holds several checkpoints ({shown}{more}): name the file")
    raise UserError(f"{folder} is a folder without a checkpoint: name the file itself")
