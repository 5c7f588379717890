"""The table of kernels: every record is complete, and computes its test cases."""

from __future__ import annotations

from dataclasses import replace

import pytest
from kernel_cases import CASES
from kernels import check, supported

from prunedeploy.runtimes.sparse.codegen.project import c_file
from prunedeploy.runtimes.sparse.isa import ISAS
from prunedeploy.runtimes.sparse.kernels.kernel import Scope
from prunedeploy.runtimes.sparse.kernels.table import KERNELS

WINOGRAD_ERROR = 2e-5  # of the largest result: transforms round, too


def test_every_kernel_has_test_cases() -> None:
    assert CASES.keys() == KERNELS.keys()


@pytest.mark.parametrize("name", KERNELS)
def test_schedules_of_test_cases_are_what_the_kernel_can(name: str) -> None:
    kernel = KERNELS[name]
    assert kernel.name == name
    assert c_file(kernel.header)
    for layer, schedule in CASES[name]:
        assert schedule.kernel == name
        assert schedule.packing in kernel.packings
        assert schedule.rows <= kernel.max_rows
        assert kernel.cycles(layer.step, schedule, Scope(ISAS["avx512"], 2)) > 0
        assert 0 < kernel.products(layer.step, schedule) <= 1
        assert kernel.describe(schedule).startswith(name)


@pytest.mark.parametrize("name", KERNELS)
def test_cases_agree_with_the_interpreter(name: str) -> None:
    kernel, isa = KERNELS[name], supported()[0]
    if not kernel.suits_isa(ISAS[isa]):
        pytest.skip(f"{isa} has no kernel {name}")
    cases = [layer.case(schedule, seed) for seed, (layer, schedule) in enumerate(CASES[name])]
    if kernel.winograd:
        cases = [replace(case, tolerance=WINOGRAD_ERROR) for case in cases]
    check(cases, isa)
