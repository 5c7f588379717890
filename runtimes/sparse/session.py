"""Sessions of compiled engines: the C interface of ``c/pd_engine.h``, with NumPy in and out."""

from __future__ import annotations

import _ctypes
import ctypes
import itertools
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prunedeploy.core import elf
from prunedeploy.core.errors import UserError
from prunedeploy.core.files import held_copy
from prunedeploy.core.records import Array, TensorSpec
from prunedeploy.runtimes.api import Closing, check_feeds, closed_error, forked_error, split
from prunedeploy.runtimes.sparse.numpy_session import ABI, Tensor, declare, tensors


@dataclass
class _Loaded:
    """A library in this process, and how many use it."""

    library: ctypes.CDLL
    users: int = 1


_loaded: dict[str, _Loaded] = {}  # by SHA-256
_numbers = itertools.count(1)
_lock = threading.RLock()  # of both; the collector may end a session within


def _renew_lock() -> None:
    """In a child process, where a thread that held the lock may be missing."""
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)


class Library:
    """A compiled engine, loaded.

    Raises:
        UserError: it cannot be loaded here, or is of another version.
    """

    def __init__(self, path: Path, expected: str) -> None:
        """Load the file at ``path``, which has the SHA-256 ``expected``."""
        self._sha256 = expected
        try:
            self._lib = _load(path, expected)
        except (OSError, AttributeError, UserError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"cannot load the engine: {reason}; build it again here") from None
        model = self._lib.pd_info().contents
        if model.abi != ABI:
            self.close()
            raise UserError(
                f"{path} has interface {model.abi}, this version needs {ABI}: build it again"
            )
        self.isa: str = model.isa.decode()
        self.inputs = tensors(model.input, model.inputs)
        self.outputs = tensors(model.output, model.outputs)
        self.batches = tuple(model.batch[: model.batches])

    def create(self, threads: int) -> ctypes.c_void_p:
        """A session of the library."""
        session = ctypes.c_void_p()
        if code := self._lib.pd_create(ctypes.byref(session), threads):
            raise UserError(f"cannot start the engine: {self.error(code)}")
        return session

    def threads_used(self, session: ctypes.c_void_p) -> int:
        """How many threads the last run computed with."""
        return int(self._lib.pd_threads_used(session))

    def run(
        self, session: ctypes.c_void_p, batch: int, inputs: list[int], outputs: list[int]
    ) -> None:
        """One batch, from and to these addresses."""
        pointers = [(ctypes.c_void_p * len(x))(*x) for x in (inputs, outputs)]
        if code := self._lib.pd_run(session, batch, *pointers):
            raise UserError(f"the engine cannot compute this: {self.error(code)}")

    def error(self, code: int) -> str:
        """The message of the library's error ``code``."""
        return str(self._lib.pd_error(code).decode())

    def profiling(self, session: ctypes.c_void_p, on: bool) -> None:
        """Whether runs note the times of their steps."""
        self._lib.pd_set_profiling(session, int(on))

    def times(self, session: ctypes.c_void_p, batch: int) -> list[float]:
        """Seconds of every step in the last run of ``batch``."""
        count = ctypes.c_int()
        self._lib.pd_steps(batch, ctypes.byref(count))
        seconds = (ctypes.c_double * count.value)()
        self._lib.pd_profile(session, batch, seconds, count)
        return list(seconds)

    def destroy(self, session: ctypes.c_void_p) -> None:
        """End a session."""
        self._lib.pd_destroy(session)

    def close(self) -> None:
        """Unload it, where nobody else has it loaded."""
        with _lock:
            loaded = _loaded[self._sha256]
            loaded.users -= 1
            if not loaded.users:
                _ctypes.dlclose(self._lib._handle)
                del _loaded[self._sha256]


def _load(path: Path, expected: str) -> ctypes.CDLL:
    """The library of that hash: loaded once, from a copy of the very bytes that were hashed.

    The loader takes a name that it knows for the library it knows by it, so each load has a name of
    its own: empty steps in the path to the copy, which spell a number in binary.
    """
    with _lock:
        if loaded := _loaded.get(expected):
            loaded.users += 1
            return loaded.library
        copy = held_copy(path, expected)
        steps = f"{next(_numbers):b}".replace("1", "./").replace("0", "/")
        plain, name = f"/proc/self/fd/{copy}", f"/proc/self/fd/{steps}{copy}"
        try:
            elf.check_whole(Path(plain))
            library = ctypes.CDLL(name)
            declare(library)
            _declare_profiles(library)
        except (OSError, AttributeError, UserError) as error:
            reason = str(error).replace(plain, str(path)).replace(name, str(path))
            raise UserError(reason) from None
        finally:
            os.close(copy)
        _loaded[expected] = _Loaded(library)
        return library


