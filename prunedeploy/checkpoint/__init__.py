"""Load a trained checkpoint of any common form as a torch module that computes what it means."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunedeploy import files
from prunedeploy.checkpoint.sniff import Kind, kind
from prunedeploy.errors import MissingExtra, UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from prunedeploy.models import Recipe

__all__ = ["Checkpoint", "Kind", "kind", "load", "weights"]


@dataclass(frozen=True)
class Checkpoint:
    """A trained network, and what the file held.

    ``module`` is in eval mode, in float32 or float64 on the CPU, masks applied. ``arch`` is the
    name of the recipe, the user's ``pkg.module:factory``, ``"torch.export"``, ``"torchscript"``
    or ``"pickled module"``. ``input_shape`` is (1, C, H, W) where it is known.
    """

    path: Path
    sha256: str
    module: nn.Module
    arch: str | None
    input_shape: tuple[int, ...] | None
    recipe: Recipe | None
    found: tuple[str, ...]


def load(
    path: str | Path, arch: str | None = None, trust: bool = False, mask: str | Path | None = None
) -> Checkpoint:
    """Read the checkpoint at ``path`` without running any code of its own.

    Args:
        path: torch.save (zip or legacy format), a plain pickle, safetensors, a NumPy archive,
            torch.export or TorchScript.
        arch: a recipe's name, or ``pkg.module:factory``, a function or class of the user that
            makes the network; by default recognised from the names of the parameters.
        trust: allow the file to run code while it is loaded.
        mask: a file of masks by parameter name.

    Raises:
        UserError: the file cannot be read, needs code to run and is not trusted, holds weights
            that are none, or belongs to a network that is not known.
        MissingExtra: a safetensors file, and no safetensors.
    """
    from prunedeploy.checkpoint import network, program, selection, state

    path = Path(path)
    what = kind(path)
    digest = files.sha256(path)
    as_stored = arch is None and mask is None  # the program in the file is what is wanted
    if what == "pt2" and trust and as_stored:
        module, shape = program.load_exported(path)
        found: list[str] = ["torch.export program"]
        return Checkpoint(path, digest, module, "torch.export", shape, None, tuple(found))
    if what == "torchscript" and as_stored:
        return _script(path, digest, trust)
    tensors, found, whole = _weights(path, what, trust, mask)
    with _naming(path):
        state.check_finite(tensors)
        if whole is not None and as_stored:
            module = network.from_pickle(whole)
            return Checkpoint(path, digest, module, "pickled module", None, None, tuple(found))
        if arch is not None and ":" in arch:
            module, notes = network.from_factory(arch, tensors)
            found += notes
            return Checkpoint(path, digest, module, arch, None, None, tuple(found))
        found += filter(None, [selection.expand(tensors), network.linear_head(tensors)])
        recipe = network.recipe_for(arch, tensors, "" if trust else _or_trust(what, found))
        module, shape = network.from_recipe(recipe, tensors)
    return Checkpoint(path, digest, module, recipe.name, shape, recipe, tuple(found))


def weights(
    path: str | Path, trust: bool = False, mask: str | Path | None = None
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The weights alone, masks applied, under the names of the file; and what it held.

    NaN is let through, and channel selections (``indexes``) stay as they are.

    Raises:
        UserError: as ``load``, but for the network.
    """
    tensors, found, _ = _weights(Path(path), kind(path), trust, mask)
    return tensors, tuple(found)


def _weights(
    path: Path, what: Kind, trust: bool, mask: str | Path | None
) -> tuple[dict[str, Tensor], list[str], nn.Module | None]:
    """The weights, what was found, and the whole module of a trusted file."""
    from prunedeploy.checkpoint import state
    from prunedeploy.checkpoint.read import FOUND, read, readable
    from prunedeploy.checkpoint.tree import find_weights

    tree = read(path, what, trust)
    with readable(path), _naming(path):  # a damaged pickle may still be read, as nonsense
        holder = find_weights(tree)
    del tree
    with _naming(path):
        tensors, found = state.normalise(holder.tensors, holder.masks)
    found = [FOUND[what], *holder.found, *found]
    if mask is not None:
        found.append(_apply_mask_file(tensors, Path(mask), trust))
    return tensors, found, holder.module


def _apply_mask_file(tensors: dict[str, Tensor], path: Path, trust: bool) -> str:
    from prunedeploy.checkpoint import masks, state
    from prunedeploy.checkpoint.read import read, readable
    from prunedeploy.checkpoint.tree import as_tensor, find_weights

    tree: Any = read(path, kind(path), trust)
    where = f"in {path.name}"
    with readable(path), _naming(path):
        if isinstance(tree, list | tuple):
            return masks.apply_list(tensors, [as_tensor(m) for m in tree], where)
        return masks.apply(tensors, state.unwrapped(find_weights(tree).tensors), where)


def _script(path: Path, digest: str, trust: bool) -> Checkpoint:
    """A TorchScript program; in the place of a known network's, that network, once it is seen to
    compute the same, because a plain module can be exported and a script cannot."""
    from prunedeploy.checkpoint import network, program

    script = program.load_torchscript(path, trust)
    found = ["TorchScript program"]
    try:
        tensors, _, _ = _weights(path, "torchscript", False, None)
        recipe = network.recipe_for(None, tensors)
        module, shape = network.from_recipe(recipe, tensors)
    except UserError:
        return Checkpoint(path, digest, script, "torchscript", None, None, tuple(found))
    if not network.same_outputs(script, module, shape):
        found.append(f"parameter names of {recipe.name}, other outputs")
        return Checkpoint(path, digest, script, "torchscript", None, None, tuple(found))
    found.append(f"computes the same as {recipe.name}")
    return Checkpoint(path, digest, module, recipe.name, shape, recipe, tuple(found))


def _or_trust(what: Kind, found: list[str]) -> str:
    """What else could help where the network is not recognised: the program in the file."""
    if what == "pt2" or any(line.startswith("whole pickled module") for line in found):
        return ", or pass --trust if you trust its origin: the file's own network runs code"
    return ""


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file's name in front of an error about what is in it."""
    try:
        yield
    except MissingExtra:
        raise
    except UserError as error:
        raise UserError(f"{path}: {error}") from error.__cause__
