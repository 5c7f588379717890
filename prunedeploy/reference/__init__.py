"""The kernels of the reference interpreter: every operator of ONNX, version by version.

One module a family of operators, each with a ``TABLE`` that says from which version of the
operator on which function computes it. ``registry`` joins the tables and is the one place that
decides which function a node of a given opset gets.
"""
