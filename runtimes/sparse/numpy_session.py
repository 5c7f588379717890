"""Opens the engine that this file lies in, with NumPy alone: neither prunedeploy nor torch.

prunedeploy writes it into every sparse engine as ``session.py``. From the engine's folder, or with
the folder on ``sys.path``, or copied to your own code under any name:

    import session

    engine = session.open()  # of this folder; session.open("net.engine") of another one
    logits = engine.run({"input": images})["output"]
    engine.close()  # or: with session.open() as engine:

An engine for several sizes takes inputs of any of them. A session computes one batch at a time;
calls from several threads take turns, and sessions are independent of one another. It needs Linux,
Python 3.8 or newer, and NumPy. An engine is a program: open only those of people you trust.
"""

from __future__ import annotations

import _ctypes
import ctypes
import hashlib
import itertools
import json
import math
import os
import platform
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

import numpy as np

ABI = 1  # PD_ABI of model.h
FORMATS = (1, 2, 3)  # of manifests that this file reads
MAX_THREADS = 256
MANIFEST, LIBRARY = "manifest.json", "model.so"


class EngineError(Exception):
    """A damaged engine, one for another machine, or an input that it does not take: one line."""


class TensorStructure(ctypes.Structure):
    """``pd_tensor`` of model.h."""

    _fields_ = (
        *(("name", ctypes.c_char_p), ("dtype", ctypes.c_char_p)),
        *(("rank", ctypes.c_int), ("shape", ctypes.POINTER(ctypes.c_int64))),
    )


class ModelStructure(ctypes.Structure):
    """``pd_model`` of model.h."""

    _fields_ = (
        *(("abi", ctypes.c_int), ("version", ctypes.c_char_p), ("isa", ctypes.c_char_p)),
        *(("inputs", ctypes.c_int), ("input", ctypes.POINTER(TensorStructure))),
        *(("outputs", ctypes.c_int), ("output", ctypes.POINTER(TensorStructure))),
        *(("batches", ctypes.c_int), ("batch", ctypes.POINTER(ctypes.c_int))),
        *(("threads", ctypes.c_int), ("arena", ctypes.c_size_t), ("weights", ctypes.c_size_t)),
    )


class Tensor(NamedTuple):
    """An input or output as the library describes it; a size of -1 is the batch."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def sized(self, batch: int) -> tuple[int, ...]:
        """Its shape for ``batch`` samples."""
        return tuple(batch if dim == -1 else dim for dim in self.shape)

    @property
    def batched(self) -> bool:
        """Whether its first axis is the batch."""
        return self.shape[:1] == (-1,)


def declare(library: ctypes.CDLL) -> None:
    """Give a library's functions their types."""
    p, i = ctypes.c_void_p, ctypes.c_int
    library.pd_info.restype = ctypes.POINTER(ModelStructure)
    library.pd_create.argtypes = [ctypes.POINTER(p), i]
    library.pd_run.argtypes = [p, i, ctypes.POINTER(p), ctypes.POINTER(p)]
    library.pd_destroy.argtypes = [p]
    library.pd_destroy.restype = None
    library.pd_error.argtypes = [i]
    library.pd_error.restype = ctypes.c_char_p
    library.pd_threads_used.argtypes = [p]


def tensors(first: Any, count: int) -> tuple[Tensor, ...]:
    """The ``count`` structures that begin at ``first``."""
    return tuple(
        Tensor(t.name.decode(), t.dtype.decode(), tuple(t.shape[: t.rank])) for t in first[:count]
    )


class _Record(NamedTuple):
    """What a manifest says; of an engine for several sizes their folders, and no library."""

    library: str  # its SHA-256
    isa: str
    inputs: set[tuple[str, str]]  # names and dtypes
    outputs: set[tuple[str, str]]
    sizes: tuple[str, ...]


