"""Read pickles as data. No class is imported, no function of the file's choosing is called.

A pickle is a small program: its opcodes name globals and call them. Here every global resolves
to one of three things and nothing else: one of our own functions (``rebuild.py``), which make
tensors and containers; a stub that records what it is given (``stub.py``); or the refusal
of the whole file, for modules that have no place in a checkpoint.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, BinaryIO

from prunedeploy.checkpoint.pickle.rebuild import DTYPES, FUNCTIONS, STORAGES, Function
from prunedeploy.checkpoint.pickle.scan import check_steps
from prunedeploy.checkpoint.pickle.stub import StorageType, Stub, text

# Modules that nothing beside weights has a reason to name. Any other is harmless as a stub;
# these say that somebody meant code to run, and that is worth telling.
# fmt: off
REFUSED = frozenset((
    "_ctypes", "_operator", "_pickle", "_posixsubprocess", "_socket", "bdb", "cProfile", "code",
    "codeop", "commands", "ctypes", "ftplib", "idlelib", "imp", "importlib", "marshal", "nt",
    "operator", "os", "pdb", "pickle", "pip", "pkgutil", "popen2", "posix", "profile", "pty",
    "pydoc", "requests", "runpy", "shutil", "signal", "smtplib", "socket", "subprocess", "sys",
    "timeit", "trace", "urllib", "webbrowser",
))
# fmt: on


REFUSED_NAMES = frozenset(("io.open", "_io.open", "_io.FileIO", "codecs.open"))

# Builtins that are only ever names of types or plain values; as stubs, like all else.
# fmt: off
HARMLESS = frozenset((
    "bool", "bytearray", "bytes", "complex", "dict", "float", "int", "list", "long", "object",
    "range", "slice", "str", "tuple", "type", "unicode", "NotImplemented", "Ellipsis", "Exception",
    "ValueError",
))
# fmt: on

NESTED = "torch.storage._load_from_bytes"  # a storage as the bytes of a torch.save of its own


class CodeRefused(Exception):  # noqa: N818 - it names what was refused
    """The pickle names a global that only code would need. The message is the global's name."""


def load_pickle(
    file: BinaryIO,
    nested: Callable[[bytes], Any],
    storage: Callable[[tuple[Any, ...]], Any] | None = None,
) -> Any:
    """Read the pickle at the file's position, which is then behind it.

    ``nested`` reads the bytes of a torch.save that lies within the pickle; ``storage`` gives the
    storage that a persistent id of torch.save stands for.

    Raises:
        CodeRefused: it names a global that only code would need.
        Exception: any other, for a damaged pickle; the caller words it.
    """
    check_steps(file)
    return Unpickler(file, nested, storage or _no_storage).load()


class Unpickler(pickle.Unpickler):
    """An unpickler that can only make data.

    ``nested`` and ``storage`` are those of ``load_pickle``.
    """

    def __init__(
        self,
        file: BinaryIO,
        nested: Callable[[bytes], Any],
        storage: Callable[[tuple[Any, ...]], Any],
    ) -> None:
        super().__init__(file, encoding="latin1")  # Python 2 wrote bytes as strings
        self._nested = nested
        self._storage = storage
        self._classes: dict[str, type[Stub]] = {}

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """Resolve a global to a function of ours, a storage type or a stub, or refuse the file."""
        name = f"{module_name}.{global_name}"
        if name == NESTED:
            return Function(self._nested)
        if (function := FUNCTIONS.get(name)) is not None:
            return Function(function)
        if (dtype := STORAGES.get(name)) is not None:
            return StorageType(dtype)
        if (dtype := DTYPES.get(name)) is not None:
            return dtype
        if name in REFUSED_NAMES:
            raise CodeRefused(name)
        builtin = module_name in ("builtins", "__builtin__")
        if module_name.partition(".")[0] in REFUSED or (builtin and global_name not in HARMLESS):
            raise CodeRefused(name)
        if name not in self._classes:
            self._classes[name] = type("Stub", (Stub,), {"origin": name})
        return self._classes[name]

    def persistent_load(self, pid: Any) -> Any:
        """Return a storage, or for ``("module", class, source file, source)`` the class's stub."""
        if not isinstance(pid, tuple) or len(pid) < 2:
            raise pickle.UnpicklingError("an object that is stored elsewhere")
        if text(pid[0]) == "module":
            return pid[1]
        if text(pid[0]) != "storage" or len(pid) < 5 or not isinstance(pid[1], StorageType):
            raise pickle.UnpicklingError("an unknown kind of stored object")
        return self._storage(pid[1:])


def _no_storage(_: tuple[Any, ...]) -> Any:
    """For pickles that carry everything themselves."""
    raise pickle.UnpicklingError("tensors that are stored elsewhere")
