"""Modules of the current folder: for the code that the user named, and for nothing else.

``--arch mymodule:factory`` and the classes in a trusted file may lie in the current folder, with
other modules that they import; ``--arch nets/mine.py:factory`` in the folder of that file. Were the
folder on ``sys.path``, a file ``numpy.py`` in it would run as soon as any library imports that
name. So a finder answers for the folder, and only where it is code of the folder, or we on the
user's behalf, that imports.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import FrameType, ModuleType

# Whose own imports count as the user's while ``asked`` lasts: ours, and those of unpickling.
ASKING = ("prunedeploy.checkpoint.", "torch.serialization")


class _Finder(MetaPathFinder):
    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.asked = 0
        self._names: set[str] = set()  # modules of the folder, whose imports are looked up there

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,  # noqa: ARG002 - the protocol has it
    ) -> ModuleSpec | None:
        """The module in the folder, where it is asked for from there."""
        if path is not None or not self._is_for(sys._getframe(1)):
            return None
        spec = PathFinder.find_spec(fullname, [self.folder])
        if spec is None or (spec.loader is None and PathFinder.find_spec(fullname) is not None):
            return None  # nothing, or a folder without code beside a package of that name elsewhere
        self._names.add(fullname)
        return spec

    def _is_for(self, frame: FrameType | None) -> bool:
        """Whether the code that imports, behind the import system's own, may find it there."""
        while frame is not None and frame.f_globals.get("__name__", "").startswith("importlib"):
            frame = frame.f_back
        name: str = frame.f_globals.get("__name__", "") if frame is not None else ""
        return name.partition(".")[0] in self._names or bool(self.asked and name.startswith(ASKING))


@contextmanager
def asked(folder: Path | None = None) -> Iterator[None]:
    """Let our own imports, and unpickling, find modules in ``folder``, by default the current one.

    What they import finds its own imports there for as long as the process runs.
    """
    finder = _finder(str((folder or Path()).absolute()))
    finder.asked += 1
    try:
        yield
    finally:
        finder.asked -= 1


def import_file(file: Path) -> ModuleType:
    """The module in ``file``, with the modules beside it, or beside its package, within reach.

    Raises:
        ImportError: there is no such file, or another module of its name is in use already.
    """
    if not file.is_file():
        raise ImportError(f"there is no file {file}")
    folder, name = file.absolute().parent, file.stem
    while (folder / "__init__.py").is_file():
        folder, name = folder.parent, f"{folder.name}.{name}"
    with asked(folder):
        module = importlib.import_module(name)
    if module.__file__ is None or not file.samefile(module.__file__):
        raise ImportError(f"a module {name} from elsewhere is in use: give the file another name")
    return module


def _finder(folder: str) -> _Finder:
    for known in sys.meta_path:
        if isinstance(known, _Finder) and known.folder == folder:
            return known
    finder = _Finder(folder)
    # behind the built-in modules, in front of sys.path: where Python has a script's own folder
    at = sys.meta_path.index(PathFinder) if PathFinder in sys.meta_path else len(sys.meta_path)
    sys.meta_path.insert(at, finder)
    return finder
