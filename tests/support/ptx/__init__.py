"""A machine for PTX in NumPy: runs the text of kernels, and checks what a GPU would not tell."""
