"""The Makefile of a C project, and a page on how to build and use it."""

from __future__ import annotations

from prunedeploy.runtimes.sparse.codegen.project import CODE, GENERAL, WEIGHTS, Project
from prunedeploy.runtimes.sparse.isa import ISAS
from prunedeploy.runtimes.sparse.payload import HEADER, LIBRARY
from prunedeploy.runtimes.sparse.toolchain.compile import COMMON, LINK, OPTIMISE
from prunedeploy.targets import Target

_MAKEFILE = """\
# {library}: the engine. Only the step files may use the instructions of {isa}; the others run
# anywhere, and say so where the processor lacks them.
CC ?= cc
CFLAGS = {optimise}
ISA = {flags}
ALL = {common}

OBJECTS = {objects}

{library}: $(OBJECTS)
\t$(CC) -o $@ $(OBJECTS) {link} -lm

steps_%.o: steps_%.c $(wildcard *.h)
\t$(CC) $(ALL) $(CFLAGS) $(ISA) -c $< -o $@

%.o: %.c $(wildcard *.h)
\t$(CC) $(ALL) $(CFLAGS) -c $< -o $@

weights.o: {weights}
{code}
clean:
\trm -f $(OBJECTS) {library}

.PHONY: clean
"""

_README = """\
# A network as C

Written by prunedeploy for {target} ({arch}, {isa}), batch sizes {batches}.

    make          # -> {library}; make CC=clang, or a cross compiler

`{header}` is the whole interface. Link the library, or the sources ({sources} and {blobs})
into your own program. It needs the C library, libm and POSIX threads, and nothing else.

- `engine.c`, `threads.h`, `adaptive.h`, `processors.h`, `pages.h`: sessions, threads, memory. The
  same in every project.
- `model.c`: the tables of this network. `steps_*.c`: a function a layer.
- `weights.c`, `{weights}`: all constants. They belong together.
{code}- `layers.json`: what every layer is and has to do.
"""

_CODE = f"""\
- `code.c`, `{CODE}`: the code generated for layers of the kernel `jit`: an instruction for every
  weight that is not zero.
"""


def makefile(project: Project, target: Target) -> str:
    """The Makefile; it builds what ``compile.build_library`` builds."""
    objects = [name.replace(".c", ".o") for name in project.sources]
    core = [f"-mcpu={target.cpu}"] if target.cpu else []
    return _MAKEFILE.format(
        library=LIBRARY,
        isa=project.isa,
        optimise=" ".join(OPTIMISE),
        flags=" ".join([*ISAS[project.isa].flags, *core]),
        common=" ".join(COMMON),
        objects=" ".join(objects),
        link=" ".join(LINK),
        weights=WEIGHTS,
        code=f"code.o: {CODE}\n" if project.code else "",
    )


def readme(project: Project, target: Target) -> str:
    """The page on how to build and use the project."""
    general = [name for name in GENERAL if name in project.files]
    return _README.format(
        target=target.name,
        arch=target.arch,
        isa=project.isa,
        batches=", ".join(map(str, project.batches)),
        library=LIBRARY,
        header=HEADER,
        sources=", ".join(f"`{name}`" for name in (*general, "steps_*.c")),
        weights=WEIGHTS,
        blobs=f"`{WEIGHTS}`" + (f", `{CODE}`" if project.code else ""),
        code=_CODE if project.code else "",
    )
