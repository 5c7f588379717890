"""Plans to a C project: a function a step, tables of them, and all constants in one file.

Everything is in a fixed order and nothing in it depends on the time or the place, so that the same
plans give the same files. Step functions are spread over a few files that compile side by side;
those that need the same kernel instances share a file, so that each is compiled once.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import TensorSpec
from prunedeploy.runtimes.sparse import codegen as emit
from prunedeploy.runtimes.sparse.codegen._context import Code, Constants, Context
from prunedeploy.runtimes.sparse.codegen.work import useful_threads, work
from prunedeploy.runtimes.sparse.kernels.blocks import BlockCache
from prunedeploy.runtimes.sparse.payload import HEADER
from prunedeploy.runtimes.sparse.plan import steps as plan
from prunedeploy.runtimes.sparse.plan import views

SOURCES = Path(__file__).parents[1] / "c"
WEIGHTS = "weights.bin"
CODE = "code.bin"
FIXED = (  # part of every project
    *("engine.c", "engine.h", "adaptive.h", "pages.h", "processors.h", "threads.h", "pd.h"),
    HEADER,
)
#: compiled for any processor of the architecture
GENERAL = ("engine.c", "model.c", "weights.c", "code.c")
INSTANCE = 3000  # characters of a step's text that compile as long as one kernel instance
FILE = 60_000  # characters, weighed so, that one file is to hold
MAX_FILES = 12
MAX_WEIGHTS = 2**31 - 2**27  # bytes of constants: code reaches data by 31 bits and a sign
BYTES = {"float32": 4, "int64": 8, "int32": 4, "bool": 1, "uint8": 1}

_INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


class TooLargeError(UserError):
    """A project whose constants and programs are more than one library can hold."""


@dataclass(frozen=True)
class Options:
    """The conditions that the plans are written for.

    ``inputs`` and ``outputs`` say where the batch is: a dimension that has a name. ``tuned`` is
    that of ``Context``, one a plan.
    """

    isa: str
    threads: int = 2
    version: str = ""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    tuned: Sequence[Mapping[str, Any]] = ()
    blocks: BlockCache = field(default_factory=BlockCache)


@dataclass(frozen=True)
class Layer:
    """A step as reports know it. ``cycles`` is of the busiest thread, by the cost model.

    ``kernel``, ``stored`` and ``dense`` are those of ``Code``, for layers with weights.
    """

    name: str
    kind: str
    choice: str  # how it is computed, in the emitter's words
    flops: int
    bytes: int
    weights: int
    nonzeros: int
    cycles: float = 0.0
    kernel: str = ""
    stored: str = "float32"
    dense: bool = False


@dataclass(frozen=True)
class Project:
    """Texts by file name, the constants, and the layers of every plan by its batch.

    ``code`` is the machine code of layers that ``kernels.jit`` computes; mostly there is none.
    """

    files: dict[str, str]
    weights: bytes
    isa: str
    batches: tuple[int, ...]
    layers: dict[int, tuple[Layer, ...]]
    code: bytes = b""

    @property
    def sources(self) -> tuple[str, ...]:
        """The files that are compiled, in order."""
        return tuple(name for name in self.files if name.endswith(".c"))


@dataclass
class _Function:
    """One step function, still on its own."""

    name: str
    code: Code
    step: plan.Step
    batch: int
    repeats: int

    @property
    def size(self) -> int:
        return len(self.code.body) + INSTANCE * len(self.code.top)


@dataclass
class _File:
    functions: list[_Function] = field(default_factory=list)
    size: int = 0


def emit_project(plans: Sequence[plan.Plan], options: Options) -> Project:
    """The C project of an engine that computes ``plans``, one a batch size.

    Raises:
        TooLargeError: its constants and programs are more than one library can hold.
    """
    constants, code = Constants(), Constants()
    functions = [
        function
        for number, one in enumerate(plans)
        for function in _functions(one, number, (constants, code), options)
    ]
    size = constants.size + code.size
    if size > MAX_WEIGHTS:
        raise TooLargeError(
            f"an engine holds {MAX_WEIGHTS >> 20} MB of constants at the most, this network has "
            f"{size >> 20} MB without its zeros: use --runtime ort"
        )
    weights, instructions = constants.data(), code.data() if code.size else b""
    files = {f"steps_{n}.c": _text(f) for n, f in enumerate(_into_files(functions))}
    files["model.c"] = _model(plans, functions, len(weights), len(instructions), options)
    files["weights.c"] = blob("pd_weights", WEIGHTS, weights, ".rodata")
    if instructions:
        files["code.c"] = blob("pd_code", CODE, instructions, ".text")
    used = {header for function in functions for header in function.code.headers}
    used |= {name for f in functions for text in f.code.top for name in _INCLUDE.findall(text)}
    files |= closure([*FIXED, *sorted(used)])
    layers = {
        one.batch: tuple(_layer(f, options.threads) for f in functions if f.batch == one.batch)
        for one in plans
    }
    return Project(
        files=dict(sorted(files.items())),
        weights=weights,
        isa=options.isa,
        batches=tuple(one.batch for one in plans),
        layers=layers,
        code=instructions,
    )


def layer_of(step: plan.Step, one: plan.Plan, isa: str, threads: int, blocks: BlockCache) -> Layer:
    """A step of the plan ``one``, scheduled by the cost model, as reports would know it."""
    alone = threads if one.repeats == 1 else 1
    context = Context(one, Constants(), isa, alone, {}, Constants(), blocks)
    code = emit.emitter(step)(step, context)
    return _layer(_Function("", code, step, one.batch, one.repeats), threads)


def c_file(name: str) -> str:
    """A file of ``c/``."""
    return (SOURCES / name).read_text()


def _functions(
    one: plan.Plan, number: int, stores: tuple[Constants, Constants], options: Options
) -> list[_Function]:
    """The functions of ``one``, then those of its batched suffix.

    ``stores`` take the constants and the instructions.
    """
    constants, code = stores
    tuned = dict(options.tuned[number]) if options.tuned else {}
    threads = options.threads if one.repeats == 1 else 1
    early = Context(one, constants, options.isa, threads, tuned, code, options.blocks)
    works = [(step, early) for step in one.steps]
    if one.suffix is not None:
        late = replace(early, plan=one.suffix.plan, threads=options.threads)
        works += [(step, late) for step in one.suffix.plan.steps]
    return [
        _Function(
            f"pd_b{one.batch}_step_{n}",
            emit.emitter(step)(step, context),
            step,
            one.batch,
            context.plan.repeats,
        )
        for n, (step, context) in enumerate(works)
    ]


def _layer(function: _Function, threads: int) -> Layer:
    step, repeats = function.step, function.repeats
    kind, once, code = type(step).__name__, work(step), function.code
    todo = replace(once, flops=once.flops * repeats, bytes=once.bytes * repeats)
    # samples of a batch go to the threads whole
    cycles = round(code.cycles * (-(-repeats // threads)))
    weights: dict[str, Any] = {"kernel": code.kernel, "stored": code.stored, "dense": code.dense}
    return Layer(step.name, kind, code.choice, **asdict(todo), cycles=float(cycles), **weights)


# -- files of steps -------------------------------------------------------------------------------


def _into_files(functions: Iterable[_Function]) -> list[_File]:
    """The largest bundle first, each into the file that is the smallest so far."""
    bundles: dict[tuple[str, ...], list[_Function]] = {}
    for function in functions:
        bundles.setdefault(function.code.top or (function.name,), []).append(function)
    sizes = {key: _bundle_size(bundle) for key, bundle in bundles.items()}
    count = min(max(round(sum(sizes.values()) / FILE), 1), MAX_FILES)
    files = [_File() for _ in range(count)]
    for key in sorted(bundles, key=lambda key: -sizes[key]):  # stable: equal ones keep their order
        smallest = min(files, key=lambda file: file.size)
        smallest.functions += bundles[key]
        smallest.size += sizes[key]
    return [file for file in files if file.functions]


def _bundle_size(bundle: Sequence[_Function]) -> int:
    """Kernel instances are compiled once, bodies each."""
    return bundle[0].size + sum(len(function.code.body) for function in bundle[1:])


def _text(file: _File) -> str:
    headers = dict.fromkeys(h for f in file.functions for h in f.code.headers)
    tops = dict.fromkeys(top for f in file.functions for top in f.code.top)
    lines = ['#include "engine.h"', *(f'#include "{header}"' for header in headers), *tops]
    for function in file.functions:
        lines.append(f"\nPD_HIDDEN void {function.name}(const pd_work *w) {{\n(void)w;")
        lines.append(f"{function.code.body}\n}}")
    return "\n".join(lines) + "\n"


def closure(names: Sequence[str]) -> dict[str, str]:
    """These files of ``c/``, and those that they include."""
    texts: dict[str, str] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in texts:
            texts[name] = c_file(name)
            waiting += _INCLUDE.findall(texts[name])
    return texts


# -- tables ----------------------------------------------------------------------------------------


def _model(
    plans: Sequence[plan.Plan],
    functions: Sequence[_Function],
    weights: int,
    code: int,
    options: Options,
) -> str:
    scratch = max((function.code.scratch for function in functions), default=0)
    lines = ['#include "engine.h"']
    for one in plans:
        own = [function for function in functions if function.batch == one.batch]
        lines += [f"PD_HIDDEN void {function.name}(const pd_work *w);" for function in own]
        # a plan without steps would leave an empty list, which C does not know
        steps = ", ".join([*(function.name for function in own), "0"])
        names = ", ".join([*(c_string(function.step.name) for function in own), "0"])
        lines.append(f"static const pd_step steps_{one.batch}[] = {{{steps}}};")
        lines.append(f"static const char *const names_{one.batch}[] = {{{names}}};")
        for what, ports in (("input", one.inputs), ("output", one.outputs)):
            sizes = ", ".join(map(str, [*(_sample_bytes(port, one) for port in ports), 0]))
            lines.append(f"static const size_t {what}_step_{one.batch}[] = {{{sizes}}};")
    rows = ", ".join(_row(one, options.isa) for one in plans)
    lines.append(f"const pd_plan pd_plans[] = {{{rows}}};")
    lines.append(f"const size_t pd_scratch = {4 * (scratch + views.GUARD)};")
    if code:
        lines.append("extern PD_HIDDEN const unsigned char pd_code[];")
    lines.append(f"const pd_blob pd_programs = {{{'pd_code' if code else 0}, {code}}};")
    lines += tensor_tables("input", plans[0].inputs, options.inputs)
    lines += tensor_tables("output", plans[0].outputs, options.outputs)
    batches = ", ".join(str(one.batch) for one in plans)
    lines.append(f"static const int batches[] = {{{batches}}};")
    fields = {
        "abi": "PD_ABI",
        "version": c_string(options.version),
        "isa": c_string(options.isa),
        "inputs": len(plans[0].inputs),
        "input": "inputs",
        "outputs": len(plans[0].outputs),
        "output": "outputs",
        "batches": len(plans),
        "batch": "batches",
        "threads": options.threads,
        "arena": 4 * (max(one.arena for one in plans) + views.GUARD),
        "weights": weights,
    }
    record = "".join(f"    .{name} = {value},\n" for name, value in fields.items())
    lines.append(f"const pd_model pd_this_model = {{\n{record}}};")
    return "\n".join(lines) + "\n"


def _row(one: plan.Plan, isa: str) -> str:
    """The initialiser of the plan's ``pd_plan``."""
    arena, late, head, carry = 4 * (one.arena + views.GUARD), 0, 0, "{0}"
    if one.suffix is not None:
        h = one.suffix
        late, head = len(h.plan.steps), 4 * (h.plan.arena + views.GUARD)
        steps = f"{h.source}, {h.source_step}, {h.target}, {h.target_step}, {h.sample_step}"
        carry = f"{{{h.count}, {h.pixels}, {steps}}}"
    apart = len(one.steps)
    useful = max(one.repeats, useful_threads(one.steps, isa))
    counts = f"{one.batch}, {one.repeats}, {apart + late}, {apart}, {useful}"
    numbers = f"{counts}, {arena}, {head}, {carry}"
    tables = ", ".join(
        f"{name}_{one.batch}" for name in ("input_step", "output_step", "steps", "names")
    )
    return f"{{{numbers}, {tables}}}"


