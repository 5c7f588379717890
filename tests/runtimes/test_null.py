from __future__ import annotations

import numpy as np
import pytest

from prunedeploy.core.errors import UserError
from prunedeploy.core.records import TensorSpec
from prunedeploy.runtimes.api import BuildOptions
from prunedeploy.runtimes.null import Null, NullSession

INPUTS = (TensorSpec("x", "float32", ("batch", 3, "h")),)
OUTPUTS = (TensorSpec("y", "float64", ("batch", "h", 2)), TensorSpec("z", "int64", ("k",)))


def test_zeros_of_the_right_shape_and_type():
    session = NullSession(INPUTS, OUTPUTS)
    found = session.run({"x": np.ones((5, 3, 4), np.float32)})
    assert {name: (a.shape, a.dtype.name, bool(a.any())) for name, a in found.items()} == {
        "y": ((5, 4, 2), "float64", False),
        "z": ((1,), "int64", False),
    }


def test_it_checks_inputs_as_every_runtime_does():
    with pytest.raises(UserError, match="takes float32"):
        NullSession(INPUTS, OUTPUTS).run({"x": np.ones((5, 3, 4))})


def test_it_builds_nothing(tmp_path):
    from prunedeploy.targets import by_name

    built = Null().build(tmp_path / "m.onnx", by_name("host"), tmp_path, BuildOptions())
    assert built.files == ()
    assert list(tmp_path.iterdir()) == []
