"""Predicts how long a model takes on a machine that is not at hand; nothing is measured."""
