"""How busy the machine is: from ticks, and nothing where the system does not say."""

from __future__ import annotations

import threading

import pytest

from prunedeploy.measure.busy import busy_share


def test_the_share_of_ticks_that_were_used(tmp_path):
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 0 100 800 0 0 0 0 0 0\n")
    timer = threading.Timer(0.1, stat.write_text, ["cpu  130 0 110 860 0 0 0 0 0 0\n"])
    timer.start()
    assert busy_share(0.5, stat) == pytest.approx(0.4)  # 40 of 100 ticks


@pytest.mark.parametrize("text", ["", "cpu\n", "cpu  a b c d e f g h\n", "cpu  1 0 1 8 0 0 0 0\n"])
def test_what_says_nothing(tmp_path, text):
    stat = tmp_path / "stat"
    stat.write_text(text)
    assert busy_share(0.0, stat) is None
    assert busy_share(0.0, tmp_path / "missing") is None


def test_here():
    share = busy_share(0.05)
    assert share is None or 0 <= share <= 1
