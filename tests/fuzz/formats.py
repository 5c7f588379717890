"""Changes along the structure of a format: what is written stays readable as far as it was."""

from __future__ import annotations

import gzip
import io
import json
import pickletools
import tarfile
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

import wire

Edit = Callable[[bytes, str, bytes, Random], bytes]
NUMBERS = (
    *(0, 1, -1, 2, 3, 7, 64, 255, 1000, 2**16, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63),
    *(-(2**63), 10**30, 10**400, 0.5, -0.0, 1e-300, 1e308),
    *(float("nan"), float("inf"), -float("inf")),
)
TEXTS = (
    *("", "x", "\0", "../x", "/etc/passwd", "a/b", ".", "..", "\x1b[31mred", "\ud800", "é" * 9),
    *("x" * 5000, "\n", "nan", "%s%n", "float32", "<f4", "avx512", "model.onnx", "batch", "null"),
)
#: a pickle that runs a program, as an opcode sequence that leaves one object
PROGRAM = b"cposix\nsystem\n(X\x0b\x00\x00\x00touch PWNEDtR"
OPCODES = (
    *(b"0", b"2", b"1", b"(", b")", b"]", b"}", b"N", b"a", b"s", b"u", b"t", b"R", b"b", b"\x81"),
    *(b"\x85", b"\x86", b"\x93", b"Q", b"e", b".", b"\x94", b"h\x00", b"K\xff"),
    *(b"J\xff\xff\xff\x7f", b"r\xff\xff\xff\x00", b"X\xff\xff\xff\xff", b"\x8d" + b"\xff" * 8),
    *(b"\x96" + b"\xff" * 8, b"\x8a\xff" + b"\x7f" * 255, PROGRAM),
    *(b"cbuiltins\ngetattr\n", b"ctorch\nTensor\n", b"cbuiltins\neval\n"),
    *(b"cnumpy.core.multiarray\n_reconstruct\n", b"ccollections\nOrderedDict\n"),
    b"ctorch._utils\n_rebuild_tensor_v2\n",
)
KINDS = (
    *("|O", "<f8", ">f4", "|V8", "<U1000000", "<M8[s]", "|b1", "<c16", "<i8", "<f2", "xx", "|S0"),
)
SHAPES = (
    *("()", "(-1,)", "(0, 3, 8, 8)", "(2, 3, 64)", f"({2**40},)", "(1" + ",1" * 70 + ")", "'x'"),
    *(f"({10**30}, 0)", "(2, 3, 8, 8, 1)", "(True,)", "(1000000, 3, 8, 8)"),
)


def structured(data: bytes, name: str, donor: bytes, random: Random, edit: Edit) -> bytes | None:
    """A change that knows the format of ``data``; None where it is of none that is known here."""
    change = _change_of(data, name)
    if change is None:
        return None
    try:
        return change(data, donor, random, edit)
    except Exception:  # an earlier change broke the structure, in whatever way
        return None


def _change_of(data: bytes, name: str) -> Callable[[bytes, bytes, Random, Edit], bytes] | None:
    if data.startswith(b"PK\x03\x04"):
        return _zip
    if data.startswith(b"\x1f\x8b"):
        return _gzip
    if data[257:262] == b"ustar":
        return _tar
    if data.startswith(b"\x93NUMPY"):
        return _npy
    if data.startswith(b"\x80") and data[1:2] <= b"\x05":
        return _pickle
    if data[8:9] == b"{" and data[7:8] == b"\0":
        return _safetensors
    if data[:1] in (b"{", b"["):
        return _json
    if name.endswith(".onnx"):
        return lambda data, donor, random, edit: wire.changed(data, donor, random)
    return _text if name.endswith(".toml") else None


def _members(members: dict[str, bytes], random: Random, edit: Edit) -> list[tuple[str, bytes]]:
    """The members of an archive with one changed, gone, renamed, twice there, or in its place."""
    names = sorted(members)
    name = random.choice(names)
    kind = random.random()
    if kind < 0.8:
        # a network's structure is in small members; its weights are only numbers
        name = random.choice((name, min(names, key=lambda n: (not n.endswith("pkl"), len(n)))))
        members[name] = edit(members[name], name, members[random.choice(names)], random)
    elif kind < 0.85:
        del members[name]
    elif kind < 0.9:
        members[random.choice((*names, *TEXTS)).replace("\ud800", "?")] = members.pop(name)
    elif kind < 0.95:
        members[name] = members[random.choice(names)]
    items = list(members.items())
    return items if kind < 0.95 else [*items, (name, members[random.choice(names)])]


def _zip(data: bytes, donor: bytes, random: Random, edit: Edit) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    stream = io.BytesIO()
    how = random.choice((zipfile.ZIP_STORED,) * 6 + (zipfile.ZIP_DEFLATED,))
    with zipfile.ZipFile(stream, "w", how) as archive:
        for name, content in _members(members, random, edit):
            archive.writestr(zipfile.ZipInfo(name), content, how)
    return stream.getvalue()


