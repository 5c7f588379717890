"""Measurements: benchmarks, memory, profiles, the environment, labelled data."""
