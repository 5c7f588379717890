"""Sessions on engines."""

from __future__ import annotations

from pathlib import Path

from prunedeploy.core.errors import naming_file
from prunedeploy.core.records import Engine
from prunedeploy.engines.engine_folder import read_engine
from prunedeploy.engines.request import check_threads
from prunedeploy.engines.sizes import SizesSession
from prunedeploy.runtimes.api import OpenOptions, Session
from prunedeploy.runtimes.registry import by_name as runtime_by_name


def open(engine: str | Path | Engine, threads: int = 0, *, shared: bool = False) -> Session:
    """Open a session on an engine, ready to run.

    ``with prunedeploy.open(...) as session:`` closes it at the end of the block. A session that
    nobody refers to any more is closed by itself. Of an engine for several sizes it takes inputs of
    each of them.

    Args:
        engine: an engine's folder, which is checked, or one that was read already.
        threads: how many to compute with at most; 0 leaves it to the runtime.
        shared: other sessions run in turn with this one (see ``OpenOptions``).

    Returns:
        The session; ``inputs`` and ``outputs`` say what ``run`` takes and returns.

    Raises:
        UserError: not an engine, damaged, or its runtime cannot open it.

    Example:
        >>> import numpy as np
        >>> import prunedeploy
        >>> session = prunedeploy.open("net.engine")
        >>> session.run({"input": np.zeros((1, 3, 8, 8), np.float32)})["output"].shape
        (1, 10)
        >>> session.close()
    """
    check_threads(threads)
    known = engine if isinstance(engine, Engine) else read_engine(engine)
    options = OpenOptions(threads, shared)
    with naming_file(known.path):
        if known.manifest.sizes:
            return SizesSession(known, options)
        return runtime_by_name(known.manifest.runtime).open(known, options)
