"""Names of models in servers."""

from __future__ import annotations

import os
import re
from pathlib import Path

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Engine


def model_name(engine: Engine, name: str = "") -> str:
    """``name`` where it can name a model in a path and a URL; by default the engine's folder's.

    Raises:
        UserError: ``name`` has other characters than letters, digits, ``_``, ``.`` and ``-``.
    """
    title = name or re.sub(r"[^A-Za-z0-9_.-]", "_", Path(os.path.realpath(engine.path)).name)
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", title):
        raise UserError(f"{title!r} is no name for a model: give one of letters and digits")
    return title