class _Loaded:
    """A library in this process, and how many sessions use it."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library, self.users = library, 0


Opened = TypeVar("Opened")
_loaded: dict[str, _Loaded] = {}  # by SHA-256
_numbers = itertools.count(1)
_lock = threading.RLock()  # of both; the collector may end a session within


def _renew_lock() -> None:
    """In a child process, where a thread that held the lock may be missing."""
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)


def open(folder: str | Path | None = None, threads: int = 0) -> Session | SizesSession:
    """A session on the engine in ``folder``, by default that of this file.

    Args:
        folder: an engine that ``prunedeploy build`` wrote, for the sparse runtime.
        threads: how many to compute with at most; 0 for as many as it was built for, and no more
            than there are cores.

    Returns:
        The session, which ``close``, ``with`` or its last reference ends.

    Raises:
        EngineError: the engine is damaged, or for another machine, runtime or version.
    """
    directory = Path(folder) if folder is not None else Path(__file__).resolve().parent
    if not 0 <= threads <= MAX_THREADS:
        raise EngineError(f"cannot compute with {threads} threads: give 0 to {MAX_THREADS}")
    record = _manifest(directory)
    return (SizesSession if record.sizes else Session)(directory, record, threads)


class _Closing:
    """``with`` closes it."""

    def __enter__(self: Opened) -> Opened:
        return self

    def __exit__(self: Any, *error: object) -> None:
        self.close()


class Session(_Closing):
    """An opened engine. ``inputs`` and ``outputs`` say what ``run`` takes and returns."""

    def __init__(self, folder: Path, record: _Record, threads: int) -> None:
        expected = record.library
        self._library = _load(folder / LIBRARY, expected)
        session = ctypes.c_void_p()
        try:
            model = self._library.pd_info().contents
            self.inputs = tensors(model.input, model.inputs)
            self.outputs = tensors(model.output, model.outputs)
            self._batches = tuple(model.batch[: model.batches])
            _check_model(folder, record, model, self.inputs, self.outputs)
            wanted = threads or min(model.threads, len(os.sched_getaffinity(0)))
            self._check(self._library.pd_create(ctypes.byref(session), wanted))
        except BaseException:
            _unload(expected)
            raise
        self._session: ctypes.c_void_p | None = session
        self._process, self._turn = os.getpid(), threading.Lock()
        # a batch that the engine was not built for is computed in parts that it was
        self._cuts = all(t.batched for t in (*self.inputs, *self.outputs))
        self._end = weakref.finalize(self, _end, self._library, session, expected, self._process)
        self._end.atexit = False  # a thread may still be computing when the interpreter ends

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Compute every output, by name, for one array an input.

        Raises:
            EngineError: a name, dtype, shape or batch that the engine does not take; the session is
                closed, or of a parent process.
        """
        arrays = _checked(self.inputs, feeds)
        first = (array.shape[:1] for t, array in zip(self.inputs, arrays) if t.batched)
        (batch,) = next(first, self._batches[:1]) or (0,)  # a scalar has no batch
        for tensor, array in zip(self.inputs, arrays):
            if array.shape != tensor.sized(batch):
                takes, given = _text(tensor.shape), _text(array.shape)
                raise EngineError(f"input {tensor.name!r} takes {takes}, found {given}")
        results = [np.empty(t.sized(batch), t.dtype) for t in self.outputs]
        parts = self._parts(batch)
        self._open()  # in a child process the lock may be held by nobody who is there
        with self._turn:
            session, begin = self._open(), 0
            for size in parts:
                inputs = _pointers(self.inputs, arrays, begin)
                outputs = _pointers(self.outputs, results, begin)
                self._check(self._library.pd_run(session, size, inputs, outputs))
                begin += size
        return {t.name: array for t, array in zip(self.outputs, results)}

    @property
    def threads_used(self) -> int:
        """How many threads the last run computed with; 0 before the first."""
        with self._turn:
            return int(self._library.pd_threads_used(self._open()))

    def close(self) -> None:
        """Let go of memory and threads; more than once is fine."""
        if self._process != os.getpid():  # whoever had its turn at the fork has it for ever in here
            self._session = None
            return
        with self._turn:
            self._session = None
            self._end()

    def _open(self) -> ctypes.c_void_p:
        if self._session is None:
            raise EngineError("the session is closed: open the engine again")
        if self._process != os.getpid():
            raise EngineError("the session is of a parent process: open the engine in here")
        return self._session

    def _check(self, code: int) -> None:
        if code:
            raise EngineError(self._library.pd_error(code).decode())

    def _parts(self, batch: int) -> tuple[int, ...]:
        """``batch`` as the shortest sum of the sizes that the engine was built for."""
        if batch in self._batches:
            return (batch,)
        # of each total how many parts it takes and one of them: to keep all parts of all totals
        # would take memory by the square of the batch
        fewest, last = [0.0], [0]
        for total in range(1, batch + 1 if self._cuts else 1):
            sums = [(fewest[total - size] + 1, size) for size in self._batches if size <= total]
            number, size = min(sums, default=(math.inf, 0))
            fewest.append(number)
            last.append(size)
        if not batch or batch >= len(fewest) or fewest[batch] == math.inf:
            sizes = ", ".join(map(str, self._batches))
            raise EngineError(f"the engine was built for batches of {sizes}, found {batch}")
        parts: list[int] = []
        while batch:
            parts.append(last[batch])
            batch -= last[batch]
        return tuple(sorted(parts, reverse=True))


