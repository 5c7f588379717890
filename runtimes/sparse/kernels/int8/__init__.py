"""Layers on bytes: sums of products of four channels at a time, int32 and so in any order exact.

grouping   which columns of a weight matrix are multiplied together
packing    a layer's weights as the kernel reads them
"""
