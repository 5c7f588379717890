"""Files that are never half there, their hashes, and records as JSON."""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import hashlib
import json
import mmap
import os
import secrets
import shutil
import stat
import tempfile
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from prunedeploy.core.errors import OutputError, UserError
from prunedeploy.core.records import EARLIER

MAX_TEXT = 64 << 20  # bytes of a record, with every sample of a long measurement
WORD = 1 << 63  # integers of records are of 64 bits
RENAME_EXCHANGE = 2  # of linux/fs.h

T = typing.TypeVar("T")


def _temporary_name(path: Path) -> Path:
    """A name nobody else uses, in the same folder so that the final rename is atomic."""
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: {path.parent} is not a folder")
    return path.parent / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """What the system does not let be written is the user's to mend."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def _refuse_folder(path: Path) -> None:
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place if the block ends well.

    On any exception, Ctrl-C included, the temporary file is removed and ``path`` is untouched.
    """
    _refuse_folder(path)
    temporary = _temporary_name(path)
    try:
        with _reported(path):
            yield temporary
            temporary.replace(path)
    finally:
        with suppress(OSError):  # of a read-only folder: the first error says so already
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield a fresh folder beside ``path`` that takes its place if the block ends well.

    A folder already at ``path`` is replaced at one stroke, so that a reader finds the old one or
    the new one; whether it may be replaced is for the caller to decide beforehand.
    """
    with scratch_folder(path) as temporary:  # which then holds what was replaced
        yield temporary
        _put(temporary, path)


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """A fresh folder beside ``path`` for what may take its place; gone with the block."""
    folder = _temporary_name(path)
    try:
        with _reported(path):
            folder.mkdir()
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def atomic_group(path: Path) -> Iterator[Path]:
    """Yield ``path``'s name in a fresh folder, for a file and those that it refers to by name.

    All files that the block leaves in that folder move to that of ``path``, ``path`` itself last.
    """
    _refuse_folder(path)
    with scratch_folder(path) as folder:
        yield folder / path.name
        for file in sorted(folder.iterdir(), key=lambda file: file.name == path.name):
            file.replace(path.parent / file.name)


def _put(temporary: Path, path: Path) -> None:
    """Rename a folder to ``path``; what is there already changes places with it."""
    while True:
        try:
            temporary.rename(path)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        try:
            _exchange(temporary, path)
            return
        except FileNotFoundError:  # somebody took it away in between: the plain rename will do
            continue


def _exchange(one: Path, other: Path) -> None:
    """Swap two names atomically: renameat2(2) with RENAME_EXCHANGE, Linux 3.15, glibc 2.28.

    Where the C library or the file system has no such call, by three renames: a reader may then
    find nothing for an instant.
    """
    names = [ctypes.c_char_p(os.fsencode(path.absolute())) for path in (one, other)]
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is not None and call(0, names[0], 0, names[1], ctypes.c_uint(RENAME_EXCHANGE)) == 0:
        return
    code = ctypes.get_errno() if call is not None else errno.ENOSYS
    if code not in (errno.ENOSYS, errno.EINVAL):
        raise OSError(code, os.strerror(code), str(other))
    aside = _temporary_name(other)
    other.rename(aside)
    one.rename(other)
    aside.rename(one)


def check_writable(path: Path) -> None:
    """See that a file could be written to ``path``, before the work that it is to hold.

    Raises:
        UserError: it could not.
    """
    _refuse_folder(path)
    temporary = _temporary_name(path)
    with _reported(path):
        temporary.touch()
        temporary.unlink()


def open_regular(path: Path) -> typing.BinaryIO:
    """A file opened to be read, if it is one: a device has no end, and a pipe makes one wait.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_small(path: Path) -> bytes:
    """The content of a file of ``MAX_TEXT`` bytes at most: of records, which strangers may write.

    Raises:
        OSError: it cannot be read, is no regular file, or larger.
    """
    with open_regular(path) as file:
        data = file.read(MAX_TEXT + 1)
    if len(data) > MAX_TEXT:
        raise OSError(errno.EFBIG, f"it has more than {MAX_TEXT >> 20} MiB", str(path))
    return data


def read_text(path: Path) -> str:
    """The text in such a file, without a byte order mark.

    Raises:
        OSError: as ``read_small``.
        UnicodeDecodeError: it is not UTF-8.
    """
    return read_small(path).decode("utf-8-sig")


