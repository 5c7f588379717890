"""Load a trained checkpoint of any common form as a torch module that computes what it means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunedeploy.checkpoint import shards
from prunedeploy.checkpoint.location import find, name_of
from prunedeploy.checkpoint.sniff import Kind, kind
from prunedeploy.core import files
from prunedeploy.core.errors import UserError, naming_file

if TYPE_CHECKING:
    from torch import Tensor, nn

    from prunedeploy.checkpoint.naming import LeftOut
    from prunedeploy.checkpoint.state import Normalised
    from prunedeploy.models import Recipe

__all__ = ["Checkpoint", "Kind", "find", "kind", "load", "name_of", "screen", "weights"]

TRUST_PROGRAM = " without running its program: pass --trust if you trust its origin"
SMALL = 1 << 26  # bytes of a file
MARKED = 0.05  # difference in the share of zeros from which two sets of weights are told apart


@dataclass(frozen=True)
class Checkpoint:
    """A trained network, and what the file held.

    ``module`` is in eval mode, in float32 or float64 on the CPU, masks applied. ``arch`` is the
    name of the recipe, the user's factory as it was named, ``"torch.export"``, ``"torchscript"``
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
    path: str | Path,
    arch: str | None = None,
    trust: bool = False,
    mask: str | Path | None = None,
    weights: str | None = None,
    prefix: str | None = None,
) -> Checkpoint:
    """Read the checkpoint at ``path`` without running any code of its own.

    Args:
        path: torch.save (zip or legacy format), a plain pickle, safetensors, a NumPy archive,
            torch.export or TorchScript; the index of weights in several files; a folder with one of
            these, or ``owner/name`` of the Hugging Face hub (see ``location``).
        arch: a recipe's name; or ``pkg.module:factory`` or ``path/file.py:factory``, a function or
            class of the user that makes the network; by default recognised from the names of the
            parameters.
        trust: allow the file to run code while it is loaded.
        mask: a file of masks by parameter name.
        weights: which of several sets of weights in the file: the key that it is under, or what the
            names of its tensors begin with.
        prefix: take the tensors alone whose names begin with it, as ``backbone.``, without it.

    Returns:
        The network with its weights, masks applied, and what was found in the file.

    Raises:
        UserError: the file cannot be read, needs code to run and is not trusted, holds weights
            that are none, masks whose meaning is not certain, several sets of weights and no way to
            tell which, or belongs to a network that is not known.
        MissingExtra: a safetensors file, and no safetensors.

    Example:
        >>> import prunedeploy
        >>> checkpoint = prunedeploy.load("resnet20.pt")
        >>> checkpoint.arch, checkpoint.input_shape
        ('resnet20', (1, 3, 32, 32))
    """
    path = find(path)
    what = kind(path)
    digest = files.sha256(*(shards.files(path) if what == "shards" else [path]))
    # the program in the file is what is wanted
    as_stored = arch is None and mask is None and weights is None and prefix is None
    if what == "pt2" and trust and as_stored:
        from prunedeploy.checkpoint import program

        module, shape = program.load_exported(path)
        return Checkpoint(
            path, digest, module, "torch.export", shape, None, ("torch.export program",)
        )
    if what == "torchscript" and trust and as_stored:
        return _script(path, digest)
    own = arch is None and mask is None
    read, whole = _read(path, what, trust, mask, (weights, prefix), own)
    from prunedeploy.checkpoint import factory, network, selection, state

    notes = read.notes
    with naming_file(path):
        state.check_finite(read.state)
        if whole is not None:
            return Checkpoint(path, digest, whole, "pickled module", None, None, tuple(notes))
        if arch is not None and ":" in arch:
            module, more = factory.from_factory(arch, read)
            return Checkpoint(path, digest, module, arch, None, None, (*notes, *more))
        read.refuse_doubts()
        notes += filter(None, [selection.expand(read.state), network.linear_head(read.state)])
        recipe = network.recipe_for(arch, read.state, "" if trust else _or_trust(what, notes))
        module, shape, left = network.from_recipe(recipe, read.state)
    notes += [left] if left else []
    return Checkpoint(path, digest, module, recipe.name, shape, recipe, tuple(notes))


