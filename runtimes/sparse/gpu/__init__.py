"""Sparse networks on NVIDIA GPUs: a plan becomes PTX and a table of launches."""