def sha256(*paths: Path) -> str:
    """The SHA-256 of a file, or of several one after the other, in hexadecimal."""
    digest = hashlib.sha256()
    for path in paths:
        with open_regular(path) as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def held_copy(path: Path, expected: str) -> int:
    """A descriptor of a copy of a file that no name leads to, once it has the hash ``expected``.

    What is loaded from the copy is what was hashed, whoever writes into the file later.

    Raises:
        UserError: another hash.
        OSError: it cannot be read or copied.
    """
    with open_regular(path) as file, _unnamed() as copy:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            copy.write(chunk)
        copy.flush()
        if digest.hexdigest() != expected:
            raise UserError(f"{path} is not what was built: its hash differs; build it again")
        return os.dup(copy.fileno())


@contextmanager
def mapped(path: Path, expected: str) -> Iterator[mmap.mmap]:
    """The bytes of a file that has the hash ``expected``, not copied: of any size.

    Another file may take its name meanwhile. A block that ends well has read what was hashed.

    Raises:
        UserError: another hash; or somebody wrote into the file before the end of the block.
        OSError, ValueError: it cannot be mapped.
    """
    with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        written = os.fstat(file.fileno()).st_mtime_ns
        if hashlib.sha256(data).hexdigest() != expected:
            raise UserError(f"{path} is not what was built: its hash differs; build it again")
        yield data
        if os.fstat(file.fileno()).st_mtime_ns != written:
            raise UserError(f"{path} was written to while it was opened: open it again")


def _unnamed() -> typing.IO[bytes]:
    """A file in memory; on disk where the system has no such files."""
    try:
        return os.fdopen(os.memfd_create("prunedeploy"), "w+b")
    except (AttributeError, OSError):
        return tempfile.TemporaryFile()


def cache_folder() -> Path:
    """The folder of what may be made again: in ``$XDG_CACHE_HOME``, or in ``~/.cache``.

    Where neither can be had it is one that cannot be written. A relative path would depend on the
    current folder, whose files are not the user's own; the variable's specification ignores it too.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (base if base.is_absolute() else Path.home() / ".cache") / "prunedeploy"
    except RuntimeError:  # no home
        return Path(os.devnull) / "prunedeploy"


def to_json(record: Any) -> str:
    """A frozen record as JSON; its class name is kept under ``"type"`` for the reader."""
    plain = {"type": type(record).__name__, **dataclasses.asdict(record)}
    return json.dumps(plain, indent=1, default=str) + "\n"


def from_json(cls: type[T], text: str) -> T:
    """The record that ``to_json`` wrote.

    Raises:
        UserError: not JSON, another type of record, or fields that are missing or unknown.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"not a {cls.__name__} file: {error}") from None
    if not isinstance(data, dict) or data.pop("type", None) != cls.__name__:
        raise UserError(f"not a {cls.__name__} file: it says something else of itself")
    try:
        return typing.cast(T, _build(cls, data))
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"not a {cls.__name__} file of this version: {error}") from None


def _build(kind: Any, data: Any) -> Any:
    """``data`` as ``kind``: dataclasses, tuples, dicts, optional and plain values."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _build_union(arguments, data)
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return tuple(_build(arguments[0], item) for item in data)
        return tuple(_build(k, item) for k, item in zip(arguments, data, strict=True))
    if origin is dict:
        return {key: _build(arguments[1], value) for key, value in data.items()}
    if origin is typing.Literal and data not in arguments:
        raise TypeError(f"expected one of {arguments!r:.80}, found {data!r:.40}")
    if dataclasses.is_dataclass(kind):
        if not isinstance(data, Mapping):
            raise TypeError(f"expected a record, found {data!r:.40}")
        fields = typing.get_type_hints(kind)
        absent = {x.name: x.metadata[EARLIER] for x in dataclasses.fields(kind) if x.metadata}
        given = {key: _build(fields[key], value) for key, value in data.items()}
        return kind(**absent | given)  # type: ignore[operator]
    if kind is Path:
        return Path(data)
    if isinstance(data, int) and not -WORD <= data < WORD:
        raise ValueError("a number beyond 64 bits")
    if kind is float and isinstance(data, int):
        return float(data)
    if isinstance(kind, type) and not isinstance(data, kind):
        raise TypeError(f"expected {kind.__name__}, found {data!r:.40}")
    return data


def _build_union(kinds: tuple[Any, ...], data: Any) -> Any:
    if data is None and type(None) in kinds:
        return None
    for kind in kinds:
        try:
            return _build(kind, data)
        except (TypeError, KeyError, ValueError):
            continue
    raise TypeError(f"unexpected value {data!r:.40}")