class SizesSession(_Closing):
    """A session for each size that an engine was built for; the inputs' sizes choose among them.

    ``sizes`` has the inputs of each, ``outputs`` are those of the first.
    """

    def __init__(self, folder: Path, record: _Record, threads: int) -> None:
        self._sessions: list[Session] = []
        try:
            for name in record.sizes:
                own = _manifest(folder / name)
                self._sessions.append(Session(folder / name, own, threads))
        except BaseException:
            self.close()
            raise
        self.sizes = tuple(session.inputs for session in self._sessions)
        self.outputs = self._sessions[0].outputs

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """As ``Session.run``, of the size that the inputs have.

        Raises:
            EngineError: as there; the engine was built for other sizes.
        """
        first = self.sizes[0]
        arrays = dict(zip((t.name for t in first), _checked(first, feeds)))
        for session in self._sessions:
            shapes = ((arrays[t.name].shape, t.sized) for t in session.inputs)
            if all(shape == sized(shape[0] if shape else 0) for shape, sized in shapes):
                return session.run(arrays)
        given = ", ".join(f"{name} {_text(array.shape)}" for name, array in arrays.items())
        each = (", ".join(f"{t.name} {_text(t.shape)}" for t in x) for x in self.sizes)
        raise EngineError(f"the engine takes {' or '.join(each)}, found {given}")

    def close(self) -> None:
        """Let go of memory and threads; more than once is fine."""
        for session in self._sessions:
            session.close()


def _text(shape: tuple[int, ...]) -> str:
    return " x ".join("batch" if dim == -1 else str(dim) for dim in shape) or "a scalar"


def _manifest(folder: Path) -> _Record:
    """The manifest, once every file has the hash that it says.

    Raises:
        EngineError: not an engine of this runtime and version, for another machine, or damaged.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8-sig"))
        written, runtime = manifest.get("format_version", 1), manifest["runtime"]
        files, arch = dict(manifest["files"]), manifest["arch"]
        specs = [{(x["name"], x["dtype"]) for x in manifest[key]} for key in ("inputs", "outputs")]
        sizes = tuple(str(size["folder"]) for size in manifest.get("sizes", ()))
        record = _Record(files.get(LIBRARY, ""), manifest["isa"], specs[0], specs[1], sizes)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise EngineError(f"{folder} is not an engine: no readable {MANIFEST}") from error
    if written not in FORMATS:
        raise EngineError(
            f"{folder} has a manifest of format {written!a:.20}, this file reads "
            f"{FORMATS[0]} to {FORMATS[-1]}: take the session.py that lies in the engine"
        )
    if runtime != "sparse" or not (record.library or record.sizes):
        raise EngineError(f"{folder} is an engine of {runtime!a:.20}: open it with prunedeploy")
    if arch != platform.machine():
        raise EngineError(f"{folder} is for {arch!a:.20}, this machine is {platform.machine()}")
    for name, expected in files.items():
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts or "\0" in name:
            raise EngineError(f"{folder} is not an engine: its manifest names {name!a:.99}")
        _read(folder / name, expected)
    if any(f"{size}/{MANIFEST}" not in files for size in record.sizes):
        raise EngineError(f"{folder} is not an engine: its manifest names sizes that it has not")
    return record


def _read(path: Path, expected: str) -> bytes:
    """The bytes of a file, which have the SHA-256 ``expected``."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EngineError(f"cannot read {path}: {error.strerror}") from None
    if hashlib.sha256(data).hexdigest() != expected:
        raise EngineError(f"{path} is not what was built: its hash differs")
    return data