def weights(
    path: str | Path,
    trust: bool = False,
    mask: str | Path | None = None,
    name: str | None = None,
    prefix: str | None = None,
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The weights alone, masks applied, under the names of the file; and what it held.

    NaN is let through, and channel selections (``indexes``) stay as they are. ``name`` says which
    of several sets, ``prefix`` what the names of the tensors to take begin with.

    Raises:
        UserError: as ``load``, but for the network.
    """
    path = find(path)
    read, _ = _read(path, kind(path), trust, mask, (name, prefix), False)
    with naming_file(path):
        read.refuse_doubts()
    return read.state, tuple(read.notes)


def screen(path: str | Path, name: str | None = None, prefix: str | None = None) -> None:
    """Refuse a small checkpoint for what can be seen without torch.

    For who imports much before it is read: a small file is read twice in less time than that takes.

    Raises:
        UserError: as ``weights``.
    """
    path = find(path)
    if path.is_file() and path.stat().st_size < SMALL and (what := kind(path)) != "onnx":
        _surveyed(path, what, False, (name, prefix))


def _read(
    path: Path,
    what: Kind,
    trust: bool,
    mask: str | Path | None,
    part: tuple[str | None, str | None],
    own: bool,
) -> tuple[Normalised, nn.Module | None]:
    """The weights; and, of a trusted file, its own module with the masks applied, if ``own``.

    ``part`` is the name of the set and the prefix of the names that are wanted.
    """
    from prunedeploy.checkpoint.read import DESCRIPTIONS, constants, readable

    tree = _surveyed(path, what, trust, part)
    masks = None if mask is None else _surveyed_masks(Path(mask), trust)
    from torch import Tensor

    from prunedeploy.checkpoint import beside, factory, state
    from prunedeploy.checkpoint.tree import find_weights, origins_of
    from prunedeploy.checkpoint.walk import collect

    with readable(path), naming_file(path):  # a damaged pickle may still be read, as nonsense
        held = find_weights(tree, part[0], _otherwise(what), part[1])
        whole = held.module if own else None
        candidates = collect(tree, held, own=whole is None)
        candidates += collect({"constants of the program": constants(path, what)})
        candidates = beside.without_left_out(candidates, held.left)
        origins = origins_of(held.holder)
    left_out = held.left
    tensors, notes, others = held.tensors, held.notes, held.others
    del tree, held  # what is masked is not to be in memory twice
    with naming_file(path):
        if whole is not None:
            whole = factory.from_pickle(whole)
            own_state = whole.state_dict().items()  # which may hold anything besides
            done = state.Normalised({k: v for k, v in own_state if isinstance(v, Tensor)})
            applied = beside.apply(done.state, candidates)
            whole.load_state_dict(done.state, strict=False)
            done.notes += applied.notes
        else:
            done = state.normalise(tensors, candidates, origins)
        left = [_other(keys, holder, done.state) for keys, holder in others.items()]
    program = ["its program not run: the weights alone"] if what == "torchscript" else []
    done.notes = [DESCRIPTIONS[what], *program, *notes, *left, *done.notes]
    if mask is not None:
        _apply_mask_file(done, Path(mask), masks, left_out)
    return done, whole


def _surveyed(path: Path, what: Kind, trust: bool, part: tuple[str | None, str | None]) -> Any:
    """What the file holds; refused, where it is, before what needs torch is imported."""
    from prunedeploy.checkpoint import survey
    from prunedeploy.checkpoint.read import read, readable

    tree = read(path, what, trust)
    if not trust:
        with readable(path), naming_file(path):
            survey.refuse(tree, _otherwise(what), whole=part == (None, None))
    return tree


def _surveyed_masks(path: Path, trust: bool) -> Any:
    from prunedeploy.checkpoint import survey
    from prunedeploy.checkpoint.read import read, readable

    tree = read(path, kind(path), trust)
    if not trust:
        with readable(path), naming_file(path):
            survey.refuse_masks(tree, f"in {path.name}")
    return tree


def _otherwise(what: Kind) -> str:
    return TRUST_PROGRAM if what == "torchscript" else ""


def _other(keys: tuple[str, ...], holder: Any, chosen: Mapping[str, Tensor]) -> str:
    """A set of weights that is left out, in words."""
    from prunedeploy.checkpoint import state, tree

    line = f"another set of weights left out (under {tree.keys(keys)})"
    try:
        theirs = state.zero_share(state.normalise(tree.tensors_of(holder) or {}).state)
    except UserError:
        return line
    ours = state.zero_share(chosen)
    if abs(ours - theirs) < MARKED:
        return line
    return f"{line}: {theirs:.0%} of its weights are zero, {ours:.0%} of those taken"


def _apply_mask_file(done: Normalised, path: Path, tree: Any, left: LeftOut | None) -> None:
    from prunedeploy.checkpoint import beside
    from prunedeploy.checkpoint.read import readable

    with readable(path), naming_file(path):
        applied = beside.apply_file(done.state, tree, f"in {path.name}", left)
    done.settle(applied)
    done.notes += applied.notes


def _script(path: Path, digest: str) -> Checkpoint:
    """A trusted TorchScript program; in the place of a known network's, that network, once it is
    seen to compute the same, because a plain module can be exported and a script cannot."""
    from prunedeploy.checkpoint import network, program

    script = program.load_torchscript(path)
    notes = ["TorchScript program"]
    try:
        read, _ = _read(path, "torchscript", False, None, (None, None), False)
        read.refuse_doubts()
        recipe = network.recipe_for(None, read.state)
        module, shape, _ = network.from_recipe(recipe, read.state)
    except UserError:
        return Checkpoint(path, digest, script, "torchscript", None, None, tuple(notes))
    if not network.same_outputs(script, module, shape):
        notes.append(f"parameter names of {recipe.name}, other outputs")
        return Checkpoint(path, digest, script, "torchscript", None, None, tuple(notes))
    notes.append(f"computes the same as {recipe.name}")
    return Checkpoint(path, digest, module, recipe.name, shape, recipe, tuple(notes))


def _or_trust(what: Kind, notes: list[str]) -> str:
    """Further advice where the network is not recognised: the file's own program may be run."""
    own = what in ("pt2", "torchscript")
    if own or any(line.startswith("whole pickled module") for line in notes):
        return ", or pass --trust if you trust its origin: the file's own network runs code"
    return ""
