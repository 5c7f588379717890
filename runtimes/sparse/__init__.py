"""The sparse runtime: a network compiled for its zeros, into one library without dependencies.

lower    ONNX model -> plan: steps on memory laid out in advance    lower/, memory.py, plan.py
choose   how to compute each layer, by a model or by measuring      choose.py, tune.py
emit     plan -> C                                                  emit/, c/
compile  C -> shared library, with gcc, clang or ziglang            compile.py
open     a session on it, NumPy in and out                          engine.py, session.py
"""
