"""Analyses of graphs that passes share: axes, constants, liveness, coupling, ranges."""
