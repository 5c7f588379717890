"""The kernels: packed weights and generated machine code."""
