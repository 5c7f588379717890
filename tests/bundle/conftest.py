"""One model, and bundles of it for another kind of machine and for this one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from engines import network

from prunedeploy.bundle import archive
from prunedeploy.bundle.write import write_bundle


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return network(tmp_path_factory.mktemp("model") / "net.onnx")


@pytest.fixture(scope="session")
def nano(model, tmp_path_factory):
    """A bundle for a machine of another kind."""
    return write_bundle(model, "jetson", tmp_path_factory.mktemp("nano") / "net.bundle")


@pytest.fixture(scope="session")
def near(model, tmp_path_factory):
    """A bundle whose sparse engine runs here; tests copy it before they change it."""
    return write_bundle(model, "x86-avx2", tmp_path_factory.mktemp("near") / "net.bundle", batch=2)


@pytest.fixture
def copy(near, tmp_path):
    return Path(shutil.copytree(near.path, tmp_path / "copy"))


@pytest.fixture(scope="session")
def packed(near):
    path = near.path.with_name("net.bundle.tar.gz")
    archive.pack(near.path, path, "net.bundle")
    return path
