"""All headers of kernels in one file: no name has two meanings."""

from __future__ import annotations

import re
import subprocess

import pytest
from kernels import C_FOLDER, FLAGS, ISA, supported

from prunedeploy.runtimes.sparse.codegen.project import SOURCES
from prunedeploy.runtimes.sparse.toolchain import compile as compiling
from prunedeploy.targets import by_name

# Included once an instance, with macros that say which: from the emitters, not by themselves.
TEMPLATE = re.compile(r"^#undef PD_(NAME|AT|KIND)\b", re.MULTILINE)
OTHERS = {
    "engine.h",
    "pd_engine.h",
    "processors.h",
    "threads.h",
    "matmul.h",
    "pack.h",
}
ROWS = """
#define PD_NAME rows
#define PD_TILE_ROWS 1
#define PD_TILE_WIDTH_X8 4
#define PD_PITCH 0
#define PD_LOG_UNIT 4
#include "rows.h"
"""


@pytest.mark.parametrize("isa", supported())
def test_no_name_has_two_meanings(isa, tmp_path):
    texts = {path.name: path.read_text() for path in SOURCES.glob("*.h")}
    plain = [name for name in sorted(texts) if not TEMPLATE.search(texts[name])]
    names = [name for name in plain if name not in OTHERS]
    assert {"conv.h", "norm.h", "pool.h", "softmax.h", "functions.h"} <= set(names)
    for order in (names, names[::-1]):
        includes = "".join(f'#include "{name}"\n' for name in order)
        (tmp_path / "all.c").write_text(f'#include "pd.h"\n{includes}{ROWS}')
        command = [*compiling.toolchain(by_name("host")).command, *FLAGS, *ISA[isa], "-O0"]
        unused = ["-Wno-unused-macros", "-fsyntax-only", "-I", C_FOLDER]
        done = subprocess.run(
            [*command, *unused, "all.c"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
