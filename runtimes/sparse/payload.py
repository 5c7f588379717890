"""The files of a sparse engine, by the names that they have in its folder."""

from __future__ import annotations

LIBRARY = "model.so"  # the network as a shared library
PTX = "model.ptx"  # of an engine for a GPU: its kernels, which are in the library as well
LAYERS = "layers.json"  # its layers: names, kinds, schedules, work
HEADER = "pd_engine.h"  # the library's C interface, as it is called in a C project
MODEL_HEADER = "model.h"  # the same in an engine
LOADER = "session.py"  # opens the engine with NumPy alone