def _declare_profiles(library: ctypes.CDLL) -> None:
    """Give the functions that time an engine's steps their types."""
    library.pd_steps.argtypes = [ctypes.c_int, ctypes.POINTER(ctypes.c_int)]
    library.pd_steps.restype = ctypes.POINTER(ctypes.c_char_p)
    library.pd_set_profiling.argtypes = [ctypes.c_void_p, ctypes.c_int]
    doubles = ctypes.POINTER(ctypes.c_double)
    library.pd_profile.argtypes = [ctypes.c_void_p, ctypes.c_int, doubles, ctypes.c_int]


class SparseSession(Closing):
    """One session of a library; safe to use from several threads, which then take turns.

    It closes ``library`` when it is closed, or when nobody refers to it any more.
    """

    def __init__(
        self,
        library: Library,
        threads: int,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        layers: Callable[[int], list[dict[str, Any]]],
    ) -> None:
        self.inputs, self.outputs = inputs, outputs
        self.layers = layers  # what the steps of a batch size are
        self.provider = library.isa
        self._library = library
        self._session: ctypes.c_void_p | None = library.create(threads)
        self._process = os.getpid()
        self._release = weakref.finalize(self, _release, library, self._session, self._process)
        self._release.atexit = False  # a thread may still be running it when the interpreter ends
        self._turn = threading.Lock()
        # a batch the engine was not built for is computed in pieces that it was
        self.cuts = any(t.batched for t in library.inputs) and all(
            t.batched for t in library.outputs
        )

    def run(
        self, feeds: Mapping[str, Array], out: Mapping[str, Array] | None = None
    ) -> dict[str, Array]:
        """Every output by name.

        Arrays in C order and of the machine's byte order are read without a copy, others copied
        first. A batch that the engine was not built for is computed in pieces that it was.

        Args:
            feeds: an array for every input.
            out: arrays for some or all outputs, which are then written and returned; new ones
                are made for the others.

        Raises:
            UserError: a name, dtype, shape or batch that the engine does not take; an array in
                ``out`` that cannot be written in place; the session is closed.
        """
        given = check_feeds(self.inputs, feeds)
        arrays = [given[tensor.name] for tensor in self._library.inputs]
        batch = self._batch(arrays)
        pieces = self.pieces(batch)
        results = self._results(batch, {} if out is None else out, arrays)
        self._checked()  # in a child process the lock may be held by nobody who is there
        with self._turn:
            session = self._checked()
            self._run_cut(session, pieces, arrays, results)
        computed = {t.name: array for t, array in zip(self._library.outputs, results, strict=True)}
        return {spec.name: computed[spec.name] for spec in self.outputs}

    def _run_cut(
        self,
        session: ctypes.c_void_p,
        pieces: Sequence[int],
        arrays: Sequence[Array],
        results: Sequence[Array],
    ) -> None:
        """One batch in its pieces; for who has the turn."""
        begin = 0
        for size in pieces:
            inputs = _addresses(self._library.inputs, arrays, begin)
            outputs = _addresses(self._library.outputs, results, begin)
            self._library.run(session, size, inputs, outputs)
            begin += size

    def profile(self, feeds: Mapping[str, Array], rounds: int = 20) -> dict[int, list[list[float]]]:
        """Seconds of every step in ``rounds`` runs, by the batch it is cut into.

        Raises:
            UserError: as ``run``.
        """
        given = check_feeds(self.inputs, feeds)
        arrays = [given[tensor.name] for tensor in self._library.inputs]
        pieces = self.pieces(self._batch(arrays))
        seconds: dict[int, list[list[float]]] = {size: [] for size in pieces}
        results = self._results(sum(pieces), {}, arrays)
        self._checked()
        with self._turn:
            session = self._checked()
            self._run_cut(session, pieces, arrays, results)
            self._library.profiling(session, True)
            try:
                for _ in range(rounds):
                    self._run_cut(session, pieces, arrays, results)
                    for size, samples in seconds.items():
                        samples.append(self._library.times(session, size))
            finally:
                self._library.profiling(session, False)
        return seconds

    @property
    def threads_used(self) -> int:
        """How many threads the last run computed with: a session takes fewer than it was opened
        with where it measures that they are faster. 0 before the first run.
        """
        self._checked()
        with self._turn:
            return self._library.threads_used(self._checked())

    def close(self) -> None:
        """Let go of memory and threads, whoever still holds this object."""
        if self._process != os.getpid():
            # whoever had its turn when the process was forked has it for ever in here
            self._session = None
            self._release()
            return
        with self._turn:
            self._session = None
            self._release()  # once only

    def _checked(self) -> ctypes.c_void_p:
        if self._session is None:
            raise closed_error()
        if self._process != os.getpid():
            raise forked_error()
        return self._session

    def _batch(self, arrays: Sequence[Array]) -> int:
        for tensor, array in zip(self._library.inputs, arrays, strict=True):
            if array.shape != tensor.sized(array.shape[0] if array.ndim else 0):
                wanted = " x ".join("batch" if dim == -1 else str(dim) for dim in tensor.shape)
                shape = " x ".join(map(str, array.shape))
                raise UserError(f"input {tensor.name!r} takes {wanted}, found {shape}")
        batched = [
            len(array)
            for tensor, array in zip(self._library.inputs, arrays, strict=True)
            if tensor.batched
        ]
        return batched[0] if batched else self._library.batches[0]

    def pieces(self, batch: int) -> tuple[int, ...]:
        """The batch sizes that ``batch`` samples are computed in."""
        built = self._library.batches
        pieces = (batch,) if batch in built else split(batch, built)
        if pieces is None or (len(pieces) > 1 and not self.cuts):
            sizes = ", ".join(map(str, built))
            raise UserError(
                f"the engine was built for batches of {sizes}, found {batch}: "
                f"build it again with --batch {batch}"
            )
        return pieces

    def _results(
        self, batch: int, out: Mapping[str, Array], arrays: Sequence[Array]
    ) -> list[Array]:
        names = [tensor.name for tensor in self._library.outputs]
        if not isinstance(out, Mapping):
            raise UserError(
                f"outputs go by name: give {{{names[0] if names else ''!r}: array, ...}}"
            )
        if unknown := [name for name in out if name not in names]:
            raise UserError(f"no output is called {unknown[0]!r}: it gives {', '.join(names)}")
        results: list[Array] = []
        for tensor in self._library.outputs:
            shape = tensor.sized(batch)
            given = out.get(tensor.name)
            if given is None:
                results.append(np.empty(shape, tensor.dtype))
                continue
            _check_out(tensor, shape, given)
            if any(np.may_share_memory(given, other) for other in (*arrays, *results)):
                raise UserError(f"the array for output {tensor.name!r} overlaps another one")
            results.append(given)
        return results


def _release(library: Library, session: ctypes.c_void_p, process: int) -> None:
    """End a session; in a child of the process that started it there are no threads to end."""
    if process == os.getpid():
        library.destroy(session)
        library.close()


def _check_out(tensor: Tensor, shape: tuple[int, ...], array: Array) -> None:
    flags = getattr(array, "flags", None)
    if isinstance(array, np.ma.MaskedArray):
        raise UserError(f"the array for output {tensor.name!r} is a masked one: give its .data")
    if flags is None or array.dtype != np.dtype(tensor.dtype) or array.shape != shape:
        wanted = " x ".join(map(str, shape)) or "a scalar"
        raise UserError(f"output {tensor.name!r} needs a {tensor.dtype} array of {wanted}")
    if not (flags.c_contiguous and flags.writeable and flags.aligned):
        raise UserError(
            f"the array for output {tensor.name!r} must be writable, aligned and in C order"
        )


def _addresses(tensors: Sequence[Tensor], arrays: Sequence[Array], begin: int) -> list[int]:
    """The address of sample ``begin`` of each array."""
    return [
        array.__array_interface__["data"][0] + (begin * array.strides[0] if tensor.batched else 0)
        for tensor, array in zip(tensors, arrays, strict=True)
    ]
