"""The sparse runtime: a network compiled for its zeros, into one library without dependencies.

importer   ONNX model -> graph of layers
plan       graph -> steps on memory laid out in advance
isa        the instruction sets, one record each
kernels    the kernels for convolutions and linear layers, one record each (table.py)
schedule   the schedule of every layer, by the cost model or by measuring
codegen    plan -> C, with the templates of c/
toolchain  C -> shared library, with gcc, clang or ziglang
engine     a session on it, NumPy in and out (session.py)
"""
