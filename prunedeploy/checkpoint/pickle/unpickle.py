"""Read pickles as data. No class is imported, no function of the file's choosing is called.

A pickle is a small program: its opcodes name globals and call them. Here every global resolves
to one of three things and nothing else: one of our own functions (``rebuild.py``), which make
tensors and containers; a stub that records what it is given (``stub.py``); or the refusal
of the whole file, for modules that have no place in a checkpoint.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO

from prunedeploy.checkpoint.pickle.rebuild import DTYPES, FUNCTIONS, STORAGES, Function
from prunedeploy.checkpoint.pickle.stub import StorageType, Stub, text
from prunedeploy.core.budget import Budget

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
MAX_DEPTH = 500  # of tuples within tuples
MAX_LONG_INTEGERS = 10_000  # integers beyond 64 bits
# Opcodes whose argument is a length, or an index of the memo.
SIZED = frozenset(("FRAME", "PUT", "BINPUT", "LONG_BINPUT", "GET", "LONG_BINGET"))


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
    begin = file.tell()
    _check_sizes(file)
    file.seek(begin)
    return Unpickler(file, nested, storage or _no_storage).load()


def _check_sizes(file: BinaryIO) -> None:
    """Refuse what makes the C unpickler take memory or stack without asking.

    Lengths, and indices of its memo, that no pickle of this size has: it allocates and fills memory
    for them (a single byte amiss, and it is 64 GB). Tuples in tuples without end: what computes the
    hash of a key goes down into each. Many integers beyond 64 bits, which may all have one hash.
    More steps than a checkpoint of this size takes.
    """
    begin = file.tell()
    size = file.seek(0, io.SEEK_END) - begin
    file.seek(begin)
    depths, long, budget = _Depths(), 0, Budget(size)
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        budget.check("a pickle", count, budget.opcodes, "steps")
        if opcode.name in SIZED and (argument or 0) > size:
            raise pickle.UnpicklingError(f"{opcode.name} of {argument}")
        if (
            isinstance(argument, int)
            and argument.bit_length() > 64
            and (long := long + 1) > MAX_LONG_INTEGERS
        ):
            raise pickle.UnpicklingError("too many integers beyond 64 bits")
        if depths.after(opcode, argument) > MAX_DEPTH:
            raise pickle.UnpicklingError("tuples nested too deeply")


class _Depths:
    """How many tuples lie in one another in each value on the stack of a pickle.

    Lists and dictionaries have no hash, so what is in them does not count.
    """

    MARK = -1

    def __init__(self) -> None:
        self._stack: list[int] = []
        self._memo: dict[int, int] = {}

    def after(self, opcode: pickletools.OpcodeInfo, argument: Any) -> int:
        """The depth of the value on top, once ``opcode`` was read."""
        name, stack = opcode.name, self._stack
        if name == "MARK":
            stack.append(self.MARK)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            key = len(self._memo) if name == "MEMOIZE" else int(argument)
            self._memo[key] = stack[-1] if stack else 0
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memo.get(int(argument), 0))
        elif name == "DUP":
            stack += stack[-1:]
        else:
            self._general(opcode)
        return stack[-1] if stack else 0

    def _general(self, opcode: pickletools.OpcodeInfo) -> None:
        """Update the stack by what the opcode takes from it and puts onto it."""
        stack, taken = self._stack, [0]
        before = [x.name for x in opcode.stack_before]
        if "mark" in before:
            while stack and (depth := stack.pop()) != self.MARK:
                taken.append(depth)
            before = before[: before.index("mark")]
        first = stack[-len(before)] if 0 < len(before) <= len(stack) else 0
        for _ in before:
            if stack and stack[-1] != self.MARK:
                taken.append(stack.pop())
        if opcode.name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS"):
            stack.append(max(first, 0))
        elif opcode.stack_after:
            deeper = opcode.name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
            keeps = deeper or opcode.name in ("REDUCE", "BUILD", "NEWOBJ", "NEWOBJ_EX")
            stack.append(max(taken) + deeper if keeps else 0)


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