def _sample_bytes(port: plan.Port, one: plan.Plan) -> int:
    """From one sample to the next in the caller's array."""
    return math.prod(port.shape) * BYTES[port.dtype] // one.repeats


def tensor_tables(what: str, ports: Sequence[plan.Port], specs: Sequence[TensorSpec]) -> list[str]:
    """The table of inputs or outputs; a first dimension that has a name is the batch."""
    batched = {spec.name for spec in specs if spec.shape and isinstance(spec.shape[0], str)}
    lines, rows = [], []
    for number, port in enumerate(ports):
        shape = (-1, *port.shape[1:]) if port.name in batched else port.shape
        dims = ", ".join(map(str, [*shape, 0]))
        lines.append(f"static const int64_t {what}_{number}[] = {{{dims}}};")
        names = f"{c_string(port.name)}, {c_string(port.dtype)}"
        rows.append(f"{{{names}, {len(shape)}, {what}_{number}}}")
    lines.append(f"static const pd_tensor {what}s[] = {{{', '.join([*rows, '{0}'])}}};")
    return lines


def blob(name: str, file: str, data: bytes, section: str) -> str:
    """An object file with ``data``; the hash tells compilers that cache when it changes."""
    return f"""\
/* {file}: {len(data)} bytes, SHA-256 {hashlib.sha256(data).hexdigest()} */
__asm__(
    ".pushsection {section}\\n"
    ".balign 4096\\n"
    ".global {name}\\n"
    ".hidden {name}\\n"
    "{name}:\\n"
    ".incbin \\"{file}\\"\\n"
    ".balign 4096\\n"
    ".popsection\\n");
"""


def c_string(text: str) -> str:
    """``text`` as a string of C, whatever it holds."""
    plain = "".join(
        chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}"
        for byte in text.encode()
    )
    return f'"{plain}"'
