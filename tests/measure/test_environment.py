from __future__ import annotations

import datetime
import platform

from prunedeploy.measure.environment import environment


def test_the_environment_says_what_was_measured_on():
    found = environment()
    assert {"date", "cpu", "cores", "os", "python", "prunedeploy", "numpy"} <= set(found)
    assert all(found.values())
    assert found["python"] == platform.python_version()
    assert datetime.datetime.fromisoformat(found["date"]).tzinfo is not None