def _load(path: Path, expected: str) -> ctypes.CDLL:
    """The library of that hash: loaded once, from a copy of the very bytes that were hashed.

    The system's loader takes a name that it knows for the library it knows by it, so each load has
    a name of its own: empty steps in the path to the copy, which spell a number in binary.
    """
    with _lock:
        if expected not in _loaded:
            copy = os.memfd_create("engine")
            try:
                with os.fdopen(os.dup(copy), "wb") as file:
                    file.write(_read(path, expected))
                steps = f"{next(_numbers):b}".replace("1", "./").replace("0", "/")
                library = ctypes.CDLL(f"/proc/self/fd/{steps}{copy}")
                declare(library)
            except (OSError, AttributeError) as error:
                raise EngineError(f"cannot load {path}: {str(error).splitlines()[0]}") from None
            finally:
                os.close(copy)
            _loaded[expected] = _Loaded(library)
        loaded = _loaded[expected]
        loaded.users += 1
        return loaded.library


def _unload(expected: str) -> None:
    """One user less of a library; it goes with the last."""
    with _lock:
        loaded = _loaded[expected]
        loaded.users -= 1
        if not loaded.users:
            _ctypes.dlclose(loaded.library._handle)
            del _loaded[expected]


def _end(library: ctypes.CDLL, session: ctypes.c_void_p, expected: str, process: int) -> None:
    """End a session; in a child of the process that started it there are no threads to end."""
    if process == os.getpid():
        library.pd_destroy(session)
        _unload(expected)


def _check_model(folder: Path, record: _Record, model: Any, *specs: tuple[Tensor, ...]) -> None:
    """The library is of this interface, and the network that the manifest describes.

    Raises:
        EngineError: it is not.
    """
    if model.abi != ABI:
        raise EngineError(
            f"{folder} has interface {model.abi}, this file needs {ABI}: "
            "take the session.py that lies in the engine"
        )
    described = [{(tensor.name, tensor.dtype) for tensor in each} for each in specs]
    if described != [record.inputs, record.outputs]:
        raise EngineError(f"{folder} is another network than its manifest says")
    if model.isa.decode() != record.isa:
        raise EngineError(f"{folder} is not built for {record.isa!a:.20} as it says")


def _checked(inputs: tuple[Tensor, ...], feeds: Mapping[str, Any]) -> list[Any]:
    """Arrays in C order and of this machine's byte order, in the order of ``inputs``.

    Raises:
        EngineError: a name or dtype that the engine does not take, or elements that are masked.
    """
    names = ", ".join(tensor.name for tensor in inputs)
    if not isinstance(feeds, Mapping):
        raise EngineError(f"inputs go by name: give {{name: array}}; the engine takes {names}")
    known = {tensor.name for tensor in inputs}
    for name in (*feeds, *known):
        if name not in feeds or name not in known:
            what = f"no input is called {name!r}" if name in feeds else f"input {name!r} is missing"
            raise EngineError(f"{what}: the engine takes {names}")
    arrays = []
    for tensor in inputs:
        if np.ma.is_masked(feeds[tensor.name]):
            raise EngineError(f"input {tensor.name!r} has masked elements: give it .filled(...)")
        array = np.asarray(feeds[tensor.name])
        if array.dtype.name != tensor.dtype:
            raise EngineError(
                f"input {tensor.name!r} takes {tensor.dtype}, found {array.dtype}: "
                f"convert it with .astype('{tensor.dtype}')"
            )
        native = array.astype(array.dtype.newbyteorder("="), copy=False)
        arrays.append(np.require(native, requirements=("C", "A")))
    return arrays


def _pointers(specs: tuple[Tensor, ...], arrays: list[Any], begin: int) -> Any:
    """The addresses of sample ``begin`` of all arrays."""
    addresses = [
        array.ctypes.data + (begin * array.strides[0] if spec.batched else 0)
        for spec, array in zip(specs, arrays)
    ]
    return (ctypes.c_void_p * len(addresses))(*addresses)
