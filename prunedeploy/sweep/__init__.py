"""Grids of recipes on one machine or on a cluster."""