def _gzip(data: bytes, donor: bytes, random: Random, edit: Edit) -> bytes:
    content = gzip.decompress(data)
    return gzip.compress(edit(content, "content.tar", content, random), 1, mtime=0)


def _tar(data: bytes, donor: bytes, random: Random, edit: Edit) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        members = {m.name: archive.extractfile(m).read() for m in archive if m.isfile()}  # type: ignore[union-attr]
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in _members(members, random, edit):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if random.random() < 0.03:
                info.type = random.choice((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE))
                info.linkname, info.size = random.choice(TEXTS[:7]), 0
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def _npy(data: bytes, donor: bytes, random: Random, edit: Edit) -> bytes:
    """Another header; its length is right."""
    length = int.from_bytes(data[8:10], "little")
    header, content = data[10 : 10 + length].decode("latin1"), data[10 + length :]
    begin, end = header.find("("), header.find(")") + 1
    old, new = random.choice(
        (
            ("'<f4'", f"'{random.choice(KINDS)}'"),
            ("False", random.choice(("True", "1", "None"))),
            (header[begin:end], random.choice(SHAPES)),
        )
    )
    if random.random() < 0.95:
        header = header.replace(old, new)
    else:
        header = edit(header.encode("latin1"), "", b"", random).decode("latin1")
    encoded = header.encode("latin1")[:65535]
    return data[:8] + len(encoded).to_bytes(2, "little") + encoded + content


def _safetensors(data: bytes, donor: bytes, random: Random, edit: Edit) -> bytes:
    length = int.from_bytes(data[:8], "little")
    header = edit(data[8 : 8 + length], "header.json", b"", random)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def _pickle(data: bytes, donor: bytes, random: Random, edit: Edit) -> bytes:
    """Opcodes gone, doubled, exchanged, replaced; or their argument is another."""
    starts = [position for _, _, position in pickletools.genops(data) if position is not None]
    ends = [*starts[1:], starts[-1] + 1]
    parts = [data[begin:end] for begin, end in zip(starts, ends, strict=True)]
    at, other = random.randrange(len(parts)), random.randrange(len(parts))
    kind = random.randrange(6)
    if kind == 0:
        del parts[at]
    elif kind == 1:
        parts.insert(other, parts[at])
    elif kind == 2:
        parts[at], parts[other] = parts[other], parts[at]
    elif kind == 3:
        parts[at] = random.choice(OPCODES)
    elif kind == 4:
        parts.insert(at, random.choice(OPCODES) * random.choice((1, 1, 2, 1000)))
    else:
        parts[at] = parts[at][:1] + edit(parts[at][1:], "", parts[other][1:], random)
    return b"".join(parts) + data[ends[-1] :]


def _json(data: bytes, donor: bytes, random: Random, edit: Edit) -> bytes:
    root = {"": json.loads(data)}
    holder, key = random.choice(list(_nodes(root)))
    value = holder[key]
    choice = random.randrange(8)
    if choice == 0 and isinstance(holder, dict) and holder is not root:
        del holder[key]
    elif choice == 1 and isinstance(holder, dict) and holder is not root:
        holder[random.choice(TEXTS)] = holder.pop(key)
    elif choice == 2:
        holder[key] = [value] * random.choice((0, 1, 2, 300))
    elif choice == 3:
        other, name = random.choice(list(_nodes(root)))
        holder[key] = json.loads(json.dumps(other[name]))
    elif choice == 4 and random.random() < 0.2:
        text = json.dumps(root[""]).replace(json.dumps(value), "[" * 20000, 1)
        return text.encode("utf-8", "surrogatepass")
    else:
        odd = (None, True, False, [], {}, [[]], {"a": 1}, *NUMBERS, *TEXTS)
        holder[key] = random.choice(odd)
    ascii_only = random.random() < 0.7
    return json.dumps(root[""], ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")


def _nodes(value: Any) -> Any:
    """Every container and key below ``value``."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in list(items):
        yield value, key
        if isinstance(child, dict | list):
            yield from _nodes(child)


def _text(data: bytes, donor: bytes, random: Random, edit: Edit) -> bytes:
    """A line gone or doubled, or another value in it."""
    lines = data.decode("utf-8", "replace").splitlines()
    at = random.randrange(len(lines))
    value = json.dumps(random.choice((*NUMBERS[:-3], *TEXTS, [], True))).replace("\\ud800", "?")
    key = lines[at].partition("=")[0]
    lines[at : at + 1] = random.choice(
        ([], [lines[at]] * 2, [f"{key} = {value}"], [f"{key} = {value}"])
    )
    return "\n".join(lines).encode()
