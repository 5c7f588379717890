"""C compilers, the Makefile of a C project, shared libraries."""
