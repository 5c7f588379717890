"""Reference networks under the parameter names of the public implementations. No weights."""

from __future__ import annotations

import difflib

from prunedeploy.core.errors import UserError
from prunedeploy.models import (
    cifar_resnet,
    densenet,
    grasp_resnet,
    mobilenet_v1,
    mobilenet_v2,
    resnet,
    squeezenet,
    vgg,
    wide_resnet,
)
from prunedeploy.models._fit import Shapes, fit
from prunedeploy.models._recipe import Recipe

__all__ = ["RECIPES", "Recipe", "by_name", "fit", "nearest", "recognise"]

RECIPES: tuple[Recipe, ...] = (
    *resnet.RECIPES,
    *vgg.RECIPES,
    *mobilenet_v1.RECIPES,
    *mobilenet_v2.RECIPES,
    *densenet.RECIPES,
    *squeezenet.RECIPES,
    *cifar_resnet.RECIPES,
    *wide_resnet.RECIPES,
    *grasp_resnet.RECIPES,
)


def by_name(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        UserError: there is none; the message gives the nearest names.
    """
    recipes = {recipe.name: recipe for recipe in RECIPES}
    if recipe := recipes.get(name):
        return recipe
    near = difflib.get_close_matches(name, recipes, n=3) or sorted(recipes)
    raise UserError(
        f"no network is called {name!r}: use {', '.join(near)}, or your own as pkg.module:factory"
    )


def recognise(shapes: Shapes) -> Recipe | None:
    """The recipe that has exactly the parameter names of ``shapes`` (a state_dict's), or None.

    ``num_batches_tracked``, which old checkpoints lack, and ``normalize.*`` do not count. Of
    several with the same names, the one with the fewest differing kernels, then for images of as
    many channels, then with the fewest differing shapes: widths alone do not exclude a network, as
    the checkpoint may be shrunk already.
    """
    same = []
    for recipe in RECIPES:
        given = _counted(recipe, shapes)
        layout = recipe.layout()
        if given.keys() == layout.keys():
            kernels = sum(given[name][2:] != shape[2:] for name, shape in layout.items())
            images = recipe.input_for(shapes)[0] != recipe.input_shape[0]
            differing = sum(given[name] != shape for name, shape in layout.items())
            same.append((kernels, images, differing, recipe))
    return min(same, key=lambda row: row[:3])[3] if same else None


def nearest(shapes: Shapes) -> tuple[Recipe, tuple[str, ...], tuple[str, ...]]:
    """The recipe with the most names in common, and which are missing and unexpected for it."""

    def differing(recipe: Recipe) -> int:
        return len(_counted(recipe, shapes).keys() ^ recipe.layout().keys())

    recipe = min(RECIPES, key=differing)
    given, layout = _counted(recipe, shapes), recipe.layout()
    missing = tuple(name for name in layout if name not in given)
    return recipe, missing, tuple(name for name in given if name not in layout)


def _counted(recipe: Recipe, shapes: Shapes) -> Shapes:
    return {
        name: shape
        for name, shape in recipe.canonical(shapes).items()
        if not name.endswith("num_batches_tracked") and not name.startswith("normalize.")
    }
