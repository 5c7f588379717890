"""Grids of recipes, on one machine or on a Ray cluster: what is missing is what runs.

A row is a function of its recipe, the data and the version of prunedeploy, and lies in a file of
its own, ``rows/<key>.json``. First all networks are trained, side by side; then each row that
measures has its machine for itself.
"""
