"""NumPy files that strangers wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import Array


def read_arrays(path: Path) -> Array | dict[str, Array]:
    """The array of a ``.npy``; those of a ``.npz`` by name.

    Raises:
        UserError: no such file, or not such a file. Headers are Python's and members zip's: what
            NumPy raises for those that are neither is of a dozen kinds.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content:
            return {name: np.asarray(content[name]) for name in content.files}
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot read {path} as .npy or .npz: {reason}") from None
