"""The C sources of a sparse engine, for whoever compiles them without prunedeploy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prunedeploy import targets
from prunedeploy.core.errors import OutputError, UserError, naming_file
from prunedeploy.core.files import atomic_directory
from prunedeploy.core.log import logged
from prunedeploy.engines import sources
from prunedeploy.engines.request import Progress, build_options
from prunedeploy.graph.fixed_shapes import sized
from prunedeploy.graph.several_sizes import AllSizes, each_size, stated_names
from prunedeploy.runtimes.api import Tuning


def emit_c(
    model: str | Path | None = None,
    target: str = "host",
    output: str | Path | None = None,
    progress: Progress | None = None,
    *,
    batch: int | Sequence[int] = (),
    threads: int = 0,
    tune: Tuning = "quick",
    shapes: AllSizes | None = None,
) -> Path:
    """Write the C project that a sparse engine is compiled from; arguments are those of ``build``.

    Returns:
        Its folder, ``<model>.<target>.c`` in the current one where ``output`` is None. Of several
        sizes it has a project for each.

    Raises:
        UserError: as ``build``; there is something at ``output`` already.

    Example:
        >>> import prunedeploy
        >>> folder = prunedeploy.emit_c("net.onnx", tune="none")
        >>> folder.name, (folder / "Makefile").is_file()
        ('net.host.c', True)
    """
    from prunedeploy.runtimes.sparse.engine import Sparse

    progress = logged(progress)
    options = build_options(batch, threads, tune, progress)
    source = sources.model_file(model, progress)
    machine = targets.by_name(target)
    if "sparse" not in machine.runtimes:
        runtimes = ", ".join(machine.runtimes)
        raise UserError(f"{machine.name} cannot have sparse: it takes {runtimes}")
    project = Path(output or f"{source.stem}.{machine.name}.c")
    if project.exists() or project.is_symlink():
        raise OutputError(f"cannot write {project}: it is there already; name another or remove it")
    progress(f"writing {project}")
    sizes = each_size(shapes)
    with naming_file(source), atomic_directory(project) as folder:
        for each, name in zip(sizes, stated_names(sizes), strict=True):
            (folder / name).mkdir(exist_ok=True)
            with sized(source, each) as file:
                Sparse().emit(file, machine, folder / name, options)
    return project
